"""What an agent asks of an environment: actions that are vectors, and frames of the model's size."""

from __future__ import annotations

import functools
import inspect
import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from lewm_agent.datasets import OfflineDataset
from lewm_agent.envs import ENVIRONMENTS, environment_id
from lewm_agent.envs.mujoco_gl import prepare_to_draw
from lewm_agent.envs.wrappers import OneHotActions, ResizedRender

Environment = gym.Env[Any, Any]


def make(name: str, image_size: int, **kwargs: Any) -> Environment:
    """The environment called ``name`` (short name or id), rendering (image_size, image_size, 3) RGB arrays."""
    gymnasium_id = environment_id(name)
    size = {"image_size": image_size} if gymnasium_id in ENVIRONMENTS.values() else {}
    return _make(gymnasium_id, {**size, **kwargs}, image_size)


def from_text(name: str, image_size: int, kwargs: str) -> Environment:
    """The environment called ``name`` with arguments given as a JSON object.

    Raises:
        ValueError: it is no such object, or it has an argument that the environment does not take.
    """
    given = _json_object(kwargs)
    env = make(name, image_size)
    known = sorted(set(inspect.signature(type(env.unwrapped)).parameters) - {"image_size", "render_mode"})
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{name} takes no argument {unknown[0]!r} here; it takes {', '.join(known) or 'none'}")
    return make(name, image_size, **given) if given else env


def _json_object(text: str) -> dict[str, Any]:
    expected = f"--environment-kwargs must be a JSON object such as '{{\"terminate_on_success\": false}}', got {text!r}"
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{expected}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(expected)
    return value


def of_data(name: str, dataset: OfflineDataset, image_size: int) -> Environment:
    """The environment called ``name``, made with the arguments that the data were collected with, if they are of it."""
    known = dataset.metadata
    kwargs = known.environment_kwargs if known and known.environment_id == environment_id(name) else {}
    return make(name, **{**kwargs, "image_size": image_size})


def adapt(env: Environment, image_size: int) -> Environment:
    """``env`` with frames (image_size, image_size, 3) and, if its actions are choices, one-hot vectors for them.

    Resets it, to see a frame.

    Raises:
        ValueError: it does not render RGB arrays, or its actions are neither choices nor a bounded vector.
    """
    if env.render_mode != "rgb_array":
        raise ValueError(f"the environment must be made with render_mode='rgb_array', got {env.render_mode!r}")
    if isinstance(env.action_space, gym.spaces.Discrete) and env.action_space.start == 0:
        env = OneHotActions(env)
    action_bounds(env.action_space)
    prepare_to_draw(env)
    env.reset(seed=0)
    frame = np.asarray(env.render())
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"the environment renders {frame.dtype} {frame.shape}, not an RGB array (H, W, 3) of uint8")
    return env if frame.shape[:2] == (image_size, image_size) else ResizedRender(env, image_size)


def factory(gymnasium_id: str, kwargs: dict[str, Any], image_size: int) -> Callable[[], Environment]:
    """Makes the environment; can be sent to other processes."""
    return functools.partial(_make, gymnasium_id, kwargs, image_size)


def same(env: Environment) -> Callable[[], Environment]:
    """A factory that always gives this very environment, which stays open."""
    return lambda: _KeptOpen(env)


def identity(env: Environment) -> tuple[str | None, dict[str, Any]]:
    """Gymnasium id and keyword arguments that make the environment again; (None, {}) if nothing would.

    That is so for an unregistered environment, for one in wrappers that ``gymnasium.make`` does not put on by itself,
    and, with a warning, for one made with arguments that JSON does not hold, such as arrays.
    """
    spec = env.spec
    if spec is None or any(wrapper.name not in ADAPTERS for wrapper in spec.additional_wrappers):
        return None, {}
    kwargs = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
    registered = gym.registry.get(spec.id)
    if registered is not None and registered.max_episode_steps != spec.max_episode_steps:
        kwargs["max_episode_steps"] = spec.max_episode_steps
    try:
        return spec.id, {name: _plain(name, value) for name, value in kwargs.items()}
    except ValueError as error:
        warnings.warn(
            f"{error}, which cannot be saved: {spec.id} is used as it is given, and a saved agent does not name it",
            stacklevel=5,
        )
        return None, {}


def _plain(name: str, value: Any) -> Any:
    """The value as JSON gives it back. Raises ``ValueError`` if JSON does not hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(f"{name}.{key}", item) for key, item in value.items()}
    raise ValueError(f"argument `{name}` of the environment is {type(value).__name__} {value!r}")


ADAPTERS = ("OneHotActions", "ResizedRender")
"""Names of the wrappers that :func:`adapt` puts on."""


def action_bounds(space: gym.Space[Any]) -> tuple[list[float], list[float]]:
    """Lowest and highest action, each of length action_dim. Raises ``ValueError`` unless it is a bounded vector."""
    if not isinstance(space, gym.spaces.Box) or space.low.ndim != 1 or not np.isfinite([space.low, space.high]).all():
        raise ValueError(f"the action space must be Discrete(n) or a bounded one-dimensional Box, got {space}")
    return space.low.tolist(), space.high.tolist()


def has_choices(env: Environment) -> bool:
    """Whether the actions of an adapted environment stand for choices."""
    return env.has_wrapper_attr("one_hot_actions")


class _KeptOpen(gym.Wrapper[Any, Any, Any, Any]):
    """Ignores ``close``: whoever made the environment closes it."""

    def close(self) -> None:
        """Do nothing."""


def _make(gymnasium_id: str, kwargs: dict[str, Any], image_size: int) -> Environment:
    return adapt(gym.make(gymnasium_id, **{**kwargs, "render_mode": "rgb_array"}), image_size)
