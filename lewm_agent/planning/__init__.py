"""Searches over action sequences, all behind one interface: :class:`Search`."""

from __future__ import annotations

from typing import Any

from lewm_agent.planning.cem import CEM
from lewm_agent.planning.gradient import GradientDescent
from lewm_agent.planning.icem import ICEM
from lewm_agent.planning.mixture import Mixture
from lewm_agent.planning.mppi import MPPI
from lewm_agent.planning.search import ActionSet, Bounds, Choices, CostFunction, Plan, Search
from lewm_agent.planning.settings import PlannerConfig

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "ActionSet",
    "Bounds",
    "Choices",
    "CostFunction",
    "GradientDescent",
    "Mixture",
    "Plan",
    "Search",
    "make_search",
]


def make_search(config: PlannerConfig, allowed: ActionSet | None = None) -> Search:
    """The search that the settings name.

    Args:
        config: planner settings.
        allowed: actions that candidates are moved to.
    """
    sampling: dict[str, Any] = {
        "samples": config.samples,
        "iterations": config.iterations,
        "noise_correlation": config.noise_correlation,
        "initial_std": config.initial_std,
        "allowed": allowed,
    }
    match config.search:
        case "cem":
            return CEM(elites=config.elites, stop_std=config.stop_std, **sampling)
        case "icem":
            return ICEM(elites=config.elites, **sampling)
        case "mppi":
            return MPPI(temperature=config.temperature, **sampling)
        case "gradient":
            return GradientDescent(learning_rate=config.learning_rate, **sampling)
        case "mixture":
            elites, components = config.elites, config.components
            return Mixture(elites=elites, components=components, stop_std=config.stop_std, **sampling)
