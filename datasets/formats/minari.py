"""Datasets of Minari, the offline datasets of the Farama Foundation: read, and written."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.formats.checking import action_rows, is_pictures, require_memory, rgb_frames
from lewm_agent.datasets.formats.source import chosen_frames, described, imported
from lewm_agent.datasets.offline import OfflineDataset
from lewm_agent.datasets.shard_reader import check_self_contained
from lewm_agent.tools.contained import inside
from lewm_agent.tools.progress import counted

ADVICE = 'pip install "lewm-agent[minari]"'
_ID = re.compile(r"[\w.-]+(/[\w.-]+)*-v\d+")


def is_id(text: str) -> bool:
    """Whether ``text`` may name a Minari dataset (``D4RL/door/human-v2``)."""
    return _ID.fullmatch(text) is not None


class MinariSource:
    """A dataset in the local Minari store. See :class:`EpisodeSource` and :func:`open_source`.

    Observations are n + 1 per episode of n actions, as ours. Of a dictionary or tuple of observations every numeric
    vector becomes a column; a single vector becomes ``observation``. Choices become one-hot vectors.

    Raises:
        FileNotFoundError: no such dataset in the store.
        ValueError: its actions are neither vectors nor choices, or what it holds is not what it says.
    """

    def __init__(self, dataset_id: str, frames: str | None = None) -> None:
        library = imported("minari", f"reading {dataset_id}", ADVICE)
        place = imported("minari.storage.datasets_root_dir", f"reading {dataset_id}", ADVICE).get_dataset_path(
            dataset_id
        )
        if not (Path(place) / "data").is_dir():
            raise FileNotFoundError(
                f"there is no dataset {dataset_id} in the local Minari store: minari download {dataset_id}"
            )
        _check_store(Path(place) / "data")
        self._dataset = library.load_dataset(dataset_id)
        self._actions: gym.Space[Any] = self._dataset.action_space
        check_actions(self._actions, dataset_id)
        self.description = f"{dataset_id}, Minari"
        indices = self._dataset.episode_indices
        self._ids = [int(index) for index in indices]
        self.lengths = [int(data["total_steps"]) + 1 for data in self._dataset.storage.get_episode_metadata(indices)]
        if not self._ids:
            raise ValueError(f"{dataset_id} holds no episode")
        steps, said = sum(self.lengths) - len(self.lengths), self._dataset.total_steps
        if steps != said:
            raise ValueError(f"{dataset_id} has {steps} steps in {len(self._ids)} episodes, its metadata say {said}")
        first = _vectors(next(iter(self._dataset.iterate_episodes(self._ids[:1]))).observations)
        pictures = [name for name, values in first.items() if is_pictures(values)]
        self._frames = chosen_frames(pictures, frames, dataset_id, described(first))
        self._others = [n for n, values in first.items() if n not in pictures and values.dtype.kind in "biuf"]

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """One episode. See :class:`EpisodeSource`."""
        episode = next(iter(self._dataset.iterate_episodes([self._ids[index]])))
        observations = _vectors(episode.observations)
        outcomes = {"reward": episode.rewards, "terminated": episode.terminations, "truncated": episode.truncations}
        if taken := {*self._others} & {*outcomes, "action", "pixels"}:
            raise ValueError(f"an observation is called {sorted(taken)[0]}, as a column of every episode is")
        return {
            **{name: observations[name] for name in self._others},
            **{name: np.concatenate([values, np.zeros_like(values[:1])]) for name, values in outcomes.items()},
            "pixels": rgb_frames(observations[self._frames], self._frames),
            "action": vectors_of(episode.actions, self._actions, self.lengths[index]),
        }


def _check_store(folder: Path) -> None:
    """Minari imports and makes the environment that a dataset without spaces names, and follows links."""
    content = json.loads(inside(folder, "metadata.json").read_text(encoding="utf-8"))
    spaces = [content.get(name) for name in ("observation_space", "action_space")] if isinstance(content, dict) else []
    if not spaces or not all(isinstance(space, str) for space in spaces):
        raise ValueError(
            f"{folder}/metadata.json lacks the spaces of observations and actions, and reading it would run the "
            "environment that it names; write the dataset again with a newer Minari"
        )
    for file in folder.rglob("*.hdf5"):
        check_self_contained(inside(folder, file))


def check_actions(space: gym.Space[Any], dataset_id: str) -> None:
    """Raise ``ValueError`` unless actions are vectors or choices among a few."""
    is_vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0
    if not is_vector and not isinstance(space, gym.spaces.Discrete):
        raise ValueError(
            f"{dataset_id} has actions of {space}; only vectors (Box of shape (n,)) and choices (Discrete) can be used"
        )


def vectors_of(actions: Any, space: gym.Space[Any], rows: int) -> NDArray[np.float32]:
    """Actions of ``space`` as (rows, A) float32, choices in one-hot vectors, as they are collected here."""
    values = np.asarray(actions)
    if not isinstance(space, gym.spaces.Discrete):
        if values.dtype.kind not in "biuf" or values.shape[1:] != space.shape:
            raise ValueError(f"actions are {values.dtype} {values.shape[1:]}, and the dataset says {space}")
        return action_rows(values.astype(np.float64), rows)
    count = int(space.n)
    choices = values.reshape(-1).astype(np.int64) - int(space.start) if values.dtype.kind in "iu" else values
    if values.dtype.kind not in "iu" or values.size != len(values) or ((choices < 0) | (choices >= count)).any():
        raise ValueError(f"actions {values.dtype} {values.shape} are not choices in {space}")
    require_memory(4 * count * rows, f"one-hot vectors of {space}")
    vectors = np.zeros((len(choices), count), np.float32)
    vectors[np.arange(len(choices)), choices] = 1
    return action_rows(vectors, rows)


def _vectors(observations: Any, name: str = "") -> dict[str, NDArray[Any]]:
    """The leaves of nested dictionaries and tuples of arrays, by the names on the way to them."""
    if not isinstance(observations, dict | tuple):
        values = np.asarray(observations)
        return {name or ("pixels" if is_pictures(values) else "observation"): values}
    parts = observations.items() if isinstance(observations, dict) else enumerate(observations)
    leaves = [leaf for key, part in parts for leaf in _vectors(part, f"{name}_{key}" if name else str(key)).items()]
    if len(dict(leaves)) < len(leaves):
        raise ValueError(f"observations have the same name: {', '.join(name for name, _ in leaves)}")
    return dict(leaves)


def export(dataset: OfflineDataset, dataset_id: str, *, progress: bool = True) -> None:
    """Write a dataset of ours into the local Minari store, without loss.

    Observations are dictionaries of ``pixels`` and, if the dataset has it, ``state``.

    Raises:
        FileExistsError: the store has a dataset of that name.
        ImportError: minari is not installed.
        ValueError: not a Minari id, or a dataset with a frame for every k-th row only.
    """
    library = imported("minari", "writing a Minari dataset", ADVICE)
    if not is_id(dataset_id):
        raise ValueError(f"{dataset_id!r} is not a Minari id; they look like `lewm/two-room/expert-v0`")
    if dataset.frame_interval != 1:
        raise ValueError(
            f"{dataset.path} has frames for every {dataset.frame_interval} steps only; Minari stores one per step"
        )
    if dataset_id in library.list_local_datasets():
        raise FileExistsError(f"the local Minari store already has {dataset_id}: minari delete {dataset_id}")
    names = [name for name in ("pixels", "state") if name in dataset.columns]
    first = dataset.episode(0)
    spaces: dict[str, gym.Space[Any]] = {name: _space(first[name]) for name in names}
    actions = gym.spaces.Box(-np.inf, np.inf, (dataset.action_dim,), np.float32)
    source = dataset.metadata
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.create_dataset_from_buffers(
            dataset_id,
            _buffers(dataset, names, progress),
            observation_space=gym.spaces.Dict(spaces),
            action_space=actions,
            algorithm_name=source.policy if source else None,
            description=f"{source.environment_id}, seed {source.seed}" if source else dataset.path.name,
            jpeg_encoding=False,
        )


def _space(values: NDArray[Any]) -> gym.spaces.Box:
    if values.dtype == np.uint8:
        return gym.spaces.Box(0, 255, values.shape[1:], np.uint8)
    return gym.spaces.Box(-np.inf, np.inf, values.shape[1:], values.dtype.type)


def _buffers(dataset: OfflineDataset, names: list[str], progress: bool) -> Iterator[Any]:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    for index in counted("exporting", range(dataset.num_episodes), shown=progress):
        columns = dataset.episode(index)
        steps = len(columns["action"]) - 1
        nothing = np.zeros(steps + 1)
        yield EpisodeBuffer(
            id=index,
            observations={name: columns[name] for name in names},
            actions=columns["action"][:steps],
            rewards=columns.get("reward", nothing)[:steps],
            terminations=columns.get("terminated", nothing.astype(bool))[:steps],
            truncations=columns.get("truncated", nothing.astype(bool))[:steps],
        )
