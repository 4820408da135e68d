"""Half of a cube task done and half undone: what arm and cube do when nobody is an expert."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from lewm_agent.agents.behavior.cube_expert import Action, CubeExpert

LOSES_TRACK = 0.04
"""Chance of a step to begin to wander: an oracle is followed for 25 steps on average, half of what it needs."""
WANDERS = (5, 35)
"""Least and greatest number of steps of wandering."""
PERSISTENCE = 0.8
"""Correlation of successive wandering actions."""
STRENGTH = 0.6
"""Standard deviation of wandering actions, in units of the action."""


class WeakCube(CubeExpert):
    """Begins with one random target after the other, and wanders off in between, at any phase of grasp and carry.

    Wandering is smooth noise on all five components. Afterwards another target is taken. The goal is not looked at.
    Before the first ``reset`` it acts as after ``reset(0)``.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Create the policy for one environment. Raises ``TypeError`` if it is not a cube environment."""
        super().__init__(env, burst_episodes=0.0)

    def reset(self, seed: int) -> None:
        """Start an episode; its actions depend on ``seed`` alone."""
        super().reset(seed)
        self._waiting = []
        self._wandering = 0
        self._drift = np.zeros(5)

    def __call__(self, observation: Any, info: dict[str, Any]) -> Action:
        """Return the action, (5,) float32 in [-1, 1]; the observation is not used."""
        if self._wandering == 0 and self._generator.uniform() < LOSES_TRACK:
            self._wandering = int(self._generator.integers(*WANDERS, endpoint=True))
            self._acting = None
        if self._wandering == 0:
            return super().__call__(observation, info)
        self._wandering -= 1
        fresh = self._generator.normal(0.0, STRENGTH * np.sqrt(1 - PERSISTENCE**2), 5)
        self._drift = PERSISTENCE * self._drift + fresh
        return np.clip(self._drift, -1.0, 1.0).astype(np.float32)
