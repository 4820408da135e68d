"""What all factors of variation have in common: checked values, and copies with some of them changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]

MOST_CHANGE = 60
"""Largest change of a color's channel in another look, of 255; chosen by eye."""
LEAST_CONTRAST = 0.5
"""Two colors of a picture stay at least this share of their distance apart, so that all is still told apart."""


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

    def __post_init__(self) -> None:
        """Check the colors."""
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

    def other_look(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw changes after which all looks different and moves as before, as JSON has them.

        Every channel of every color changes by a whole number, uniform in [-60, 60], and turns back at 0 and 255 (white
        always gets darker); all are drawn again until every two colors are at least half as far apart as before.
        ``drawn_sizes`` are uniform in their bounds.
        """
        names = [field.name for field in fields(self) if field.name.endswith("_color")]
        colors = _other_colors(np.array([getattr(self, name) for name in names]), rng)
        sizes = {name: float(rng.uniform(*bounds)) for name, bounds in self.drawn_sizes.items()}
        return {**dict(zip(names, colors.tolist(), strict=True)), **sizes}

    def _check_number(self, name: str, allowed: tuple[float, float]) -> None:
        """Make a field a float, if it is a number in the ``allowed`` range, ends included."""
        value, (low, high) = getattr(self, name), allowed
        is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
        object.__setattr__(self, name, float(value))


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
