"""Making a foreign dataset ours: episode by episode, resumable, with every row accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lewm_agent.datasets.formats import EpisodeSource
from lewm_agent.datasets.formats.checking import checked_episode, reading
from lewm_agent.datasets.formats.source import described
from lewm_agent.datasets.metadata import DatasetMetadata, git_commit, software_versions
from lewm_agent.datasets.offline import OfflineDataset
from lewm_agent.datasets.shard_folder import ShardFolder, next_shard
from lewm_agent.datasets.shards import Compression, ShardWriter
from lewm_agent.tools.frames import resized
from lewm_agent.tools.progress import ProgressShown

SHARD_EPISODES = 100


def convert(
    source: EpisodeSource,
    path: str | Path,
    *,
    environment_id: str = "unknown",
    image_size: int | None = None,
    compression: Compression = "gzip",
    overwrite: bool = False,
    progress: bool = True,
) -> OfflineDataset:
    """Write the episodes of ``source`` as a dataset folder, or continue there; returns the dataset.

    Args:
        source: as from :func:`lewm_agent.datasets.formats.open_source`.
        path: folder; created with its parents. Whole shards of an interrupted conversion are kept.
        environment_id: Gymnasium id, recorded.
        image_size: side of the square that frames are resized to (averaging); by default they stay as they are.
        compression: ``"gzip"``, ``"blosc"`` (extra ``fast``) or None.
        overwrite: replace the dataset that is there; it stays until its successor is whole.
        progress: show a progress bar on the standard error stream.

    Raises:
        ValueError: episodes that are no dataset of ours (their frames, actions or columns), or have more or fewer rows
            than their index says; or another dataset in the folder. The sentence names episode and column.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    episodes = [index for index, rows in enumerate(source.lengths) if rows]
    if not episodes:
        raise ValueError(f"{source.description} holds no episode")
    first = _episode(source, episodes[0], image_size)
    folder, total = Path(path), len(episodes)
    shards = ShardFolder(folder, _request(source, first, total, environment_id), overwrite)
    done = shards.complete
    bar = ProgressShown("converting, episodes", total, start=done, shown=progress and done < total)
    with shards.filling("conversion"), bar:
        for shard in shards.missing:
            with ShardWriter(next_shard(folder, shard), compression) as writer:
                for index in episodes[shard * SHARD_EPISODES : (shard + 1) * SHARD_EPISODES]:
                    writer.append(
                        _alike(first, _episode(source, index, image_size), f"episode {index} of {source.description}")
                    )
                    done += 1
                    bar.update(done)
            shards.add(writer.record())
        return shards.finish()


def _request(source: EpisodeSource, first: dict[str, NDArray[Any]], total: int, environment_id: str) -> DatasetMetadata:
    height, width, channels = first["pixels"].shape[1:]
    return DatasetMetadata(
        environment_id, {}, f"converted: {source.description}", 0, total, SHARD_EPISODES,
        (height, width, channels), "unknown", f"{first['action'].shape[1]} numbers",
        versions=software_versions(), git_commit=git_commit(),
    )  # fmt: skip


def _episode(source: EpisodeSource, index: int, side: int | None) -> dict[str, NDArray[Any]]:
    """One episode, checked and with frames of the wanted size."""
    with reading(f"episode {index} of {source.description}"):
        columns = checked_episode(source.episode(index), source.lengths[index])
    return columns if side is None else {**columns, "pixels": resized(columns["pixels"], side)}


def _alike(first: dict[str, NDArray[Any]], columns: dict[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    """Columns of an episode, if they have the names, shapes and types of the first one's."""
    given, wanted = ({n: (v.dtype, v.shape[1:]) for n, v in one.items()} for one in (columns, first))
    if given != wanted:
        raise ValueError(f"{name} has {described(columns)}; the first one has {described(first)}")
    return columns
