"""Trials of one environment, the rules they are judged by, and the controllers that say what a success is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.environment import Environment, action_bounds, has_choices
from lewm_agent.evaluation.success import Success
from lewm_agent.evaluation.trials import Trial

MakeEnvironment = Callable[[], Environment]
Floor = Callable[[Trial, int, dict[str, Any], np.random.Generator], NDArray[Any]]
"""A controller without a world model: trial, time step, info of the environment and a generator to an action."""
Record = dict[str, Any]
"""What the JSON of a result says of one trial."""


def replay(trial: Trial, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    """The recorded actions, then none."""
    if trial.recorded is None:
        raise ValueError("no recorded actions lead from this start to its goal")
    return trial.recorded[step] if step < len(trial.recorded) else np.zeros_like(trial.recorded[0])


def usual_floors(env: Environment, trials: Sequence[Trial]) -> dict[str, Floor]:
    """Uniform actions; where actions are vectors, none; and ``replay``, where every trial has recorded actions."""
    low, high = (np.array(bound) for bound in action_bounds(env.action_space))

    def random(trial: Trial, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
        return rng.uniform(low, high)

    def zero(trial: Trial, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
        return np.zeros(len(low))

    floors: dict[str, Floor] = {"random": random}
    if not has_choices(env):
        floors["zero_action"] = zero
    if all(trial.recorded is not None and len(trial.recorded) for trial in trials):
        floors["replay"] = replay
    return floors


@dataclass(frozen=True)
class Suite:
    """What an evaluation plays.

    Attributes:
        environment: its name.
        protocol: name of the rules by which the trials were chosen.
        make: makes it, rendering square frames; picklable, if several processes are to play.
        trials: in a fixed order.
        success: when a goal counts as reached.
        budget: environment steps the agent has.
        seed: that the trials were drawn with; also of the floors' randomness.
        sha256: equal for equal trials.
        floors: makes the controllers that play beside the agent, in the environment given.
        kinds: kinds of trials that are also reported apart, by what the result records of them.
        more: what else the result says, ready for JSON.
        goal_state: whether the agent is told its goals in numbers, and not shown pictures of them.
    """

    environment: str
    protocol: str
    make: MakeEnvironment
    trials: Sequence[Trial]
    success: Success
    budget: int
    seed: int
    sha256: str
    floors: Callable[[Environment], dict[str, Floor]]
    kinds: Mapping[str, Callable[[Record], bool]] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    goal_state: bool = False
