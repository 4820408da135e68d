"""Searches over action sequences, all behind one interface: :class:`Search`."""

from lewm_agent.planning.cem import CEM
from lewm_agent.planning.gradient import Gradient
from lewm_agent.planning.icem import ICEM
from lewm_agent.planning.mixture import Mixture
from lewm_agent.planning.mppi import MPPI
from lewm_agent.planning.search import ActionSet, Bounds, Choices, CostFunction, Plan, Sampling, Search, register

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "ActionSet",
    "Bounds",
    "Choices",
    "CostFunction",
    "Gradient",
    "Mixture",
    "Plan",
    "Sampling",
    "Search",
    "register",
]
