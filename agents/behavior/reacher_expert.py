"""A scripted, noisy expert for the reacher."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from lewm_agent.envs.reacher.env import ReacherEnv, joint_errors

Action = npt.NDArray[np.float32]

POSITION_GAIN = 5.0
"""Action per rad of joint error."""
VELOCITY_GAIN = 0.2
"""Action per rad/s against the motion. Torque held for 0.04 s makes a light hand shake: 0.5 fails half of the goals."""


class ReacherExpert:
    """Turns both joints to the goal by proportional-derivative control, with noisy torques.

    The action is ``5 error - 0.2 velocity`` for each joint, plus Gaussian noise, clipped to [-1, 1]. The shoulder turns
    the way that the environment's ``wrap_shoulder`` counts: the shorter way, or back by every whole turn. The released
    data have no such expert, they are uniformly random. Goal and state are ``info["goal_state"]`` and
    ``info["state"]``. Before the first ``reset`` it acts as after ``reset(0)``.
    """

    def __init__(self, env: gym.Env[Any, Any], action_noise: float = 0.5) -> None:
        """Create the expert for one environment.

        Args:
            env: a reacher environment, wrapped or not.
            action_noise: standard deviation of the noise on each action component, in units of the action.

        Raises:
            TypeError: if ``env`` is not a reacher environment.
            ValueError: if the noise is negative.
        """
        base = env.unwrapped
        if not isinstance(base, ReacherEnv):
            raise TypeError(f"the reacher expert needs a reacher environment, got {base}")
        if not (np.isfinite(action_noise) and action_noise >= 0.0):
            raise ValueError(f"action_noise must be zero or more, got {action_noise}")
        self.wrap_shoulder = base.wrap_shoulder
        self.action_noise = float(action_noise)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start an episode; its noise depends on ``seed`` alone."""
        self._generator = np.random.default_rng(seed)

    def __call__(self, observation: Any, info: dict[str, Any]) -> Action:
        """Return the action, (2,) float32 in [-1, 1]; the observation is not used."""
        state = np.asarray(info["state"], dtype=np.float64)
        errors = joint_errors(state, info["goal_state"], self.wrap_shoulder)
        noise = self._generator.normal(0.0, self.action_noise, size=2)
        action = POSITION_GAIN * errors - VELOCITY_GAIN * state[2:] + noise
        return np.clip(action, -1.0, 1.0).astype(np.float32)
