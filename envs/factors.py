"""What all factors of variation have in common: checked values, and copies with some of them changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Factors:
    """Base of an environment's factors of variation: a frozen dataclass whose fields all have defaults.

    Fields named ``..._color`` hold an RGB color, 0 to 255, and are checked here; a subclass checks the others in its
    own ``__post_init__``.

    Raises:
        ValueError: if a value is outside its range.
    """

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
