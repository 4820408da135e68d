"""Controllers without a world model, whose success on the same pairs says what a number is worth."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.agents.behavior.cube_expert import CubeExpert
from lewm_agent.agents.behavior.push_t_expert import PushTExpert
from lewm_agent.agents.behavior.reacher_expert import ReacherExpert
from lewm_agent.agents.behavior.two_room_expert import TwoRoomExpert
from lewm_agent.datasets.rollout import BehaviorPolicy
from lewm_agent.environment import action_bounds
from lewm_agent.eval.playing.rollouts import Environment, Floor
from lewm_agent.eval.worlds.protocols import Pair, Protocol


class QuickCubeExpert(CubeExpert):
    """The cube expert without noise, and with the quicker of OGBench's oracles (``markov``) in every episode.

    The other one (``plan``) takes 64 steps from wherever it is to where it sets down the cube, which is more than the
    budget of most protocols.
    """

    def __init__(self, env: Environment) -> None:
        """Create the expert for one environment. Raises ``TypeError`` if it is not a cube environment."""
        super().__init__(env, noise=0.0, burst_episodes=0.0)

    def reset(self, seed: int) -> None:
        """Start an episode; all that it draws depends on ``seed`` alone."""
        super().reset(seed)
        self.oracle = "markov"


EXPERTS: dict[str, Callable[[Environment], BehaviorPolicy]] = {
    "lewm/Cube-v0": QuickCubeExpert,
    "lewm/PushT-v0": functools.partial(PushTExpert, action_noise=0.0),
    "lewm/Reacher-v0": functools.partial(ReacherExpert, action_noise=0.0),
    "lewm/TwoRoom-v0": functools.partial(TwoRoomExpert, action_noise=0.0, repeat_probability=0.0),
}
"""Gymnasium id -> factory of the scripted expert without noise; each goes to the goal state in ``info``."""


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


def _straight_line(pair: Pair, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    """Unit speed towards the goal position, whatever wall is between; the goal's last pixels at less than that."""
    offset = info["goal_state"] - info["state"]
    distance = max(float(np.linalg.norm(offset)), 1e-9)
    direction: NDArray[Any] = offset / distance * min(1.0, distance / 5.0)
    return direction


def _expert(policy: BehaviorPolicy) -> Floor:
    """A scripted expert, which sees states and the goal state; what it draws depends on the seed and the pair."""

    def act(pair: Pair, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
        if step == 0:
            policy.reset(int(rng.integers(2**32)))
        return policy(None, info)

    return act


STRAIGHT_LINE: dict[str, Floor] = {"lewm/TwoRoom-v0": _straight_line}
"""Environments in which a straight line to the goal means something."""


def floors(environment: str, env: Environment, rules: Protocol) -> dict[str, Floor]:
    """Floors and, after them, the ceilings.

    Args:
        environment: Gymnasium id.
        env: the one they will be played in, one after the other.
        rules: of the pairs; recorded actions are replayed only where both ends of a pair are from one episode.
    """
    line = {"straight_line": STRAIGHT_LINE[environment]} if environment in STRAIGHT_LINE else {}
    replay = {"replay": _replay} if rules.apart is None else {}
    expert = {"expert": _expert(EXPERTS[environment](env))}
    return {"random": _random(env), "zero_action": _zero, **line, **replay, **expert}
