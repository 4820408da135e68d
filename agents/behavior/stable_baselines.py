"""Stable-Baselines3 models as behavior policies."""

from __future__ import annotations

import copy
import importlib
import io
import json
import random
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecTransposeImage

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

# A saved Stable-Baselines3 model does not name its algorithm, but the first of these settings that it holds tells it.
# DDPG is saved exactly as TD3 is, of which it is a special case that acts alike.
_ALGORITHM_BY_SETTING = {
    "clip_range": "PPO",
    "normalize_advantage": "A2C",  # PPO has it too
    "target_entropy": "SAC",
    "target_policy_noise": "TD3",
    "exploration_fraction": "DQN",
}


class StableBaselinesPolicy:
    """Acts by a Stable-Baselines3 model, with its exploration noise (``deterministic=False``).

    Stable-Baselines3 draws from the global generators of Python, numpy and torch. Here they are put to states of this
    policy's own while the model acts and put back afterwards, so that an episode depends on its seed alone, whoever
    else acts in the process. Before the first ``reset`` it acts as after ``reset(0)``.
    """

    def __init__(self, model: BaseAlgorithm, env: gym.Env[Any, Any]) -> None:
        """Wrap a model that was trained on the spaces of ``env``.

        Raises:
            ValueError: if observation or action space differ; the message shows both.
        """
        for name in ("observation_space", "action_space"):
            trained, given = getattr(model, name), getattr(env, name)
            if trained not in (given, _channels_first(given)):
                raise ValueError(f"the model's {name.replace('_', ' ')} is {trained}, the environment's is {given}")
        self.model = model
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start an episode; its actions depend on ``seed`` alone."""
        seed = int(seed)
        self._action_space = copy.deepcopy(self.model.action_space)
        self._action_space.seed(seed)
        self._random_state = _seeded_random_state(seed, self.model.device)
        self._memory: Any = None
        self._starts = True

    def __call__(self, observation: Any, info: dict[str, Any]) -> np.ndarray[Any, Any]:
        """Return the model's action for one observation; info is not used."""
        with self._own_randomness():
            action, self._memory = self.model.predict(
                observation, self._memory, episode_start=np.array([self._starts]), deterministic=False
            )
        self._starts = False
        return np.asarray(action)

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        outer_state, outer_space = _random_state(self.model.device), self.model.action_space
        _set_random_state(self._random_state, self.model.device)
        self.model.action_space = self._action_space  # DQN explores by sampling from it
        try:
            yield
        finally:
            self._random_state = _random_state(self.model.device)
            self.model.action_space = outer_space
            _set_random_state(outer_state, self.model.device)

    def __getstate__(self) -> dict[str, Any]:
        """Replace the model, whose environments and loggers cannot be pickled, by its saved file."""
        file = io.BytesIO()
        self.model.save(file)
        return {**self.__dict__, "model": (type(self.model), file.getvalue())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        algorithm, saved = state["model"]
        self.__dict__.update(state, model=algorithm.load(io.BytesIO(saved), device="cpu"))


def _channels_first(space: gym.Space[Any]) -> gym.Space[Any]:
    """The space as a model has it that was trained there: the library turns pictures, and takes them both ways."""
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict({name: _channels_first(part) for name, part in space.spaces.items()})
    if isinstance(space, gym.spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def load_model(path: Path) -> BaseAlgorithm:
    """A model saved as ``.zip``; it is unpickled, so load only files you trust."""
    if not path.is_file():
        raise FileNotFoundError(f"no Stable-Baselines3 model at {path}")
    algorithm = _saved_algorithm(path)
    library = importlib.import_module("stable_baselines3")
    return getattr(library, algorithm).load(path, device="cpu")


def _saved_algorithm(path: Path) -> str:
    """Name the algorithm of a saved model by the settings in its JSON part; nothing is unpickled here."""
    try:
        with zipfile.ZipFile(path) as archive:
            settings = json.loads(archive.read("data"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a model saved by Stable-Baselines3") from error
    policy_module = str(settings.get("policy_class", {}).get("__module__", ""))
    found = [name for setting, name in _ALGORITHM_BY_SETTING.items() if setting in settings]
    if not found or policy_module.startswith("sb3_contrib"):
        raise ValueError(
            f"cannot tell which algorithm saved {path} (PPO, A2C, SAC, TD3, DDPG and DQN are known); load it yourself "
            "and give the model instead of the path"
        )
    return found[0]


def _seeded_random_state(seed: int, device: torch.device) -> dict[str, Any]:
    """Return the states that seeding would put the global generators to, without touching them."""
    state = {
        "python": random.Random(seed).getstate(),
        "numpy": np.random.RandomState(seed % 2**32).get_state(),
        "torch": torch.Generator().manual_seed(seed).get_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.Generator(device).manual_seed(seed).get_state()
    return state


def _random_state(device: torch.device) -> dict[str, Any]:
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
