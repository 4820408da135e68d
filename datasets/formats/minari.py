"""Datasets of Minari, the offline datasets of the Farama Foundation: read, and written."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from lewm_agent.datasets.formats.source import chosen_frames, imported, with_last_row
from lewm_agent.datasets.offline import OfflineDataset

ADVICE = 'pip install "lewm-agent[minari]"'
_ID = re.compile(r"[\w.-]+(/[\w.-]+)*-v\d+")


def is_id(text: str) -> bool:
    """Whether ``text`` may name a Minari dataset (``D4RL/door/human-v2``)."""
    return _ID.fullmatch(text) is not None


class MinariSource:
    """A dataset in the local Minari store. See :class:`EpisodeSource` and :func:`open_source`.

    Observations are n + 1 per episode of n actions, as ours. Of a dictionary of observations every numeric vector
    becomes a column; a single vector becomes ``observation``.

    Raises:
        FileNotFoundError: no such dataset in the store.
    """

    def __init__(self, dataset_id: str, frames: str | None = None) -> None:
        library = imported("minari", f"reading {dataset_id}", ADVICE)
        try:
            self._dataset = library.load_dataset(dataset_id)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"there is no dataset {dataset_id} in the local Minari store: minari download {dataset_id}"
            ) from error
        self.description = f"{dataset_id}, Minari"
        indices = self._dataset.episode_indices
        self._ids = [int(index) for index in indices]
        self.lengths = [int(data["total_steps"]) + 1 for data in self._dataset.storage.get_episode_metadata(indices)]
        first = _vectors(next(iter(self._dataset.iterate_episodes(self._ids[:1]))).observations)
        pictures = [name for name, values in first.items() if values.ndim == 4 and values.dtype == np.uint8]
        self._frames = chosen_frames(pictures, frames, dataset_id)
        self._others = [n for n, values in first.items() if n not in pictures and values.dtype.kind in "biuf"]

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """One episode. See :class:`EpisodeSource`."""
        episode = next(iter(self._dataset.iterate_episodes([self._ids[index]])))
        observations = _vectors(episode.observations)
        rows = len(episode.rewards) + 1
        outcomes = {"reward": episode.rewards, "terminated": episode.terminations, "truncated": episode.truncations}
        return {
            **{name: observations[name] for name in self._others},
            **{name: np.concatenate([values, np.zeros(1, values.dtype)]) for name, values in outcomes.items()},
            "pixels": observations[self._frames],
            "action": with_last_row(episode.actions, rows),
        }


def _vectors(observations: Any, name: str = "") -> dict[str, NDArray[Any]]:
    """The leaves of nested dictionaries of arrays, by the names on the way to them."""
    if not isinstance(observations, dict):
        values = np.asarray(observations)
        return {name or ("pixels" if values.ndim == 4 else "observation"): values}
    return {
        leaf: values
        for key, part in observations.items()
        for leaf, values in _vectors(part, f"{name}_{key}" if name else str(key)).items()
    }


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

    console = Console(stderr=True)
    for index in track(range(dataset.num_episodes), "exporting", console=console, disable=not progress):
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
