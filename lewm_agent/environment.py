"""What an agent asks of an environment: a bounded action vector and frames of the right size."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from lewm_agent.envs import ENVIRONMENTS, environment_id

Environment = gym.Env[Any, Any]


def make(name: str, image_size: int, **kwargs: Any) -> Environment:
    """The environment called ``name`` (short name or id), rendering RGB arrays; ours render at ``image_size``."""
    gymnasium_id = environment_id(name)
    size = {"image_size": image_size} if gymnasium_id in ENVIRONMENTS.values() else {}
    return _make(gymnasium_id, {**size, **kwargs})


def factory(gymnasium_id: str, kwargs: dict[str, Any]) -> Callable[[], Environment]:
    """Makes the environment; can be sent to other processes."""
    return functools.partial(_make, gymnasium_id, kwargs)


def same(env: Environment) -> Callable[[], Environment]:
    """A factory for an environment that has no id: always this very one."""
    return lambda: env


def identity(env: Environment) -> tuple[str | None, dict[str, Any]]:
    """Gymnasium id and keyword arguments an environment was made with; (None, {}) for an unregistered one."""
    spec = env.unwrapped.spec
    if spec is None:
        return None, {}
    return spec.id, {name: value for name, value in spec.kwargs.items() if name != "render_mode"}


def action_bounds(space: gym.Space[Any]) -> tuple[list[float], list[float]]:
    """Lowest and highest action, each of length action_dim. Raises ``ValueError`` unless it is a bounded vector."""
    if not isinstance(space, gym.spaces.Box) or space.low.ndim != 1 or not np.isfinite([space.low, space.high]).all():
        raise ValueError(f"the action space must be a bounded one-dimensional Box, got {space}")
    return space.low.tolist(), space.high.tolist()


def check_frames(env: Environment, side: int) -> None:
    """Raise ``ValueError`` unless ``env`` renders (side, side, 3) RGB arrays; resets it."""
    if env.render_mode != "rgb_array":
        raise ValueError(f"the environment must be made with render_mode='rgb_array', got {env.render_mode!r}")
    env.reset(seed=0)
    shape = np.asarray(env.render()).shape
    if shape != (side, side, 3):
        raise ValueError(f"the environment renders {shape} frames, the model needs {(side, side, 3)}")


def _make(gymnasium_id: str, kwargs: dict[str, Any]) -> Environment:
    return gym.make(gymnasium_id, **{**kwargs, "render_mode": "rgb_array"})
