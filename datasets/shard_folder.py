"""A dataset folder while it is being filled: which shards are there, which are missing, what is left over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lewm_agent.datasets.metadata import METADATA_FILE, DatasetMetadata, ShardRecord
from lewm_agent.datasets.offline import OfflineDataset
from lewm_agent.datasets.shards import PART_SUFFIX
from lewm_agent.tools.folder_lock import LOCK_FILE, locked

_SAME_REQUEST = (
    "environment_id",
    "environment_kwargs",
    "policy",
    "seed",
    "shard_episodes",
    "frame_shape",
    "frame_interval",
    "action_space",
)


def taken_up(folder: Path, request: DatasetMetadata, overwrite: bool) -> DatasetMetadata:
    """Add the whole shards that the folder already has to the request; changes nothing on disk."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the dataset")
    if not folder.exists() or all(file in _left_over(folder) for file in folder.iterdir()):
        return request
    if not (folder / METADATA_FILE).is_file():
        raise ValueError(f"{folder} is not empty and holds no dataset; give another path")
    if overwrite:
        return request
    present = DatasetMetadata.load(folder)
    for name in _SAME_REQUEST:
        given, there = getattr(request, name), getattr(present, name)
        if given != there:
            raise ValueError(
                f"{folder} holds a dataset with {name} {there!r}, asked for is {given!r}; "
                "give another path or overwrite=True"
            )
    return _with_whole_shards(folder, request, present)


def _unfinished(folder: Path) -> list[Path]:
    """Files that a killed collection has left unfinished."""
    return [*folder.glob(f"shard-*.h5{PART_SUFFIX}"), *folder.glob(f"{METADATA_FILE}{PART_SUFFIX}")]


def _left_over(folder: Path) -> list[Path]:
    """Files that a collection killed before its first shard may have left."""
    return [folder / LOCK_FILE, *_unfinished(folder)]


def _with_whole_shards(folder: Path, request: DatasetMetadata, present: DatasetMetadata) -> DatasetMetadata:
    expected = expected_shards(request.episodes, request.shard_episodes)
    whole = [shard for shard in present.shards if _is_whole(folder, shard)]
    for shard in whole:
        if shard.episodes > expected.get(shard.file, 0):
            there = sum(shard.episodes for shard in whole)
            raise ValueError(
                f"{folder} already holds {there} episodes, more than the {request.episodes} asked for; ask for as many "
                "or more, or give another path or overwrite=True"
            )
    kept = tuple(shard for shard in whole if shard.episodes == expected[shard.file])
    return replace(request, shards=kept, versions=present.versions, git_commit=present.git_commit)


def _is_whole(folder: Path, shard: ShardRecord) -> bool:
    file = folder / shard.file
    return file.is_file() and file.stat().st_size == shard.bytes


def shard_file(index: int) -> str:
    """Name of a shard."""
    return f"shard-{index:05d}.h5"


def expected_shards(episodes: int, shard_episodes: int) -> dict[str, int]:
    """Number of episodes of every shard, by file name, in order."""
    firsts = range(0, episodes, shard_episodes)
    return {shard_file(index): min(shard_episodes, episodes - first) for index, first in enumerate(firsts)}


@contextlib.contextmanager
def folder_for(folder: Path, overwrite: bool) -> Iterator[None]:
    """Create the folder and hold it; on failure, remove unfinished files, and the folder too if it holds no shard.

    Raises ``BlockingIOError`` if another process is collecting into it, and then changes nothing.
    """
    created = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _delete(_unfinished(folder))
        if overwrite:
            _delete([folder / METADATA_FILE, *folder.glob("shard-*.h5")])
        try:
            yield
        except BaseException:
            _remove_unfinished(folder, created)
            raise


def _remove_unfinished(folder: Path, created: list[Path]) -> None:
    _delete(_unfinished(folder))
    if not any(folder.glob("shard-*.h5")):
        _delete([folder / METADATA_FILE, folder / LOCK_FILE])
    for place in created:
        with contextlib.suppress(OSError):  # not empty: it holds whole shards
            place.rmdir()


def _delete(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def missing_shards(request: DatasetMetadata) -> list[int]:
    """Numbers of the shards that are not there yet, in order."""
    present = {shard.file for shard in request.shards}
    files = expected_shards(request.episodes, request.shard_episodes)
    return [index for index, file in enumerate(files) if file not in present]


def with_shard(folder: Path, request: DatasetMetadata, record: ShardRecord) -> DatasetMetadata:
    """Record one more whole shard, also in ``metadata.json``."""
    request = replace(request, shards=tuple(sorted((*request.shards, record), key=lambda shard: shard.file)))
    request.save(folder)
    return request


def finish(folder: Path, request: DatasetMetadata) -> OfflineDataset:
    """The dataset, all of whose shards are there, with the statistics of its actions in ``metadata.json``."""
    dataset = OfflineDataset(folder)
    mean, std = dataset.action_statistics()
    dataset.metadata = replace(request, action_mean=tuple(mean.tolist()), action_std=tuple(std.tolist()))
    dataset.metadata.save(folder)
    return dataset
