"""Controllers without a world model, whose success on the same pairs says what a number is worth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.rollout import BehaviorPolicy
from lewm_agent.environment import Environment, action_bounds
from lewm_agent.eval.worlds.protocols import Pair, Protocol
from lewm_agent.eval.worlds.world import Floor, World


def _random(env: Environment) -> Floor:
    bounds = action_bounds(env.action_space)

    def act(pair: Pair, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
        return rng.uniform(*bounds)

    return act


def _zero(pair: Pair, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    return np.zeros(pair.actions.shape[1])


def _replay(pair: Pair, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    """The recorded actions, then standing still."""
    return pair.actions[step] if step < len(pair.actions) else _zero(pair, step, info, rng)


def _expert(policy: BehaviorPolicy) -> Floor:
    """A scripted expert, which sees states and the goal state; what it draws depends on the seed and the pair."""

    def act(pair: Pair, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
        if step == 0:
            policy.reset(int(rng.integers(2**32)))
        return policy(None, info)

    return act


def floors(world: World, env: Environment, rules: Protocol) -> dict[str, Floor]:
    """Floors and, after them, the ceilings.

    Args:
        world: whose pairs are played.
        env: the one they will be played in, one after the other.
        rules: of the pairs; recorded actions are replayed only where both ends of a pair are from one episode.
    """
    line = {} if world.straight_line is None else {"straight_line": world.straight_line}
    replay = {"replay": _replay} if rules.far is None else {}
    return {"random": _random(env), "zero_action": _zero, **line, **replay, "expert": _expert(world.expert(env))}
