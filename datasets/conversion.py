"""Making a foreign dataset ours: episode by episode, resumable, with every row accounted for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lewm_agent.datasets.formats import EpisodeSource
from lewm_agent.datasets.metadata import DatasetMetadata, git_commit, software_versions
from lewm_agent.datasets.offline import OfflineDataset
from lewm_agent.datasets.shard_folder import ShardFolder, next_shard
from lewm_agent.datasets.shards import Compression, ShardWriter
from lewm_agent.tools.frames import resized

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
        ValueError: episodes that are no dataset of ours (their frames, actions or columns), another dataset in the
            folder, or not as many rows at the end as the source has.
    """
    folder, total = Path(path), len(source.lengths)
    if not total:
        raise ValueError(f"{source.description} holds no episode")
    shards = ShardFolder(folder, _request(source, environment_id, image_size), overwrite)
    with shards.filling("conversion"), _progress_bar(shards, progress) as bar:
        for shard in shards.missing:
            with ShardWriter(next_shard(folder, shard), compression) as writer:
                for index in range(shard * SHARD_EPISODES, min((shard + 1) * SHARD_EPISODES, total)):
                    writer.append(_resized(source.episode(index), image_size))
                    bar.advance(bar.task_ids[0])
            shards.add(writer.record())
        dataset = shards.finish()
    rows = int(dataset.episode_lengths.sum())
    if rows != sum(source.lengths):
        raise ValueError(f"{folder} has {rows} rows, {source.description} {sum(source.lengths)}: they do not agree")
    return dataset


def _request(source: EpisodeSource, environment_id: str, image_size: int | None) -> DatasetMetadata:
    first = _resized(source.episode(0), image_size)
    height, width, channels = first["pixels"].shape[1:]
    return DatasetMetadata(
        environment_id, {}, f"converted: {source.description}", 0, len(source.lengths), SHARD_EPISODES,
        (height, width, channels), "unknown", f"{first['action'].shape[1]} numbers",
        versions=software_versions(), git_commit=git_commit(),
    )  # fmt: skip


def _resized(columns: dict[str, NDArray[Any]], side: int | None) -> dict[str, NDArray[Any]]:
    return columns if side is None else {**columns, "pixels": resized(columns["pixels"], side)}


@contextlib.contextmanager
def _progress_bar(shards: ShardFolder, enabled: bool) -> Iterator[Progress]:
    columns = TextColumn("converting"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not enabled) as bar:
        bar.add_task("converting", total=shards.request.episodes, completed=shards.complete)
        yield bar
