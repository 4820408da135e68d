"""A scripted, noisy expert for the two-room world."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from lewm_agent.envs.two_room.env import TwoRoomEnv
from lewm_agent.envs.two_room.geometry import nearest_clear

Action = npt.NDArray[np.float32]

DOOR_REACHED = 10.5
"""Distance to the door's center, px, from which the expert heads for the goal (stable-worldmodel, 3 of 64 px)."""


class TwoRoomExpert:
    """Walks to the door if the goal is in the other room, then straight to the goal.

    Its noise makes the data of the LeWM paper (stable-worldmodel, ``envs/two_room/expert_policy.py`` and its collection
    script): the unit vector towards the waypoint, plus Gaussian noise, clipped to [-1, 1]; with a small probability the
    last executed action is repeated instead. (The released code draws for the repetition but never stores an action to
    repeat, so its data are those of ``repeat_probability=0``.)

    With ``collision="swept"`` it passes the door to its far end before it turns to the goal, for a solid disk would
    catch on the door's edge. Wall and door are read from the environment in every step, so any factors of variation
    will do; agent and goal are ``info["state"]`` and ``info["goal_state"]``. Before the first ``reset`` it acts as
    after ``reset(0)``.
    """

    def __init__(self, env: gym.Env[Any, Any], action_noise: float = 2.0, repeat_probability: float = 0.05) -> None:
        """Create the expert for one environment.

        Args:
            env: a two-room environment, wrapped or not.
            action_noise: standard deviation of the noise on each action component, in units of the action.
            repeat_probability: chance that a step repeats the last executed action.

        Raises:
            TypeError: if ``env`` is not a two-room environment.
            ValueError: if the noise is negative or the probability is outside [0, 1].
        """
        base = env.unwrapped
        if not isinstance(base, TwoRoomEnv):
            raise TypeError(f"the two-room expert needs a two-room environment, got {base}")
        if not (np.isfinite(action_noise) and action_noise >= 0.0):
            raise ValueError(f"action_noise must be zero or more, got {action_noise}")
        if not 0.0 <= repeat_probability <= 1.0:
            raise ValueError(f"repeat_probability must lie in [0, 1], got {repeat_probability}")
        self._env = base
        self.action_noise = float(action_noise)
        self.repeat_probability = float(repeat_probability)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start an episode; its noise depends on ``seed`` alone."""
        self._generator = np.random.default_rng(seed)
        self._last_action: Action | None = None

    def __call__(self, observation: Any, info: dict[str, Any]) -> Action:
        """Return the action, (2,) float32 in [-1, 1]; the observation is not used."""
        noise = self._generator.normal(0.0, self.action_noise, size=2)
        repeat = self._generator.uniform() < self.repeat_probability
        if not repeat or self._last_action is None:
            action = self._direction(info["state"], info["goal_state"]) + noise
            self._last_action = np.clip(action, -1.0, 1.0).astype(np.float32)
        return self._last_action.copy()

    def _direction(self, state: npt.ArrayLike, goal_state: npt.ArrayLike) -> npt.NDArray[np.float64]:
        position = np.asarray(state, dtype=np.float64)
        travel = self._waypoint(position, np.asarray(goal_state, dtype=np.float64)) - position
        length = float(np.linalg.norm(travel))
        return travel / length if length > 0.0 else travel

    def _waypoint(self, position: npt.NDArray[np.float64], goal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        geometry = self._env.geometry
        if self._env.collision == "swept":
            goal = nearest_clear(goal, geometry)  # a sampled goal may lie inside the wall
            if geometry.in_wall_band(position):
                return geometry.door_exit(geometry.room(goal))
        door = geometry.door_center
        same_room = geometry.room(position) == geometry.room(goal)
        return goal if same_room or np.linalg.norm(door - position) <= DOOR_REACHED else door
