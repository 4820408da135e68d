"""Attempts of an agent to reach goals, as episodes that can be recorded like those of any other policy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from lewm_agent.acting_agent import ActingAgent
from lewm_agent.datasets.gathering import MakeEnv, MakePolicy
from lewm_agent.datasets.shards import REACHED
from lewm_agent.environment import Environment, action_bounds, has_choices
from lewm_agent.evaluation.goals import Goals
from lewm_agent.evaluation.success import Success
from lewm_agent.evaluation.trials import Situation, as_vector, begin, goal_picture, step
from lewm_agent.planning.episodes import Memories
from lewm_agent.tools.checks import require, whole_number
from lewm_agent.tools.frames import as_rgb, resized

AnyAgent = ActingAgent[Any, Any]
DRAWS = 100
"""Trials that are drawn, at most, to find a start that is not at its goal."""


@dataclass(frozen=True)
class AttemptSettings:
    """What an agent's attempts are like.

    Attributes:
        goals: where starts and goals come from.
        success: what it is; None for what the goals say.
        budget: steps of an attempt; None for what the goals say.
        noise: standard deviation of what is added to every action, as a share of half its range, from 0 to 1; of
            choices, how often another one is taken at random.
    """

    goals: Goals
    success: Success | None = None
    budget: int | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.budget is not None:
            whole_number("budget", self.budget, 1)
        require(
            math.isfinite(self.noise) and 0 <= self.noise <= 1,
            f"noise must be from 0 to 1, a share of half the range of actions, got {self.noise}",
        )

    def environment(self, make: MakeEnv) -> MakeEnv:
        """Makes the environment in which each episode is an attempt."""
        return functools.partial(_attempts, make, self)

    def policy(self, load: Callable[[], AnyAgent]) -> MakePolicy:
        """Makes the policy by which the agent acts in there.

        Args:
            load: gets the agent.
        """
        return functools.partial(AgentPolicy, load, self.noise)

    def told(self, agent: AnyAgent) -> dict[str, Any]:
        """Which model attempts what, ready for JSON; with the seed, all that attempts depend on."""
        return {
            "agent": agent.kind,
            "weights_sha256": agent.weights_sha256(),
            "planner": agent.planner_settings,
            "goals": {"protocol": self.goals.protocol, **self.goals.more().get("goals", {})},
            "success": None if self.success is None else str(self.success),
            "budget": self.budget,
            "noise": self.noise,
        }


class Attempts(TimeLimit):
    """An environment whose episodes each begin at a start of some trial and end at its goal, or with the budget.

    A reset draws the trial by its seed, another one where the start is at the goal already. ``info`` tells in every row
    whether the goal is reached.

    Args:
        env: adapted.
        settings: of the attempts; its noise is not looked at.

    Raises:
        ValueError: at a reset: the environment cannot be brought to a start, has no picture of the goal, nothing says
            when it is reached, or every start is at its goal.

    Attributes:
        goal: picture (H, W, 3) of the present one.
    """

    def __init__(self, env: Environment, settings: AttemptSettings) -> None:
        super().__init__(env, settings.goals.budget(env) if settings.budget is None else settings.budget)
        self._settings = settings

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the attempt that a seed stands for; it takes no options."""
        first = 0 if seed is None else seed
        for another in range(DRAWS):
            self._begin(first if not another else int(np.random.SeedSequence([first, another]).generate_state(1)[0]))
            info = self._told()
            if not info[REACHED]:
                return self._situation.observation, info
        raise ValueError(
            f"{DRAWS} starts that were drawn are all at their goals already: ask for goals that are further away "
            "(offset), or for a stricter success"
        )

    def _begin(self, seed: int) -> None:
        """Come to the start of the trial that a seed stands for."""
        goals = self._settings.goals
        self._trial = goals.drawn(self.env, seed)
        self._situation = begin(self.env, self._trial)
        self._success = goals.success(self._settings.success, self._situation, self._trial)
        self.goal = goal_picture(self._situation, self._trial)
        self._kept: list[NDArray[np.float64]] = []

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Go on; the reward is 1 where the goal is reached, else 0."""
        self._situation = step(self._situation, action)
        info = self._told()
        reached, over = bool(info[REACHED]), self._situation.steps >= self._max_episode_steps
        ended = reached or self._situation.ended
        return self._situation.observation, float(reached), ended, over and not ended, info

    def _told(self) -> dict[str, Any]:
        situation: Situation = self._situation
        self._kept.append(self._success.measure(situation, self._trial))
        reached = self._success.holds(np.stack(self._kept), self._trial)[-1]
        return {**situation.info, REACHED: float(reached)}


def _attempts(make: MakeEnv, settings: AttemptSettings) -> Environment:
    return Attempts(make(), settings)


class AgentPolicy:
    """Acts by an agent towards the goal of the present attempt, with noise.

    Args:
        load: gets the agent.
        noise: as in :class:`AttemptSettings`.
        env: where attempts are.

    Raises:
        ValueError: the agent is not ready to act.
    """

    def __init__(self, load: Callable[[], AnyAgent], noise: float, env: Attempts) -> None:
        self._agent, self._noise, self._env = load(), noise, env
        self._decider = self._agent.controller
        self._side = self._agent.config.model.image_size
        self._frame = np.zeros((self._side, self._side, 3), np.uint8)
        self._bounds = None if has_choices(env) else action_bounds(env.action_space)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin an attempt; the search and the noise depend on ``seed`` alone."""
        self._memory: Memories = self._agent.initial_memories([seed])
        self._rng = np.random.default_rng([seed, 1])

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[Any]:
        """The agent's action (A,) with noise; what it sees is drawn anew where it plans."""
        if self._decider.needs_frame(self._memory[0]):
            self._frame = self._seen(self._env.render())
        seen = {"pixels": self._frame, "goal": self._seen(self._env.goal)}
        action, self._memory = self._agent.predict(seen, self._memory)
        decided = as_vector(self._env, action)
        if not self._noise:
            return decided
        executed = with_noise(decided, self._noise, self._bounds, self._rng)
        self._memory = [self._decider.instead(self._memory[0], executed)]
        return executed

    def _seen(self, picture: Any) -> NDArray[np.uint8]:
        return resized(as_rgb(np.asarray(picture)), self._side)


def with_noise(
    action: NDArray[Any], noise: float, bounds: tuple[list[float], list[float]] | None, rng: np.random.Generator
) -> NDArray[Any]:
    """An action (A,) with noise as :class:`AttemptSettings` has it; without bounds it is the vector of a choice."""
    if bounds is None:
        other = np.eye(len(action), dtype=action.dtype)[rng.integers(len(action))]
        return other if rng.random() < noise else action
    low, high = map(np.array, bounds)
    added = action + noise * (high - low) / 2 * rng.standard_normal(len(action))
    return np.clip(added, low, high).astype(action.dtype)
