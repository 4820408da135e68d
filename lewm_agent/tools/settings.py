"""Settings, frozen dataclasses, from what files say."""

from __future__ import annotations

from typing import Any, TypeVar

import dacite

SettingsT = TypeVar("SettingsT")


def settings_from_dict(kind: type[SettingsT], values: dict[str, Any]) -> SettingsT:
    """A configuration from nested dictionaries. Raises ``ValueError`` for unknown keys and wrong types."""
    try:
        return dacite.from_dict(kind, values, dacite.Config(strict=True, cast=[float]))
    except dacite.DaciteError as error:
        raise ValueError(f"not a valid agent configuration: {error}") from error
