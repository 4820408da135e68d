"""One episode of a behavior policy: its seeds, and what is recorded of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from lewm_agent.datasets.shards import REACHED, SOMETIMES_THERE, check_frames
from lewm_agent.tools.checks import whole_number
from lewm_agent.tools.frames import as_rgb

MAX_STEPS = 10_000
"""Steps after which an episode must have ended in an environment that has no time limit."""


class EpisodeOver(Exception):
    """Raised instead of acting by a behavior policy that has done what it had to do: the episode ends, truncated."""


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
    entropy = whole_number("seed", seed, 0)
    if min(key) < 0:
        raise ValueError(f"episode index and stream must be at least 0, got {key}")
    return int(np.random.SeedSequence(entropy, spawn_key=key).generate_state(1)[0])


def rollout(
    env: gym.Env[Any, Any], policy: BehaviorPolicy, env_seed: int, policy_seed: int, frame_interval: int | None = 1
) -> dict[str, NDArray[Any]]:
    """Play one episode until it terminates or is truncated, or until the policy raises :class:`EpisodeOver`.

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
        without action, has 0, False and False. ``state`` and whatever else the environment
        tells in every row as numbers of one shape (:func:`measured`), (n + 1, S) float64. ``pixels`` uint8, the frames
        of rows 0, frame_interval, 2 frame_interval, ..., if recorded. ``expert`` bool, the same in every row, where
        the policy says so (``is_expert``).

    Raises:
        TypeError: A frame that is not uint8.
        ValueError: A frame or an action of the wrong shape, an action or a reward that is not finite, or an episode
            without end, see :func:`steps_of`.
    """
    observation, info = _returned(env.reset(seed=env_seed), "reset", "observation, info")
    policy.reset(policy_seed)
    recorder = _Recorder(env, frame_interval)
    recorder.add_situation(observation, info)
    for _ in steps_of(env):
        try:
            action = recorder.checked_action(policy(observation, info))
        except EpisodeOver:
            recorder.cut()
            break
        outcome = _returned(env.step(action.astype(recorder.space.dtype)), "step", _OUTCOME)
        observation, reward, terminated, truncated, info = outcome
        recorder.add_outcome(action, reward, bool(terminated), bool(truncated))
        recorder.add_situation(observation, info)
        if terminated or truncated:
            break
    columns = recorder.columns()
    is_expert = getattr(policy, "is_expert", None)  # of policies that are not the same in every episode
    if is_expert is not None:
        columns["expert"] = np.full(len(columns["action"]), is_expert, np.bool_)
    return columns


_OUTCOME = "observation, reward, terminated, truncated, info"


def _returned(values: Any, method: str, expected: str) -> Any:
    """What a method of an environment has returned, if it is what Gymnasium asks for, and not what Gym did."""
    if isinstance(values, tuple) and len(values) == expected.count(",") + 1 and isinstance(values[-1], dict):
        return values
    raise ValueError(f"env.{method}() must return ({expected}), the last a dictionary, as Gymnasium's environments do")


def steps_of(env: gym.Env[Any, Any]) -> Iterator[int]:
    """Count the steps of an episode, which whoever plays it leaves when it ends.

    Raises:
        ValueError: It has not ended after ``MAX_STEPS``, and the environment has no time limit that would end it later.
    """
    yield from range(_time_limit(env) or MAX_STEPS)
    raise ValueError(
        f"the episode has not ended after {_time_limit(env) or MAX_STEPS} steps; give the environment a time limit, "
        "gymnasium.make(..., max_episode_steps=200) or gymnasium.wrappers.TimeLimit"
    )


def checked_reward(reward: Any, step: int) -> float:
    """The reward of a step as a number. Raises ``ValueError`` unless it is one, and finite."""
    number = reward if isinstance(reward, float) else _one_number(reward)
    if number is None or not math.isfinite(number):
        raise ValueError(f"the reward in step {step} must be one finite number, got {reward!r}")
    return number


def _time_limit(env: gym.Env[Any, Any]) -> int | None:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            return int(env._max_episode_steps)
        env = env.env
    return None


class _Recorder:
    """Gathers the columns of one episode."""

    def __init__(self, env: gym.Env[Any, Any], frame_interval: int | None) -> None:
        self.env = env
        self.frame_interval = frame_interval
        self.space = continuous_action_space(env)
        self.situations: dict[str, list[NDArray[Any]]] = {name: [] for name in SOMETIMES_THERE}
        self.outcomes: dict[str, list[Any]] = {"action": [], "reward": [], "terminated": [], "truncated": []}

    def add_situation(self, observation: Any, info: dict[str, Any]) -> None:
        number, told = len(self.outcomes["action"]), measured(observation, info)
        for name in SOMETIMES_THERE:
            rows = self.situations.get(name)
            value = told.get(name)
            if rows is None or value is None or (rows and value.shape != rows[0].shape):
                self.situations.pop(name, None)
            else:
                rows.append(value)
        if self.frame_interval is not None and number % self.frame_interval == 0:
            frames = self.situations.setdefault("pixels", [])
            frames.append(rendered_frame(self.env))
            if frames[-1].shape != frames[0].shape:
                raise ValueError(f"pixels has shape {frames[-1].shape} in row {number}, {frames[0].shape} in row 0")

    def checked_action(self, action: Any) -> NDArray[np.float32]:
        try:
            exact = np.asarray(action, self.space.dtype)
        except (TypeError, ValueError):
            raise ValueError(f"the policy's action must be a vector of numbers, got {action!r}") from None
        if exact.shape != self.space.shape:
            raise ValueError(f"the policy's action has shape {exact.shape}, the environment's is {self.space.shape}")
        if not np.isfinite(exact).all():
            raise ValueError(f"the policy's action {exact} in step {len(self.outcomes['action'])} is not finite")
        checked = exact.astype(np.float32)
        if self.space.dtype != np.float32:  # what lies inside must not be rounded out of the space
            low, high = inner_bounds(self.space)
            checked = np.where(exact >= self.space.low, np.maximum(checked, low), checked)
            checked = np.where(exact <= self.space.high, np.minimum(checked, high), checked)
        return checked

    def add_outcome(self, action: NDArray[np.float32], reward: Any, terminated: bool, truncated: bool) -> None:
        number = checked_reward(reward, len(self.outcomes["action"]))
        row = {"action": action, "reward": number, "terminated": terminated, "truncated": truncated}
        for name, value in row.items():
            self.outcomes[name].append(value)

    def cut(self) -> None:
        """The last action was the last of the episode."""
        if not self.outcomes["action"]:
            raise ValueError("the policy has ended an episode before its first action")
        self.outcomes["truncated"][-1] = True

    def columns(self) -> dict[str, NDArray[Any]]:
        no_action = np.full(self.space.shape, np.nan, np.float32)
        outcomes = {
            "action": np.stack([*self.outcomes["action"], no_action]),
            "reward": np.asarray([*self.outcomes["reward"], 0.0], np.float64),
            "terminated": np.asarray([*self.outcomes["terminated"], False], np.bool_),
            "truncated": np.asarray([*self.outcomes["truncated"], False], np.bool_),
        }
        return {**{name: np.stack(rows) for name, rows in self.situations.items()}, **outcomes}


def measured(observation: Any, info: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """What an environment tells of its situation in numbers, by name.

    ``state`` and ``goal_state`` are those of ``info``, or else a ``state`` in the observation. Where there is no state,
    ``observation`` is the observation itself, or the one in it (Gymnasium-Robotics), if it is a vector; so is
    ``achieved_goal``. An attempt also tells whether its goal is reached.
    """
    inside = observation if isinstance(observation, Mapping) else {"observation": observation}
    vectors = {name: value for name, value in inside.items() if getattr(value, "ndim", 0) == 1}
    told = {name: _numbers(info.get(name, vectors.get(name))) for name in ("state", "goal_state")}
    told |= {REACHED: _numbers(info.get(REACHED))}
    seen = () if told["state"] is not None else ("observation",)
    told |= {name: _numbers(vectors.get(name)) for name in (*seen, "achieved_goal")}
    return {name: numbers for name, numbers in told.items() if numbers is not None}


def _numbers(value: Any) -> NDArray[np.float64] | None:
    """A copy of ``value`` as real numbers; None if it is nothing of the kind."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # lists of unequal length, or a tensor elsewhere or with a gradient
        return None
    return np.array(array, np.float64) if array.dtype.kind in "biuf" and array.size else None


def _one_number(value: Any) -> float | None:
    numbers = _numbers(value)
    return float(numbers.item()) if numbers is not None and numbers.size == 1 else None


def rendered_frame(env: gym.Env[Any, Any]) -> NDArray[np.uint8]:
    """Return a copy of the environment's current frame as (H, W, 3) uint8, see :func:`as_rgb`, or raise."""
    frame = env.render()
    if not isinstance(frame, np.ndarray):
        raise TypeError(
            f"env.render() must return a uint8 frame, got {type(frame).__name__}; use render_mode='rgb_array'"
        )
    frame = as_rgb(frame)
    check_frames(frame, "a frame of env.render()")
    if frame.ndim != 3:
        raise ValueError(f"a frame of env.render() must have shape (height, width, 3), got {frame.shape}")
    return frame.copy()  # an environment may draw every frame into the same array


def continuous_action_space(env: gym.Env[Any, Any]) -> gym.spaces.Box:
    """The action space, if it is a vector of real numbers. Raises ``ValueError`` otherwise."""
    space = env.action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"the action space must be a Box of shape (action_dim,), got {space}")
    if space.dtype.kind != "f" or not space.shape[0]:
        raise ValueError(f"the action space must be a Box of at least one real number, got {space}")
    return space


def inner_bounds(space: gym.spaces.Box) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The lowest and the highest float32 numbers that lie in the space, each of its shape."""
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    low = np.where(low < space.low, np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high > space.high, np.nextafter(high, np.float32(-np.inf)), high)
    return low, high
