"""Objectives by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from lewm_agent.checks import named

BUILT_IN = ("lewm", "pldm")
"""Each in a file of its name, which registers it; read when an objective is first asked for."""


@dataclass(frozen=True)
class Entry:
    """One objective: its settings, a frozen dataclass (``ObjectiveSettings``), and the module made from them."""

    settings: type[Any]
    objective: type[Any]


_entries: dict[str, Entry] = {}


def register(name: str, settings: type[Any], objective: type[Any]) -> None:
    """Make an objective known: ``make_agent(name, env)`` then trains on it, and checkpoints name it.

    Args:
        name: by which commands and checkpoints call it.
        settings: frozen dataclass derived from ``lewm_agent.config.ObjectiveSettings``; all fields have defaults.
        objective: derived from ``lewm_agent.objectives.base.Objective``; made with (settings, ModelConfig).

    Raises:
        ValueError: the name or the settings are taken.
    """
    taken = name in BUILT_IN and not settings.__module__.startswith("lewm_agent.")
    if taken or name in _entries or any(entry.settings is settings for entry in _entries.values()):
        raise ValueError(f"objective `{name}`: its name or its settings {settings.__name__} are registered already")
    _entries[name] = Entry(settings, objective)


def entries() -> dict[str, Entry]:
    """All objectives by name."""
    for name in BUILT_IN:
        importlib.import_module(f"lewm_agent.objectives.{name}")
    return dict(_entries)


def find(name: str) -> Entry:
    """The objective called ``name``. Raises ``ValueError`` for an unknown one."""
    return named(name, entries(), "objective")


def name_of(settings: object) -> str:
    """Name of the objective with these settings. Raises ``ValueError`` if none is registered."""
    for name, entry in entries().items():
        if entry.settings is type(settings):
            return name
    raise ValueError(f"{type(settings).__name__} belongs to no registered objective; register it first")
