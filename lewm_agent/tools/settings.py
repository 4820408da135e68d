"""Settings, frozen dataclasses: what they are made of, from files or from whoever calls."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import dacite

from lewm_agent.tools.checks import named, require

SettingsT = TypeVar("SettingsT")


class OfSeveralKinds:
    """Base of settings that take each other's place, as those of searches do; a file names their ``kind`` too.

    What derives from it directly is one family; its kinds have a default for every field, and none called ``kind``.
    """

    family: ClassVar[str]
    """What its kinds are called in sentences."""

    @classmethod
    def kinds(cls) -> Mapping[str, type[Any]]:
        """All kinds of the family by name."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """By which commands and files call it. Raises ``ValueError`` if it is not registered."""
        for name, known in self.kinds().items():
            if known is type(self):
                return name
        raise ValueError(f"{type(self).__name__} belongs to no registered {self.family}; register it first")


def settings_to_dict(settings: Any) -> dict[str, Any]:
    """Plain nested dictionaries, ready for JSON; inverse of :func:`settings_from_dict`."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    nested = {name: settings_to_dict(v) if dataclasses.is_dataclass(v) else v for name, v in values.items()}
    return {"kind": settings.kind, **nested} if isinstance(settings, OfSeveralKinds) else nested


def settings_from_dict(kind: type[SettingsT], values: dict[str, Any]) -> SettingsT:
    """A configuration from nested dictionaries.

    In place of settings of several kinds the name of a kind may stand, for its defaults.

    Raises:
        ValueError: unknown keys, wrong types, or a kind that is not registered.
    """
    hooks = {family: functools.partial(_of_its_kind, family) for family in OfSeveralKinds.__subclasses__()}
    try:
        return dacite.from_dict(kind, values, dacite.Config(strict=True, type_hooks={float: _number, **hooks}))
    except (dacite.DaciteError, TypeError, AttributeError, OverflowError) as error:  # the last three of wrong types
        raise ValueError(f"not a valid agent configuration: {error}") from error


def _of_its_kind(family: type[OfSeveralKinds], given: Any) -> Any:
    if isinstance(given, family):
        return given
    settings = {"kind": given} if isinstance(given, str) else given
    if not isinstance(settings, Mapping) or not isinstance(settings.get("kind"), str):
        raise ValueError(f"{family.family} must be an object of settings with its name under `kind`, got {given!r}")
    settings = dict(settings)
    name = settings.pop("kind")
    kind = named(name, family.kinds(), family.family)
    known = [field.name for field in dataclasses.fields(kind)]
    for setting in settings:
        require(
            setting in known,
            f"{family.family} `{name}` has no setting {setting}; it has {', '.join(known) or 'none'}",
        )
    return settings_from_dict(kind, settings)


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


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dictionaries as pairs of a dotted name and a value that JSON holds."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value
