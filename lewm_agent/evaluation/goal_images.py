"""Any environment as one of goal images, for whoever evaluates or trains on such."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from lewm_agent import environment
from lewm_agent.environment import Environment
from lewm_agent.evaluation.goals import goals_from
from lewm_agent.evaluation.success import Judge, Success
from lewm_agent.evaluation.trials import Situation, as_vector, begin, goal_picture, step
from lewm_agent.planning.episodes import Frames
from lewm_agent.tools.frames import as_rgb, resized


class GoalImages(gym.Env[Any, Any]):
    """An environment whose observation is ``Dict(pixels, goal)``: the frame and the picture of a goal.

    Every reset begins the next trial, in their order, over and over. An episode ends when the goal is reached, with
    reward 1, or when the budget is spent, so the mean return is the success rate; ``info["is_success"]`` says it too.
    Stable-Baselines3's ``evaluate_policy`` and whatever else speaks Gymnasium work on it.

    Args:
        env: any environment that renders; its actions stay as they are.
        goals: where starts and goals come from (:func:`lewm_agent.evaluation.goals.goals_from`).
        success: when a goal is reached (:func:`lewm_agent.evaluation.success.success_of`).
        episodes: how many trials.
        offset: steps from start to goal, of recorded ones.
        budget: steps of an episode.
        seed: of the choice of trials.
        image_size: height and width of both frames, px.

    Raises:
        ValueError: as :meth:`lewm_agent.evaluation.goals.Goals.suite`.
    """

    render_mode = "rgb_array"

    def __init__(
        self,
        env: Environment,
        goals: Any,
        *,
        success: str | Judge | Success | None = None,
        episodes: int = 50,
        offset: int = 25,
        budget: int | None = None,
        seed: int = 0,
        image_size: int = 64,
    ) -> None:
        self._env = environment.adapt(env, image_size)
        source, make = goals_from(goals, offset), environment.same(self._env)
        name = environment.name_of(self._env)
        self.suite = source.suite(name, make, episodes=episodes, seed=seed, success=success, budget=budget)
        self.metadata = {**env.metadata, "render_modes": ["rgb_array"]}
        image = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({"pixels": image, "goal": image})
        self.action_space = env.action_space
        self._next, self._size = 0, image_size

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Frames], dict[str, Any]]:
        """Begin the next trial; a seed begins with the trial of that number again."""
        super().reset(seed=seed)
        if seed is not None:
            self._next = seed
        self._trial = self.suite.trials[self._next % len(self.suite.trials)]
        self._next += 1
        self._situation = begin(self._env, self._trial)
        self._goal = resized(goal_picture(self._situation, self._trial), self._size)
        self._kept = [self.suite.success.measure(self._situation, self._trial)]
        return self._observed(self._situation)

    def step(self, action: Any) -> tuple[dict[str, Frames], float, bool, bool, dict[str, Any]]:
        """Step the environment."""
        self._situation = step(self._situation, as_vector(self._env, action))
        self._kept.append(self.suite.success.measure(self._situation, self._trial))
        observation, info = self._observed(self._situation)
        solved, over = info["is_success"], self._situation.steps >= self.suite.budget
        return observation, float(solved), solved or self._situation.ended, over and not solved, info

    def render(self) -> Frames:
        """The frame."""
        return resized(as_rgb(np.asarray(self._env.render())), self._size)

    def close(self) -> None:
        """Close the environment inside."""
        self._env.close()

    def _observed(self, situation: Situation) -> tuple[dict[str, Frames], dict[str, Any]]:
        solved = bool(self.suite.success.holds(np.stack(self._kept), self._trial)[-1])
        return {"pixels": self.render(), "goal": self._goal.copy()}, {**situation.info, "is_success": solved}
