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
        return dacite.from_dict(kind, values, dacite.Config(strict=True, cast=[float]))
    except (dacite.DaciteError, TypeError, AttributeError, OverflowError) as error:  # the last three of wrong types
        raise ValueError(f"not a valid agent configuration: {error}") from error


def _check_finite(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _check_finite(value)
        elif isinstance(value, float):
            require(math.isfinite(value), f"{name} must be finite, got {value}")
