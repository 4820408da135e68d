"""Push-T data as they were published: few demonstrations, each replayed many times with noise."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lewm_agent.agents.behavior.push_t_expert import PushTExpert, action_towards
from lewm_agent.datasets.rollout import EpisodeOver, steps_of
from lewm_agent.envs.push_t.simulation import ACTION_SCALE

Places = NDArray[np.float64]


class PushTReplays:
    """Replays what the expert without noise would do from the start of an episode, whatever happens meanwhile.

    Where the expert headed for in the demonstration the agent heads for again, up to Gaussian noise; how much noise is
    drawn for every episode, from none to ``most_noise``. The episode ends with the demonstration, or at the goal.
    Episodes that begin alike (argument ``families`` of a collection) are replays of one demonstration. DINO-WM's data
    are 185 demonstrations, replayed 101 times "with various level of noise" (arXiv 2411.04983); how it was drawn, and
    how large it was, is not published.

    Args:
        env: a Push-T environment made by ``gymnasium.make``, wrapped or not.
        most_noise: greatest standard deviation of the noise on each component of an action, in units of the action
            (100 px).

    Raises:
        TypeError: ``env`` is not a Push-T environment.
        ValueError: The noise is negative, or the environment was made in another way.
    """

    def __init__(self, env: gym.Env[Any, Any], most_noise: float = 0.1) -> None:
        self._expert = PushTExpert(env, action_noise=0.0)
        if not (np.isfinite(most_noise) and most_noise >= 0.0):
            raise ValueError(f"most_noise must be zero or more, got {most_noise}")
        self._most_noise = float(most_noise)
        if env.unwrapped.spec is None:
            raise ValueError("replays need an environment that was made by gymnasium.make, to make another like it")
        self._stage = gym.make(env.unwrapped.spec, disable_env_checker=True)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start an episode; its noise depends on ``seed`` alone, its demonstration on where it begins."""
        self._generator = np.random.default_rng(seed)
        self._noise = ACTION_SCALE * self._generator.uniform(0.0, self._most_noise)
        self._left: list[Places] | None = None

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[np.float32]:
        """Return the action, (2,) float32 in [-1, 1]; the observation is not used.

        Raises:
            EpisodeOver: The demonstration has ended.
        """
        if self._left is None:
            self._left = self._demonstration(info)[::-1]
        if not self._left:
            raise EpisodeOver
        target = self._left.pop() + self._generator.normal(0.0, self._noise, size=2)
        return action_towards(target, info["state"][:2])

    def _demonstration(self, info: dict[str, Any]) -> list[Places]:
        """Where the expert heads for, px, step by step from the situation that ``info`` tells to the goal."""
        begin = {"state": info["state"], "goal_state": info["goal_state"]}
        observation, info = self._stage.reset(seed=0, options=begin)
        self._expert.reset(0)
        targets = []
        for _ in steps_of(self._stage):
            action = self._expert(observation, info)
            targets.append(info["state"][:2] + ACTION_SCALE * action)
            observation, _, terminated, truncated, info = self._stage.step(action)
            if terminated or truncated:
                break
        return targets
