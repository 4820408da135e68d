"""The named presets of planners.

``paper`` has the released settings; ``docs/guide/choosing_a_planner.md`` tells which to take.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from lewm_agent.models.clip import ClipConfig
from lewm_agent.planning import ICEM, MPPI, Gradient, Mixture
from lewm_agent.planning.settings import Metric, PlannerConfig, Waypoints
from lewm_agent.tools.checks import named
from lewm_agent.tools.settings import settings_to_dict

PLANNERS: dict[str, PlannerConfig] = {
    "paper": PlannerConfig(),
    "small": PlannerConfig(
        samples=64,
        elites=8,
        iterations=4,
        execute=1,
        history=3,
        cost="best",
        noise_correlation=0.8,
        clip_actions=True,
        warm_start=True,
    ),
}
PLANNERS["slow"] = dataclasses.replace(PLANNERS["small"], metric="slow")
for _search in (ICEM(), MPPI(), Mixture()):
    PLANNERS[_search.kind] = dataclasses.replace(PLANNERS["small"], search=_search)
PLANNERS["gradient"] = dataclasses.replace(PLANNERS["small"], search=Gradient(), samples=8, elites=2, iterations=12)
PLANNERS["hybrid"] = dataclasses.replace(PLANNERS["small"], proposals="refine", initial_std=0.3, iterations=3)
PLANNERS["wide"] = dataclasses.replace(
    PLANNERS["hybrid"], search=Mixture(components=3, wide_std=1.0), samples=192, elites=24
)
PLANNERS["approach"] = dataclasses.replace(PLANNERS["hybrid"], proposals="approach")
PLANNERS["amortised"] = dataclasses.replace(PLANNERS["hybrid"], proposals="follow")

ADDITIONS = {"metric": get_args(Metric), "waypoints": get_args(Waypoints)}
"""Settings whose values may follow the name of a planner."""


def planner_preset(name: str, model: ClipConfig | None = None) -> PlannerConfig:
    """The planner settings called ``name``, with no more history than ``model`` has been trained on.

    Raises ``ValueError`` for an unknown name.
    """
    config = named(name, PLANNERS, "planner")
    return config if model is None else dataclasses.replace(config, history=min(config.history, model.history))


def planner_of(name: str, own: PlannerConfig, model: ClipConfig) -> PlannerConfig:
    """The planner that a name with additions means: ``wide+slow+drawn`` has another metric and waypoints than ``wide``.

    Args:
        name: of a preset, or nothing for ``own``; then, each after a plus, a metric or a kind of waypoints.
        own: what the agent has.
        model: as for :func:`planner_preset`.

    Raises:
        ValueError: an unknown name or addition.
    """
    base, *additions = name.split("+")
    config = planner_preset(base, model) if base else own
    settings = {word: setting for setting, words in ADDITIONS.items() for word in words}
    for addition in additions:
        changed: dict[str, Any] = {named(addition, settings, "addition to a planner"): addition}
        config = dataclasses.replace(config, **changed)
    return config


def planner_name(settings: Mapping[str, Any]) -> str:
    """Name of the preset that planner settings are nearest to, and where they differ: ``hybrid, history 1``."""
    found = _flat(settings).items()
    presets = {name: _flat(settings_to_dict(preset)) for name, preset in PLANNERS.items()}
    changes = {name: [(key, value) for key, value in found if own.get(key) != value] for name, own in presets.items()}
    nearest = min(changes, key=lambda name: len(changes[name]))
    return ", ".join([nearest, *(f"{key} {value}" for key, value in changes[nearest])])


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a planner, and beside them those of its search."""
    search = settings.get("search")
    own = dict(search) if isinstance(search, Mapping) else {"kind": search}
    return {**settings, "search": own.pop("kind", None), **own}
