"""Checks of settings and names, with errors that say what is allowed."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Collection, Iterable, Mapping
from typing import Any, SupportsIndex, TypeVar

ValueT = TypeVar("ValueT")


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError`` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def require_one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise ``ValueError`` unless the setting ``name`` has one of the allowed values."""
    require(value in allowed, f"{name} must be {' or '.join(allowed)}, got {value!r}")


def whole_number(name: str, value: SupportsIndex, least: int = 0) -> int:
    """``value``, a Python or NumPy integer, as an ``int``. ``ValueError`` if it is none, below ``least`` or huge."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    require(
        number >= least and not isinstance(value, bool),
        f"{name} must be a whole number of at least {least}, got {value!r}",
    )
    require(number < 2**63, f"{name} must be below 2**63, got {value!r}")
    return number


def objects(name: str, given: Any, methods: Collection[str]) -> tuple[Any, ...]:
    """What was given as a list of objects with these methods. Raises ``TypeError`` for anything else."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list, got {given!r}")
    held = tuple(given)
    for one in held:
        if isinstance(one, type):
            raise TypeError(f"{name} must hold objects, got the class {one.__name__}: give {one.__name__}(...)")
        if missing := [method for method in methods if not callable(getattr(one, method, None))]:
            raise TypeError(f"{name} must hold objects with {', '.join(missing)}, got {one!r}")
    return held


def json_object(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` as it would come back from JSON: tuples are lists, single numbers of NumPy are numbers.

    Raises:
        ValueError: something in there would not come back as it is, such as an array, NaN or a key that is no text.
    """
    return {key: _plain(f"{name} {key}", inner) for key, inner in value.items()}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, inner) for inner in value]
    value = value.item() if getattr(value, "shape", None) == () else value  # of NumPy
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"{name} is {type(value).__name__} {value!r}, which cannot be recorded as JSON")


def named(name: str, choices: Mapping[str, ValueT], kind: str) -> ValueT:
    """``choices[name]``, or a ``ValueError`` that suggests the closest names."""
    if name in choices:
        return choices[name]
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean `{close[0]}`?" if close else ""
    raise ValueError(f"no {kind} `{name}` (there are: {', '.join(sorted(choices))}){hint}")
