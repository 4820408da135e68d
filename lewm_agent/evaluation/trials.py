"""What an agent is asked to do once: a start, and the picture of a goal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lewm_agent.environment import Environment, has_choices
from lewm_agent.planning.episodes import Frames
from lewm_agent.tools.checks import require
from lewm_agent.tools.frames import as_rgb


class Situation(NamedTuple):
    """Where an environment is after a reset or a step.

    ``steps`` were taken since the start of the trial; ``ended``: the environment has terminated the episode.
    """

    env: Environment
    observation: Any
    info: dict[str, Any]
    steps: int = 0
    ended: bool = False


@dataclass(frozen=True)
class Trial:
    """A start and a goal.

    Attributes:
        seed: of the reset.
        options: of the reset, such as a state.
        actions: taken after the reset, (n, A) or (n,) choices; they end at the start.
        goal: picture (H, W, 3) uint8; None for the one that the environment has of its own goal.
        wanted: numbers of the goal by name, such as ``state``, which success may be measured by.
        recorded: actions (m, A) that once led from the start to the goal, for the floor ``replay``; None if unknown.
        about: what the JSON of a result says of it.
    """

    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    actions: Sequence[Any] | NDArray[Any] = ()
    goal: Frames | None = None
    wanted: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    recorded: NDArray[np.float32] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def begin(env: Environment, trial: Trial) -> Situation:
    """Put an environment at the start. Raises ``ValueError`` if the episode ends on the way there."""
    observation, info = env.reset(seed=trial.seed, options=dict(trial.options) or None)
    situation = Situation(env, observation, info)
    for number, action in enumerate(trial.actions):
        situation = step(situation, action)
        if situation.ended:
            raise ValueError(
                f"the episode of seed {trial.seed} ends after {number + 1} of the {len(trial.actions)} actions that "
                "lead to the start"
            )
    return situation._replace(steps=0)


def step(situation: Situation, action: Any) -> Situation:
    """Go on with a vector (A,) or, where actions are choices, also with the number of one.

    An episode that is only cut off, as by a time limit, goes on: an evaluation has a budget of its own.
    """
    env = situation.env
    observation, _, terminated, _, info = env.step(as_vector(env, action))
    return Situation(env, observation, info, situation.steps + 1, bool(terminated))


def as_vector(env: Environment, action: Any) -> NDArray[Any]:
    """An action as the adapted environment takes it: (A,), also for the number of a choice."""
    if np.ndim(action) == 0 and has_choices(env):
        action = env.get_wrapper_attr("vector")(action)
    return np.asarray(action, env.action_space.dtype)


def goal_picture(start: Situation, trial: Trial) -> Frames:
    """The goal (H, W, 3) of a trial that has just begun.

    Raises:
        ValueError: neither the trial nor the environment has a picture of it.
    """
    picture = picture_if_any(start, trial)
    if picture is None:
        raise ValueError(
            "the environment has no picture of its goal: neither info['goal_rendered'] after a reset nor a method "
            "goal_frame(); take goals from recorded episodes, give pictures, or tell goals in numbers (goal_state)"
        )
    return picture


def picture_if_any(start: Situation, trial: Trial) -> Frames | None:
    """The goal (H, W, 3) of a trial that has just begun; None where nobody has a picture."""
    if trial.goal is not None:
        return as_rgb(np.asarray(trial.goal))
    if start.info.get("goal_rendered") is not None:  # OGBench
        return as_rgb(np.asarray(start.info["goal_rendered"]))
    draw = getattr(start.env.unwrapped, "goal_frame", None)
    return as_rgb(np.asarray(draw())) if callable(draw) else None


def goal_numbers(start: Situation, trial: Trial) -> Mapping[str, NDArray[Any]]:
    """The goal of a trial that has just begun in numbers, by column.

    Raises:
        ValueError: neither the trial nor the environment says it in numbers.
    """
    told = dict(trial.wanted)
    if not told and start.info.get("goal_state") is not None:
        told["state"] = np.asarray(start.info["goal_state"], np.float64)
    if not told and isinstance(start.observation, Mapping) and "desired_goal" in start.observation:
        told["achieved_goal"] = np.asarray(start.observation["desired_goal"], np.float64)  # Gymnasium-Robotics
    if not told and np.ndim(start.info.get("goal", 0)) == 1:  # OGBench
        told["observation"] = np.asarray(start.info["goal"], np.float64)
    if not told:
        raise ValueError(
            "nothing says this goal in numbers: neither what was recorded or listed of it (`wanted`), nor "
            "info['goal_state'], info['goal'] or observation['desired_goal'] after a reset; give goal images instead"
        )
    return told


def present_state(situation: Situation) -> NDArray[np.float64]:
    """Where an environment is, in numbers (S,). Raises ``ValueError`` where it does not tell."""
    state = situation.info.get("state")
    require(
        state is not None and np.ndim(state) == 1 and np.asarray(state).dtype.kind in "fiu",
        f"{situation.env.unwrapped} does not tell its state as a vector in info['state'], which this agent looks at: "
        "give an environment that does, or an agent that looks at frames",
    )
    return np.asarray(state, np.float64)


def wanted_state(start: Situation, trial: Trial) -> NDArray[np.float64]:
    """The state (S,) that is the goal of a trial that has just begun. Raises ``ValueError`` where it is not told."""
    goal, state = goal_numbers(start, trial).get("state"), present_state(start)
    require(
        goal is not None and np.shape(goal) == state.shape,
        f"{start.env.unwrapped} tells {state.size} numbers of its state and not as many of this goal: goals must have "
        "a `state` like info['state']",
    )
    return np.asarray(goal, np.float64)


def trials_sha256(trials: Iterable[Trial]) -> str:
    """Hash of starts, goals and recorded actions; pictures that the environment draws itself are not part of it."""
    digest = hashlib.sha256()
    for trial in trials:
        arrays = {"actions": trial.actions, "goal": trial.goal, "recorded": trial.recorded, **trial.wanted}
        given = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
        options = json.dumps(trial.options, sort_keys=True, default=lambda value: np.asarray(value).tolist())
        digest.update(f"{trial.seed} {options}".encode())
        for name, array in sorted(given.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
