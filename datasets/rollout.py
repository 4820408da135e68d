"""One episode of a behavior policy: its seeds, and what is recorded of it."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.shards import check_frames


class BehaviorPolicy(Protocol):
    """Who acts while data are collected."""

    def reset(self, seed: int) -> None:
        """Start an episode; all randomness of the episode must come from ``seed``."""

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[Any]:
        """Return an action of the environment's action space, in its units."""


def episode_seed(seed: int, index: int, stream: int = 0) -> int:
    """Seed of the environment in episode ``index``, in [0, 2**32).

    Args:
        seed: Seed of the dataset or the evaluation.
        index: Number of the episode.
        stream: 0 for collected data, 1 for held-out evaluation; streams never share a derivation.

    Raises:
        ValueError: A negative number.
    """
    return _derived_seed(seed, stream, index)


def policy_seed(seed: int, index: int, stream: int = 0) -> int:
    """Seed of the behavior policy in episode ``index``; like :func:`episode_seed`, but a different number."""
    return _derived_seed(seed, stream, index, 1)


def _derived_seed(seed: int, *key: int) -> int:
    if seed < 0 or min(key) < 0:
        raise ValueError(f"seed, episode index and stream must be at least 0, got {seed} and {key}")
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])


def rollout(
    env: gym.Env[Any, Any], policy: BehaviorPolicy, env_seed: int, policy_seed: int, frame_interval: int | None = 1
) -> dict[str, NDArray[Any]]:
    """Play one episode until it terminates or is truncated.

    Args:
        env: An environment with a continuous action space of shape (A,).
        policy: Who acts.
        env_seed: Seed for ``env.reset``.
        policy_seed: Seed for ``policy.reset``.
        frame_interval: Record the frame of every so many rows, from the first; None records none. The other columns do
            not depend on it.

    Returns:
        Columns of n + 1 rows for n actions. ``action`` (n + 1, A) float32: row t leaves frame t, the last row is NaN.
        ``reward`` float64, ``terminated`` and ``truncated`` bool: what the action of the row led to; the last row,
        without action, has 0, False and False. ``state`` and ``goal_state`` (n + 1, S) float64, if the environment's
        info has them. ``pixels`` uint8, the frames of rows 0, frame_interval, 2 frame_interval, ..., if recorded.

    Raises:
        TypeError: A frame that is not uint8.
        ValueError: A frame or an action of the wrong shape, or an action that is not finite.
    """
    observation, info = env.reset(seed=env_seed)
    policy.reset(policy_seed)
    recorder = _Recorder(env, frame_interval)
    recorder.add_situation(info)
    done = False
    while not done:
        action = recorder.checked_action(policy(observation, info))
        observation, reward, terminated, truncated, info = env.step(action.copy())
        recorder.add_outcome(action, float(reward), bool(terminated), bool(truncated))
        recorder.add_situation(info)
        done = bool(terminated or truncated)
    return recorder.columns()


class _Recorder:
    """Gathers the columns of one episode."""

    def __init__(self, env: gym.Env[Any, Any], frame_interval: int | None) -> None:
        self.env = env
        self.frame_interval = frame_interval
        self.action_shape = continuous_action_space(env).shape
        self.situations: dict[str, list[NDArray[Any]]] = {}
        self.outcomes: dict[str, list[Any]] = {"action": [], "reward": [], "terminated": [], "truncated": []}

    def add_situation(self, info: dict[str, Any]) -> None:
        names = ("state", "goal_state")
        row: dict[str, NDArray[Any]] = {name: np.array(info[name], np.float64) for name in names if name in info}
        if self.frame_interval is not None and len(self.outcomes["action"]) % self.frame_interval == 0:
            row["pixels"] = rendered_frame(self.env)
        for name, value in row.items():
            rows = self.situations.setdefault(name, [])
            if rows and value.shape != rows[0].shape:
                raise ValueError(f"{name} has shape {value.shape} in row {len(rows)}, {rows[0].shape} in row 0")
            rows.append(value)

    def checked_action(self, action: Any) -> NDArray[np.float32]:
        checked = np.array(action, dtype=np.float32)
        if checked.shape != self.action_shape:
            raise ValueError(f"the policy's action has shape {checked.shape}, the environment's is {self.action_shape}")
        if not np.isfinite(checked).all():
            raise ValueError(f"the policy's action {checked} in step {len(self.outcomes['action'])} is not finite")
        return checked

    def add_outcome(self, action: NDArray[np.float32], reward: float, terminated: bool, truncated: bool) -> None:
        row = {"action": action, "reward": reward, "terminated": terminated, "truncated": truncated}
        for name, value in row.items():
            self.outcomes[name].append(value)

    def columns(self) -> dict[str, NDArray[Any]]:
        no_action = np.full(self.action_shape, np.nan, np.float32)
        outcomes = {
            "action": np.stack([*self.outcomes["action"], no_action]),
            "reward": np.asarray([*self.outcomes["reward"], 0.0], np.float64),
            "terminated": np.asarray([*self.outcomes["terminated"], False], np.bool_),
            "truncated": np.asarray([*self.outcomes["truncated"], False], np.bool_),
        }
        return {**{name: np.stack(rows) for name, rows in self.situations.items()}, **outcomes}


def rendered_frame(env: gym.Env[Any, Any]) -> NDArray[np.uint8]:
    """Return a copy of the environment's current frame (H, W, 3) uint8, or raise if it renders anything else."""
    frame = env.render()
    if not isinstance(frame, np.ndarray):
        raise TypeError(
            f"env.render() must return a uint8 frame, got {type(frame).__name__}; use render_mode='rgb_array'"
        )
    check_frames(frame, "a frame of env.render()")
    if frame.ndim != 3:
        raise ValueError(f"a frame of env.render() must have shape (height, width, 3), got {frame.shape}")
    return frame.copy()  # an environment may draw every frame into the same array


def continuous_action_space(env: gym.Env[Any, Any]) -> gym.spaces.Box:
    """The action space, if it is a vector of real numbers. Raises ``ValueError`` otherwise."""
    space = env.action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"the action space must be a Box of shape (action_dim,), got {space}")
    return space
