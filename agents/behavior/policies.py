"""Behavior policies: who acts while data are collected."""

from __future__ import annotations

import copy
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lewm_agent.agents.behavior.cube_expert import CubeExpert
from lewm_agent.agents.behavior.mixed import Mixed
from lewm_agent.agents.behavior.push_t_expert import PushTExpert, WeakPush
from lewm_agent.agents.behavior.push_t_replays import PushTReplays
from lewm_agent.agents.behavior.reacher_expert import ReacherExpert
from lewm_agent.agents.behavior.two_room_expert import TwoRoomExpert
from lewm_agent.agents.behavior.weak_cube import WeakCube
from lewm_agent.datasets.rollout import BehaviorPolicy
from lewm_agent.envs.wrappers import OneHotActions


def _mixed_cube(env: gym.Env[Any, Any]) -> BehaviorPolicy:
    return Mixed(CubeExpert(env), WeakCube(env), expert_share=0.7)


def _mixed_push(env: gym.Env[Any, Any]) -> BehaviorPolicy:
    return Mixed(PushTExpert(env), WeakPush(env), expert_share=0.37)  # of the episodes; the expert's are half as long


SCRIPTED: dict[str, dict[str, Callable[[gym.Env[Any, Any]], BehaviorPolicy]]] = {
    "expert": {
        "lewm/Cube-v0": CubeExpert,
        "lewm/PushT-v0": PushTExpert,
        "lewm/Reacher-v0": ReacherExpert,
        "lewm/TwoRoom-v0": TwoRoomExpert,
    },
    "weak": {"lewm/Cube-v0": WeakCube, "lewm/PushT-v0": WeakPush},
    "mixed": {"lewm/Cube-v0": _mixed_cube, "lewm/PushT-v0": _mixed_push},
    "replays": {"lewm/PushT-v0": PushTReplays},
}
"""Name of a scripted policy -> Gymnasium id of an environment -> its factory, with that class's default noise."""


def behavior_policy(spec: Any, env: gym.Env[Any, Any]) -> BehaviorPolicy:
    """Make the policy that acts in ``env``.

    Args:
        spec: ``"expert"`` (the scripted expert of the environment), ``"weak"`` (aimless pushes, or half a cube task
            done), ``"mixed"`` (either, by episode) or ``"replays"`` (the expert's actions with noise), where there is
            one, ``"random"``, a Stable-Baselines3 model, the path of one saved as ``.zip`` (it is unpickled: load only
            files you trust), a function of (observation, info) that returns an action, an object that already is a
            behavior policy, with ``reset(seed)`` and a call, or a class of such, which is made with ``env``: what looks
            into an environment has to look into the very one that is acted in.
        env: the environment it will act in, wrapped or not.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if ``spec`` is none of these.
        ValueError: if the name is unknown, the environment has no expert, the file is not a saved model, or the model's
            spaces are not the environment's.
    """
    one_hot = _one_hot_wrapper(env)
    if one_hot is not None:
        return OneHotPolicy(behavior_policy(spec, one_hot.env), one_hot)
    if isinstance(spec, (str, os.PathLike)):
        return _named_policy(os.fspath(spec), env)
    if _is_stable_baselines_model(spec):
        return _stable_baselines_policy(spec, env)
    if isinstance(spec, type) and hasattr(spec, "reset") and inspect.isfunction(spec.__call__):
        made: BehaviorPolicy = spec(env)
        return made
    if callable(spec) and not isinstance(spec, type):
        return spec if callable(getattr(spec, "reset", None)) else FunctionPolicy(spec)
    scripted = ", ".join(map(repr, SCRIPTED))
    raise TypeError(
        f"a behavior policy is {scripted}, 'random', a Stable-Baselines3 model or the path of its .zip, a callable of "
        "(observation, info), or a class of such with reset(seed), made with the environment; got "
        + (f"the class {spec.__name__}" if isinstance(spec, type) else type(spec).__name__)
    )


class RandomPolicy:
    """Draws actions uniformly from the action space. Before the first ``reset`` it acts as after ``reset(0)``."""

    def __init__(self, action_space: gym.Space[Any]) -> None:
        """Create the policy; it draws from a copy of ``action_space`` with a generator of its own."""
        self._action_space = copy.deepcopy(action_space)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start an episode; its actions depend on ``seed`` alone."""
        self._action_space.seed(int(seed))

    def __call__(self, observation: Any, info: dict[str, Any]) -> np.ndarray[Any, Any]:
        """Return an action of the action space; observation and info are not used."""
        return np.asarray(self._action_space.sample())


class FunctionPolicy:
    """Acts by a function of (observation, info); it keeps no state and draws no random numbers for it."""

    def __init__(self, function: Callable[[Any, dict[str, Any]], Any]) -> None:
        """Wrap ``function``; for a policy that crosses process borders it must be picklable (not a lambda)."""
        self._function = function

    def reset(self, seed: int) -> None:
        """Start an episode; a plain function has nothing to seed."""

    def __call__(self, observation: Any, info: dict[str, Any]) -> np.ndarray[Any, Any]:
        """Return the function's action."""
        action: np.ndarray[Any, Any] = self._function(observation, info)
        return action


class OneHotPolicy:
    """Acts as a policy of choices does, in one-hot vectors."""

    def __init__(self, policy: BehaviorPolicy, wrapper: OneHotActions) -> None:
        """Let ``policy`` act in the environment inside ``wrapper``."""
        self._policy = policy
        self._wrapper = wrapper

    def reset(self, seed: int) -> None:
        """Start an episode; its actions depend on ``seed`` alone."""
        self._policy.reset(seed)

    def __call__(self, observation: Any, info: dict[str, Any]) -> np.ndarray[Any, Any]:
        """Return the vector of the policy's choice."""
        return self._wrapper.vector(self._policy(observation, info))


def _one_hot_wrapper(env: gym.Env[Any, Any]) -> OneHotActions | None:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, OneHotActions):
            return env
        env = env.env
    return None


def _named_policy(name: str, env: gym.Env[Any, Any]) -> BehaviorPolicy:
    if name in SCRIPTED:
        return _scripted(name, env)
    if name == "random":
        return RandomPolicy(env.action_space)
    if name.endswith(".zip"):
        return _stable_baselines_policy(Path(name), env)
    raise ValueError(
        f"unknown behavior policy {name!r}; it is {', '.join(map(repr, SCRIPTED))}, 'random', or the path of a "
        "Stable-Baselines3 model's .zip"
    )


def _scripted(kind: str, env: gym.Env[Any, Any]) -> BehaviorPolicy:
    name, known = env.spec.id if env.spec is not None else None, SCRIPTED[kind]
    if name not in known:
        environment = f"environment `{name}`" if name else "an environment that was not made by gymnasium.make"
        raise ValueError(
            f"there is no scripted policy `{kind}` for {environment}; there is one for {', '.join(known)}. Give "
            "`random`, a Stable-Baselines3 .zip or, in Python, a function"
        )
    return known[name](env)


def _is_stable_baselines_model(spec: Any) -> bool:
    """Say so without importing the library: whoever holds a model has imported it."""
    module = sys.modules.get("stable_baselines3.common.base_class")
    return module is not None and isinstance(spec, module.BaseAlgorithm)


def _stable_baselines_policy(model: Any, env: gym.Env[Any, Any]) -> BehaviorPolicy:
    """A Stable-Baselines3 model, or the path of one, as a behavior policy; torch is imported only here."""
    from lewm_agent.agents.behavior import stable_baselines

    if isinstance(model, Path):
        model = stable_baselines.load_model(model)
    return stable_baselines.StableBaselinesPolicy(model, env)
