"""Settings, frozen dataclasses: what they are made of, from files or from whoever calls."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

import dacite

from lewm_agent.tools.checks import require

SettingsT = TypeVar("SettingsT")


def settings_from_dict(kind: type[SettingsT], values: dict[str, Any]) -> SettingsT:
    """A configuration from nested dictionaries.

    Raises:
        ValueError: unknown keys or wrong types.
    """
    try:
        return dacite.from_dict(kind, values, dacite.Config(strict=True, type_hooks={float: _number}))
    except (dacite.DaciteError, TypeError, AttributeError, OverflowError) as error:  # the last three of wrong types
        raise ValueError(f"not a valid agent configuration: {error}") from error


def _number(value: Any) -> Any:
    """JSON writes 1.0 as 1; whatever is no number is left to the check of types, which names the setting."""
    require(not isinstance(value, bool), f"{value} stands where a number belongs")
    return float(value) if isinstance(value, int) else value


def require_finite(settings: Any) -> None:
    """Raise ``ValueError`` if a number in these settings, or in settings inside them, is not finite."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            require_finite(value)
        elif isinstance(value, float):
            require(math.isfinite(value), f"{field.name} must be finite, got {value}")
