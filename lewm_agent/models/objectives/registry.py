"""Objectives by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lewm_agent.tools.checks import named

BUILT_IN = ("lewm", "pldm", "ema", "slow")
"""Each in a file of its name, which registers it when the package is imported."""
OTHER_AGENTS = ("dino_wm", "gcbc", "gcivl", "gciql")
"""Agents with models of their own, whose names no objective can have."""


@dataclass(frozen=True)
class Entry:
    """One objective: its settings, a frozen dataclass (``ObjectiveSettings``), and the module made from them."""

    settings: type[Any]
    objective: type[Any]


_entries: dict[str, Entry] = {}


def register(name: str, settings: type[Any], objective: type[Any]) -> None:
    """Make an objective known: ``make_agent(name, env)`` then trains on it, and checkpoints name it.

    Registering a name again replaces what it stood for, so that a notebook's cell can be run twice.

    Args:
        name: by which commands and checkpoints call it.
        settings: frozen dataclass derived from :class:`~lewm_agent.models.objectives.base.ObjectiveSettings`; all
            fields have defaults, and none is called ``kind``, under which files keep the name.
        objective: derived from ``lewm_agent.models.objectives.base.Objective``; made with (settings, ModelConfig).

    Raises:
        ValueError: the name is that of a built-in objective, or the settings belong to another one.
    """
    built_in = settings.__module__.split(".")[0] == "lewm_agent"
    if name in OTHER_AGENTS or (name in BUILT_IN and not built_in):
        raise ValueError(f"`{name}` is the name of an agent that comes with the package; choose another one")
    if any(entry.settings is settings for other, entry in _entries.items() if other != name):
        raise ValueError(f"{settings.__name__} are the settings of another objective; derive a class of its own")
    _entries[name] = Entry(settings, objective)


def entries() -> dict[str, Entry]:
    """All objectives by name."""
    return dict(_entries)


def find(name: str) -> Entry:
    """The objective called ``name``. Raises ``ValueError`` for an unknown one."""
    return named(name, entries(), "objective")
