"""What an agent asks of an environment: actions that are vectors, and frames of the model's size."""

from __future__ import annotations

import functools
import importlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator

from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.rollout import inner_bounds
from lewm_agent.envs import ENVIRONMENTS, environment_id
from lewm_agent.envs.goal_env import GoalEnv
from lewm_agent.envs.mujoco_gl import prepare_to_draw, prepare_to_make
from lewm_agent.envs.wrappers import OneHotActions, OwnContext, OwnRandomness, ResizedRender
from lewm_agent.tools import strict_json
from lewm_agent.tools.checks import json_object
from lewm_agent.tools.frames import as_rgb

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
    taken = _arguments(environment_id(name)) if given else {}
    known = [*sorted(name for name, kind in taken.items() if kind in _BY_NAME), "max_episode_steps"]
    refused = {"image_size", "render_mode"} if inspect.Parameter.VAR_KEYWORD in taken.values() else set(given)
    if unknown := sorted(refused & given.keys() - set(known)):
        raise ValueError(f"{name} takes no argument {unknown[0]!r} here; it takes {', '.join(known)}")
    return make(name, image_size, **given)


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _arguments(gymnasium_id: str) -> dict[str, Any]:
    """What the environment is made of, and the kind of each of these parameters; not what is set here."""
    module, _, name = gymnasium_id.rpartition(":")
    if module:
        importlib.import_module(module)
    entry = gym.spec(name).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    parameters = inspect.signature(creator).parameters.items() if creator else ()
    return {name: value.kind for name, value in parameters if name not in ("image_size", "render_mode")}


def _json_object(text: str) -> dict[str, Any]:
    expected = f"--environment-kwargs must be a JSON object such as '{{\"terminate_on_success\": false}}', got {text!r}"
    try:
        value = strict_json.parse(text)
    except ValueError as error:
        raise ValueError(f"{expected}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(expected)
    return value


def of_data(name: str, dataset: OfflineDataset, image_size: int) -> Environment:
    """The environment called ``name``, made with the arguments that the data were collected with, if they are of it."""
    known = dataset.metadata
    bare = environment_id(name).rpartition(":")[2]  # data do not name the module that registers it
    kwargs = known.environment_kwargs if known and known.environment_id == bare else {}
    return make(name, **{**kwargs, "image_size": image_size})


def adapt(env: Environment, image_size: int) -> Environment:
    """``env`` with frames (image_size, image_size, 3) and, if its actions are choices, one-hot vectors for them.

    Grey and RGBA frames are made RGB. Resets it, to see a frame.

    Raises:
        ValueError: it does not render RGB arrays, or its actions are neither choices nor a bounded vector.
    """
    silent = env.render_mode is None and not env.metadata.get("render_modes")  # OGBench's arms draw all the same
    if env.render_mode != "rgb_array" and not silent:
        raise ValueError(f"the environment must be made with render_mode='rgb_array', got {env.render_mode!r}")
    if isinstance(env.action_space, gym.spaces.Discrete) and env.action_space.start == 0:
        env = OneHotActions(env)
    action_bounds(env.action_space)
    prepare_to_draw(env)
    env = env if isinstance(env.unwrapped, GoalEnv) else OwnContext(OwnRandomness(env))
    env.reset(seed=0)
    rendered = env.render()
    given = np.asarray(rendered)
    frame = as_rgb(given)
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        what = type(rendered).__name__ if given.dtype == object else f"{given.dtype} {given.shape}"
        raise ValueError(f"the environment renders {what}, not an RGB array (H, W, 3) of uint8")
    return env if given.shape == (image_size, image_size, 3) and not silent else ResizedRender(env, image_size)


def factory(gymnasium_id: str, kwargs: dict[str, Any], image_size: int) -> Callable[[], Environment]:
    """Makes the environment; can be sent to other processes, which need not have registered it."""
    return functools.partial(_make, gym.spec(gymnasium_id), kwargs, image_size)


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
        return spec.id, json_object("argument", kwargs)
    except ValueError as error:
        warnings.warn(
            f"{error}: {spec.id} is used as it is given, and a saved agent does not name it",
            stacklevel=5,
        )
        return None, {}


def name_of(env: Environment) -> str:
    """Its Gymnasium id, or the name of its class."""
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id


ADAPTERS = ("OneHotActions", "OwnContext", "OwnRandomness", "ResizedRender")
"""Names of the wrappers that :func:`adapt` puts on."""


def action_bounds(space: gym.Space[Any]) -> tuple[list[float], list[float]]:
    """Lowest and highest action that float32 has in the space, each of length action_dim.

    Raises ``ValueError`` unless it is a bounded vector of real numbers.
    """
    if isinstance(space, gym.spaces.Box) and space.low.ndim == 1 and space.low.size and space.dtype.kind == "f":
        low, high = inner_bounds(space)
        if np.isfinite([low, high]).all():
            return low.tolist(), high.tolist()
    hint = "; a Box must be of floats" if isinstance(space, gym.spaces.Box) and space.dtype.kind != "f" else ""
    if isinstance(space, gym.spaces.Discrete):
        hint = "; choices must count from 0 (gymnasium.wrappers.TransformAction can shift them)"
    raise ValueError(f"the action space must be Discrete(n) or a bounded one-dimensional Box, got {space}{hint}")


def has_choices(env: Environment) -> bool:
    """Whether the actions of an adapted environment stand for choices."""
    return env.has_wrapper_attr("one_hot_actions")


class _KeptOpen(gym.Wrapper[Any, Any, Any, Any]):
    """Ignores ``close``: whoever made the environment closes it."""

    def close(self) -> None:
        """Do nothing."""


def _make(environment: str | EnvSpec, kwargs: dict[str, Any], image_size: int) -> Environment:
    prepare_to_make()
    return adapt(gym.make(environment, **{**kwargs, "render_mode": "rgb_array"}), image_size)
