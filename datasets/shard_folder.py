"""A dataset folder while it is being filled: which shards are there, which are missing, what is left over.

A shard is written as NAME.next. Then ``metadata.json`` tells of it, and then it is renamed; until that is done, readers
find it under its first name (:func:`lewm_agent.datasets.metadata.shard_path`). A dataset that is to replace another one
is gathered whole under such names, with a ``metadata.json.next`` of its own, which at last becomes ``metadata.json``.
So whatever ``metadata.json`` tells of is there at every moment, and is given up only for a whole successor.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lewm_agent.datasets.metadata import (
    METADATA_FILE,
    NEXT,
    DatasetMetadata,
    ShardRecord,
    file_sha256,
    shard_path,
)
from lewm_agent.datasets.offline import OfflineDataset
from lewm_agent.datasets.shards import REACHED
from lewm_agent.tools.folder_lock import LOCK_FILE, locked
from lewm_agent.tools.replacing import PART, remove

_SAME_REQUEST = (
    "environment_id",
    "environment_kwargs",
    "policy",
    "seed",
    "shard_episodes",
    "frame_shape",
    "frame_interval",
    "action_space",
    "attempts",
)
JOBS = "jobs"
"""Folder in a dataset's where jobs of a cluster put what they gather, and their logs."""
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class ShardFolder:
    """A folder that a request is gathered into.

    Args:
        folder: Where; it need not exist.
        request: What is to be there in the end.
        overwrite: Whether it may replace another dataset, which stays until its successor is whole.

    Raises:
        ValueError: A file, a folder of something else, or another request's dataset that is not to be replaced.

    Attributes:
        request: The metadata, with the shards that are whole.
    """

    def __init__(self, folder: Path, request: DatasetMetadata, overwrite: bool) -> None:
        self.folder = folder
        self.request = request
        self._succeeds = _holds_dataset(folder) and overwrite
        if _holds_dataset(folder) and not overwrite:
            check_same_request(folder, request, DatasetMetadata.load(folder))

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are not there with all their episodes, in order."""
        present = {shard.file: shard.episodes for shard in self.request.shards}
        wanted = expected_shards(self.request.episodes, self.request.shard_episodes)
        return [index for index, (file, episodes) in enumerate(wanted.items()) if present.get(file) != episodes]

    @property
    def complete(self) -> int:
        """Number of episodes in the shards that are not missing."""
        wanted = list(expected_shards(self.request.episodes, self.request.shard_episodes).values())
        return self.request.episodes - sum(wanted[index] for index in self.missing)

    @contextlib.contextmanager
    def filling(self, what: str) -> Iterator[None]:
        """Create the folder and hold it; on failure, remove unfinished files, and the folder too if it holds no shard.

        Args:
            what: What fills it, for the sentence that says what is kept.

        Raises:
            BlockingIOError: Another process is writing into the folder, which stays as it is.
            KeyboardInterrupt: Interrupted, with that sentence; other errors have it as a note.
            OSError: The disk is full, with that sentence.
        """
        created = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            try:
                self._take_up()
                yield
            except BaseException as error:
                with contextlib.suppress(FileNotFoundError, ValueError):
                    self.request = DatasetMetadata.load(self.folder, self._metadata_file.name)
                self._tidy()
                self._leave(created)
                if isinstance(error, KeyboardInterrupt):
                    raise KeyboardInterrupt(f"{what} interrupted: {self._kept()}; the same call continues") from None
                if isinstance(error, OSError) and error.errno is not None and error.errno in _FULL:
                    raise OSError(
                        f"no space left in {self.folder} ({os.strerror(error.errno)}); {self._kept()}; the same call "
                        "continues when there is room"
                    ) from None
                error.add_note(self._kept())
                raise

    def add(self, record: ShardRecord) -> None:
        """Record one more whole shard, which lies at :func:`next_shard`, and put it in its place."""
        record = replace(record, file=record.file.removesuffix(NEXT))
        others = [shard for shard in self.request.shards if shard.file != record.file]
        request = replace(self.request, shards=tuple(sorted([*others, record], key=lambda shard: shard.file)))
        request.save(self.folder, self._metadata_file.name)
        self.request = request
        if not self._succeeds:
            _put_in_place(self.folder)

    def finish(self) -> OfflineDataset:
        """The dataset, all of whose shards are there, with the statistics of its actions in ``metadata.json``."""
        if self._succeeds:
            os.replace(self._metadata_file, self.folder / METADATA_FILE)
            self._succeeds = False
        _put_in_place(self.folder)
        recorded = {shard.file for shard in self.request.shards}
        for file in self.folder.glob("shard-*.h5"):
            if file.name not in recorded:  # of the dataset that was there before
                remove(file)
        dataset = OfflineDataset(self.folder)
        statistics: dict[str, Any] = {}
        if dataset.has_actions:
            mean, std = dataset.action_statistics()
            statistics = {"action_mean": tuple(mean.tolist()), "action_std": tuple(std.tolist())}
        self.request = replace(self.request, **statistics, reached=_reached(dataset))
        self.request.save(self.folder)
        dataset.metadata = self.request
        return dataset

    @property
    def _metadata_file(self) -> Path:
        return self.folder / (METADATA_FILE + NEXT if self._succeeds else METADATA_FILE)

    def _take_up(self) -> None:
        """Add the whole shards that the folder already has to the request, and delete what is of no use."""
        _put_in_place(self.folder)
        present = self._present()
        if present is not None:
            whole = tuple(shard for shard in present.shards if self._is_whole(shard))
            versions, commit = present.versions, present.git_commit
            self.request = replace(self.request, shards=whole, versions=versions, git_commit=commit)
        self._tidy()
        self.request.save(self.folder, self._metadata_file.name)

    def _present(self) -> DatasetMetadata | None:
        """What an earlier call with the same request has recorded."""
        try:
            present = DatasetMetadata.load(self.folder, self._metadata_file.name)
            check_same_request(self.folder, self.request, present)
        except FileNotFoundError:
            return None
        except ValueError:
            if self._succeeds:  # an unfinished successor of another request
                return None
            raise
        return present

    def _is_whole(self, shard: ShardRecord) -> bool:
        file = self.folder / (shard.file + NEXT if self._succeeds else shard.file)
        return file.is_file() and file.stat().st_size == shard.bytes and file_sha256(file) == shard.sha256

    def _tidy(self) -> None:
        """Rename what is recorded, and delete what is not finished."""
        _put_in_place(self.folder)
        recorded = {shard.file + NEXT for shard in self.request.shards} if self._succeeds else set()
        for file in _unfinished(self.folder):
            if file.name not in recorded and file != self._metadata_file:
                remove(file)

    def _kept(self) -> str:
        done = sum(shard.episodes for shard in self.request.shards)
        if self._succeeds:
            return f"the dataset in {self.folder} is as it was, {done} episodes of its successor are kept"
        asked = f" ({self.request.episodes} were asked for)"
        return f"{done} episodes are kept in {self.folder}{asked}" if done else "nothing is kept"

    def _leave(self, created: list[Path]) -> None:
        """Delete what a request without any shard leaves."""
        if self._succeeds and not self.request.shards:
            remove(self._metadata_file)
        if not any(self.folder.glob("shard-*.h5")):
            remove(self.folder / METADATA_FILE)
            remove(self.folder / LOCK_FILE)
        for place in created:
            with contextlib.suppress(OSError):  # not empty: it holds whole shards
                place.rmdir()


def _reached(dataset: OfflineDataset) -> int | None:
    """In how many of its episodes a goal was reached after the first row; None where nothing says it."""
    if REACHED not in dataset.columns:
        return None
    rows = dataset.column(REACHED) > 0
    rows[dataset.episode_starts] = False
    return int(np.logical_or.reduceat(rows, dataset.episode_starts).sum())


def _holds_dataset(folder: Path) -> bool:
    """Whether there is a dataset; raises ``ValueError`` for a file and for a folder of something else."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the dataset")
    if (folder / METADATA_FILE).is_file():
        return True
    left_over = [folder / LOCK_FILE, folder / JOBS, *_unfinished(folder)]
    if folder.exists() and any(file not in left_over for file in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no dataset; give another path")
    return False


def check_same_request(folder: Path, request: DatasetMetadata, present: DatasetMetadata) -> None:
    """Raise ``ValueError`` unless what a folder has, whole or in part, belongs to the request."""
    for name in _SAME_REQUEST:
        given, there = getattr(request, name), getattr(present, name)
        if given and there and name == "attempts":
            differing = [key for key in given if given[key] != there.get(key)]
            given, there = ({key: one.get(key) for key in differing} for one in (given, there))
        if given != there:
            raise ValueError(
                f"{folder} holds a dataset with {name} {there!r}, asked for is {given!r}; "
                "give another path or overwrite=True"
            )
    expected = expected_shards(request.episodes, request.shard_episodes)
    if any(shard.episodes > expected.get(shard.file, 0) for shard in present.shards):
        there = sum(shard.episodes for shard in present.shards)
        raise ValueError(
            f"{folder} already holds {there} episodes, more than the {request.episodes} asked for; ask for as many "
            "or more, or give another path or overwrite=True"
        )


def _put_in_place(folder: Path) -> None:
    """Give the shards that ``metadata.json`` tells of their names."""
    try:
        recorded = DatasetMetadata.load(folder).shards
    except (FileNotFoundError, ValueError):  # none, or damaged and about to be replaced
        return
    for shard in recorded:
        place = shard_path(folder, shard)
        if place.name != shard.file:
            os.replace(place, folder / shard.file)


def _unfinished(folder: Path) -> list[Path]:
    """What a collection has not finished; shards first, as ``metadata.json.next`` tells whose they are."""
    patterns = (f"{name}{ending}" for name in ("shard-*.h5", METADATA_FILE) for ending in (PART, NEXT, NEXT + PART))
    return [file for pattern in patterns for file in folder.glob(pattern)]


def shard_file(index: int) -> str:
    """Name of a shard."""
    return f"shard-{index:05d}.h5"


def next_shard(folder: Path, index: int) -> Path:
    """Where a shard is written."""
    return folder / (shard_file(index) + NEXT)


def expected_shards(episodes: int, shard_episodes: int) -> dict[str, int]:
    """Number of episodes of every shard, by file name, in order."""
    firsts = range(0, episodes, shard_episodes)
    return {shard_file(index): min(shard_episodes, episodes - first) for index, first in enumerate(firsts)}
