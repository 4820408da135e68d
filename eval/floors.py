"""Controllers without a world model, whose success on the same pairs says what a number is worth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.eval.protocols import Pair
from lewm_agent.eval.rollouts import Floor


def _random(low: list[float], high: list[float]) -> Floor:
    def act(pair: Pair, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
        return rng.uniform(low, high)

    return act


def _zero(pair: Pair, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    return np.zeros_like(pair.actions[0])


def _replay(pair: Pair, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    """The recorded actions, then standing still."""
    return pair.actions[step] if step < len(pair.actions) else np.zeros_like(pair.actions[0])


def _straight_line(pair: Pair, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    """Unit speed towards the goal position, whatever wall is between; the goal's last pixels at less than that."""
    offset = info["goal_state"] - info["state"]
    distance = max(float(np.linalg.norm(offset)), 1e-9)
    direction: NDArray[Any] = offset / distance * min(1.0, distance / 5.0)
    return direction


STRAIGHT_LINE: dict[str, Floor] = {"lewm/TwoRoom-v0": _straight_line}
"""Environments in which a straight line to the goal means something."""


def floors(environment: str, low: list[float], high: list[float]) -> dict[str, Floor]:
    """Floors and, last, the ceiling (replay of the recorded actions) of an environment with these action bounds."""
    line = {"straight_line": STRAIGHT_LINE[environment]} if environment in STRAIGHT_LINE else {}
    return {"random": _random(low, high), "zero_action": _zero, **line, "replay": _replay}
