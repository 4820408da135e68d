"""Settings, frozen dataclasses, from what files say."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import dacite

from lewm_agent.tools.checks import require

SettingsT = TypeVar("SettingsT")


def settings_from_dict(kind: type[SettingsT], values: dict[str, Any]) -> SettingsT:
    """A configuration from nested dictionaries.

    Raises:
        ValueError: unknown keys, wrong types, or numbers that are not finite.
    """
    _check_finite(values)
    try:
        return dacite.from_dict(kind, values, dacite.Config(strict=True, type_hooks={float: _number}))
    except (dacite.DaciteError, TypeError, AttributeError, OverflowError) as error:  # the last three of wrong types
        raise ValueError(f"not a valid agent configuration: {error}") from error


def _number(value: Any) -> Any:
    """JSON writes 1.0 as 1; whatever is no number is left to the check of types, which names the setting."""
    require(not isinstance(value, bool), f"{value} stands where a number belongs")
    return float(value) if isinstance(value, int) else value


def _check_finite(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _check_finite(value)
        elif isinstance(value, float):
            require(math.isfinite(value), f"{name} must be finite, got {value}")
