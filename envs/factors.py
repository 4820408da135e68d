"""What all factors of variation have in common: checked values, and copies with some of them changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]
Blot = tuple[float, float, float, int, int, int]
"""Something flat in the background that does not matter: x, y, half its side, in sides of the picture, and its RGB."""

Look = Literal["colors", "light", "camera", "clutter"]
LOOKS: tuple[Look, ...] = get_args(Look)
"""What can be other than usual in a look."""
MOST_CHANGE = 60
"""Largest change of a color's channel in another look, of 255; chosen by eye."""
LEAST_CONTRAST = 0.5
"""Two colors of a picture stay at least this share of their distance apart, so that all is still told apart."""
BRIGHTNESS, SLOPE = (0.6, 1.2), 0.25
"""In another light: brightness, and how much brighter than the middle the right and the lower edge are, either way."""
SHIFT, ZOOM, TURN = 0.04, (0.94, 1.06), math.radians(4.0)
"""Of another camera: sides of the picture along either axis, and rad, either way."""
MOST_BLOTS = 8
BLOTS, BLOT_SIZE, BLOT_CONTRAST = 4, (0.02, 0.05), 80.0
"""Clutter: how many blots, half their sides, and how far their colors are from those of all things."""


@dataclass(frozen=True)
class Factors:
    """Base of an environment's factors of variation: a frozen dataclass whose fields all have defaults.

    Fields named ``..._color`` hold an RGB color, 0 to 255, and are checked here; a subclass checks the others in its
    own ``__post_init__``.

    Raises:
        ValueError: if a value is outside its range.
    """

    drawn_sizes: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Lowest and highest value, in another look, of sizes that only the picture shows."""

    brightness: float = 1.0
    """Of the whole picture, 0.1 to 3."""
    light_slope: tuple[float, float] = (0.0, 0.0)
    """How much brighter the right and the lower edge are than the middle, -0.9 to 0.9; the opposite ones are darker."""
    camera_shift: tuple[float, float] = (0.0, 0.0)
    """How far all moves to the right and down, in sides of the picture, -0.5 to 0.5."""
    camera_zoom: float = 1.0
    """How much larger all is, 0.5 to 2."""
    camera_turn: float = 0.0
    """How far all is turned clockwise about the middle, rad, -pi to pi."""
    clutter: tuple[Blot, ...] = ()
    """Blots in the background."""

    def __post_init__(self) -> None:
        """Check the colors and what all worlds have in common."""
        self._check_number("brightness", (0.1, 3.0))
        self._check_number("camera_zoom", (0.5, 2.0))
        self._check_number("camera_turn", (-math.pi, math.pi))
        for name, most in (("light_slope", 0.9), ("camera_shift", 0.5)):
            object.__setattr__(self, name, checked_numbers(name, getattr(self, name), 2, (-most, most)))
        object.__setattr__(self, "clutter", _checked_blots(self.clutter))
        for field in fields(self):
            if field.name.endswith("_color"):
                object.__setattr__(self, field.name, _checked_color(field.name, getattr(self, field.name)))

    @classmethod
    def from_given(cls, given: Self | Mapping[str, Any] | None) -> Self:
        """Return what a constructor was given: all factors, a mapping with some of them, or ``None``.

        Raises:
            ValueError: if it is none of these, for an unknown factor or a value outside its range.
        """
        return given if isinstance(given, cls) else cls().changed(checked_mapping("factors", given))

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with some factors replaced.

        Raises:
            ValueError: for an unknown factor or a value outside its range.
        """
        known = [field.name for field in fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise ValueError(f"unknown factor {unknown[0]!r}; the factors are {', '.join(known)}")
        return replace(self, **changes)

    @property
    def camera(self) -> tuple[float, float, float, float]:
        """Shift to the right and down, zoom and turn; :data:`USUAL_CAMERA` unless changed."""
        return (*self.camera_shift, self.camera_zoom, self.camera_turn)

    def other_look(self, rng: np.random.Generator, what: Look = "colors") -> dict[str, Any]:
        """Draw changes after which all looks different and moves as before, as JSON has them.

        Args:
            rng: to draw from.
            what: is different: colors (:meth:`other_colors`), light, camera or clutter.
        """
        return _DRAWS[what](self, rng)

    def other_colors(self, rng: np.random.Generator) -> dict[str, Any]:
        """Other colors and sizes, as JSON has them.

        Every channel of every color changes by a whole number, uniform in [-60, 60], and turns back at 0 and 255 (white
        always gets darker); all are drawn again until every two colors are at least half as far apart as before.
        ``drawn_sizes`` are uniform in their bounds.
        """
        names = [field.name for field in fields(self) if field.name.endswith("_color")]
        colors = _other_colors(np.array([getattr(self, name) for name in names]), rng)
        sizes = {name: float(rng.uniform(*bounds)) for name, bounds in self.drawn_sizes.items()}
        return {**dict(zip(names, colors.tolist(), strict=True)), **sizes}

    def other_light(self, rng: np.random.Generator) -> dict[str, Any]:
        """Another brightness, and brighter towards some side, uniform in ``BRIGHTNESS`` and +-``SLOPE``."""
        return {"brightness": float(rng.uniform(*BRIGHTNESS)), "light_slope": rng.uniform(-SLOPE, SLOPE, 2).tolist()}

    def other_camera(self, rng: np.random.Generator) -> dict[str, Any]:
        """Another camera, uniform in +-``SHIFT``, ``ZOOM`` and +-``TURN``."""
        shift = rng.uniform(-SHIFT, SHIFT, 2).tolist()
        return {
            "camera_shift": shift,
            "camera_zoom": float(rng.uniform(*ZOOM)),
            "camera_turn": float(rng.uniform(-TURN, TURN)),
        }

    def other_clutter(self, rng: np.random.Generator) -> dict[str, Any]:
        """Blots anywhere, uniform in ``BLOT_SIZE``, of any colors that nothing else nearly has."""
        names = [field.name for field in fields(self) if field.name.endswith("_color")]
        known = np.array([getattr(self, name) for name in names])
        blots: list[list[float]] = []
        while len(blots) < BLOTS:
            color = rng.integers(256, size=3)
            place, half = rng.uniform(0.05, 0.95, 2), rng.uniform(*BLOT_SIZE)
            if np.linalg.norm(known - color, axis=1).min() >= BLOT_CONTRAST:
                blots.append([*place.tolist(), float(half), *color.tolist()])
        return {"clutter": blots}

    def _check_number(self, name: str, allowed: tuple[float, float]) -> None:
        """Make a field a float, if it is a number in the ``allowed`` range, ends included."""
        value, (low, high) = getattr(self, name), allowed
        is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
        object.__setattr__(self, name, float(value))


_DRAWS: Mapping[Look, Callable[[Factors, np.random.Generator], dict[str, Any]]] = {
    "colors": lambda factors, rng: factors.other_colors(rng),
    "light": lambda factors, rng: factors.other_light(rng),
    "camera": lambda factors, rng: factors.other_camera(rng),
    "clutter": lambda factors, rng: factors.other_clutter(rng),
}
USUAL_CAMERA = (0.0, 0.0, 1.0, 0.0)


def checked_numbers(name: str, value: Any, count: int, allowed: tuple[float, float]) -> tuple[float, ...]:
    """``value`` as floats, if it is so many numbers in the ``allowed`` range. Raises ``ValueError`` otherwise."""
    numbers, (low, high) = np.asarray(value), allowed
    if numbers.shape != (count,) or numbers.dtype.kind not in "iuf" or not ((numbers >= low) & (numbers <= high)).all():
        raise ValueError(f"{name} must be {count} numbers from {low:g} to {high:g}, got {value!r}")
    return tuple(numbers.astype(float).tolist())


def checked_mapping(what: str, value: Any) -> Mapping[str, Any]:
    """Return ``value``, a mapping of factor names to values or ``None`` for none, as a mapping.

    Raises:
        ValueError: if it is something else; the message calls it ``what``.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{what} must be a mapping of factor names to values, got {value!r}")
    return value or {}


def _checked_color(name: str, value: Any) -> Color:
    color = np.asarray(value)
    if color.shape != (3,) or color.dtype.kind not in "iu" or color.min() < 0 or color.max() > 255:
        raise ValueError(f"{name} must be three integers from 0 to 255, got {value!r}")
    red, green, blue = color.tolist()
    return red, green, blue


def _checked_blots(value: Any) -> tuple[Blot, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MOST_BLOTS:
        raise ValueError(f"clutter must be a list of at most {MOST_BLOTS} blots, got {value!r}")
    blots: list[Blot] = []
    for blot in value:
        if not isinstance(blot, Sequence) or len(blot) != 6:
            raise ValueError(f"a blot of clutter must be x, y, half its side, and three of its color, got {blot!r}")
        x, y, half = checked_numbers("x, y and half side of a blot", blot[:3], 3, (0.0, 1.0))
        blots.append((x, y, half, *_checked_color("color of a blot", tuple(blot[3:]))))
    return tuple(blots)


def _other_colors(colors: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Other colors (N, 3) that keep their contrasts."""
    while True:
        change = rng.integers(-MOST_CHANGE, MOST_CHANGE, size=colors.shape, endpoint=True)
        changed: NDArray[np.int64] = 255 - np.abs(255 - np.abs(colors + change))
        if (_contrasts(changed) >= LEAST_CONTRAST * _contrasts(colors)).all():
            return changed


def _contrasts(colors: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distances (N, N) between colors (N, 3)."""
    return np.linalg.norm(colors[:, None] - colors, axis=-1)
