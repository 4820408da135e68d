"""Reading a dataset: a folder of shards or one ``.h5`` file."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lewm_agent.datasets.metadata import METADATA_FILE, DatasetMetadata, ShardRecord, file_sha256, shard_path
from lewm_agent.datasets.shard_reader import ShardReader
from lewm_agent.datasets.shards import FAMILY, SOMETIMES_THERE

# A process may usually open 1024 files, and DataLoader workers spend some on shared memory.
MAX_OPEN_SHARDS = 256
STATISTICS_FRAMES = 1024
"""Frames from which the mean frame is taken."""


class OfflineDataset:
    """Episodes of frames, actions and low-dimensional columns on disk.

    Row t of an episode holds frame t and the action leaving it; an episode of n actions has n + 1 rows and its last
    action is NaN. In an episode without actions, such as plain video, all are NaN. Rows are numbered
    through all shards. Files are opened when first needed, anew in every process.

    Args:
        path: A folder written by :func:`lewm_agent.datasets.collection.collect`, or one ``.h5`` file with the columns
            ``pixels, action, ep_len, ep_offset`` and any others, such as the published LeWM files.

    Raises:
        FileNotFoundError: Nothing there, or a shard is missing.
        BlockingIOError: Another program is writing the file.
        ImportError: The frames need a decompressor that is not installed.
        ValueError: A damaged file, shards that are not what the metadata say, or no episodes.

    Attributes:
        path: Where it lies.
        metadata: What the folder says about itself; None for a single file.
        episode_lengths: Rows per episode, (E,) int64.
        episode_starts: First row of each episode, (E,) int64.
        frame_shape: (height, width, 3).
        frame_interval: Only rows 0, frame_interval, 2 frame_interval, ... of an episode have a frame.
        columns: Names of the columns, sorted.
        left_out: What else a single file holds, and why that is no column.
        actions: All actions, (rows, A) float32, kept in memory.
        awaited: Episodes (n,) whose actions are yet to be told, so that nobody minds that they are missing.
    """

    awaited: NDArray[np.int64] = np.empty(0, np.int64)

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metadata: DatasetMetadata | None = None
        self.left_out: dict[str, str] = {}
        self._files = self._find_files()
        self._open: OrderedDict[int, ShardReader] = OrderedDict()
        self._open_in = os.getpid()
        self._load_index()

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self.episode_lengths)

    @property
    def num_frames(self) -> int:
        """Number of frames of all episodes."""
        return int((-(-self.episode_lengths // self.frame_interval)).sum())

    @property
    def action_dim(self) -> int:
        """Number of action dimensions A."""
        return int(self.actions.shape[1])

    @property
    def has_actions(self) -> bool:
        """Whether any episode has one."""
        return bool(np.isfinite(self.actions).any())

    @property
    def without_actions(self) -> NDArray[np.int64]:
        """Episodes (n,) that have several rows and no action."""
        before = np.concatenate([[0], np.cumsum(np.isfinite(self.actions).all(axis=1))])
        known = before[self.episode_starts + self.episode_lengths] - before[self.episode_starts]
        return np.flatnonzero((known == 0) & (self.episode_lengths > 1))

    def with_actions(self, actions: NDArray[np.float32], awaited: ArrayLike = ()) -> Self:
        """The same dataset with other actions (rows, A), those of some episodes (n,) still to be told."""
        other = copy.copy(self)
        other.actions, other.awaited = actions, np.asarray(awaited, np.int64)
        return other

    def without(self, episodes: NDArray[np.int64]) -> Self:
        """The same dataset without the actions of some episodes (n,), which are to be told."""
        actions = self.actions.copy()
        actions[self.row_mask(episodes)] = np.nan
        return self.with_actions(actions, episodes)

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """Read all columns of one episode, each with as many rows as the episode, ``pixels`` only those with a frame.

        Raises:
            IndexError: No such episode.
        """
        self._check_episodes(np.asarray([index]))
        shard, rows = self._locate(index)
        reader = self._reader(shard)
        columns = {name: reader.rows(name, rows) for name in self.columns if name not in ("action", "pixels")}
        first, stop = int(self.episode_starts[index]), int(self.episode_starts[index] + self.episode_lengths[index])
        columns["action"] = self.actions[first:stop].copy()
        return {**columns, "pixels": reader.rows("pixels", slice(rows.start, rows.stop, self.frame_interval))}

    def column(self, name: str, episodes: ArrayLike | None = None) -> NDArray[Any]:
        """Read a low-dimensional column of some episodes, one after the other; all of them by default.

        Raises:
            ValueError: No such column; or ``pixels``, which may not fit into memory; use :meth:`episode` or ``Clips``.
            IndexError: No such episode.
        """
        if name not in self.columns:
            raise ValueError(f"{self.path} has no column {name!r}; it has {self.columns}")
        if name == "pixels":
            raise ValueError("column() reads low-dimensional columns; read frames with episode() or Clips")
        wanted = self.episode_array(episodes)
        if name == "action":
            spans = zip(self.episode_starts[wanted], self.episode_lengths[wanted], strict=True)
            return np.concatenate([self.actions[:0], *(self.actions[start : start + rows] for start, rows in spans)])
        per_shard = {shard: self._reader(shard).rows(name) for shard in np.unique(self._episode_shard[wanted])}
        pieces = [per_shard[self._episode_shard[i]][self._locate(i)[1]] for i in wanted]
        return np.concatenate(pieces) if pieces else self._reader(0).rows(name, slice(0, 0))

    def action_statistics(self, episodes: ArrayLike | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and population standard deviation of each action dimension, (A,) float32 each.

        Rows with a NaN are left out. A dimension that never changes has standard deviation 0.

        Raises:
            ValueError: No action at all.
        """
        actions = self.actions[self.row_mask(self.episode_array(episodes))]
        actions = actions[~np.isnan(actions).any(axis=1)].astype(np.float64)
        if not len(actions):
            raise ValueError(f"the chosen episodes of {self.path} hold no action to take statistics of")
        return actions.mean(axis=0).astype(np.float32), actions.std(axis=0).astype(np.float32)

    def pixel_statistics(self, episodes: ArrayLike | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean frame (H, W, 3) and, per colour, standard deviation around it (3,), both float32 in 0 to 255.

        Taken over at most 1,024 frames at equal distances through the episodes.
        """
        frames = self.sample_frames(episodes).astype(np.float32)
        mean = frames.mean(axis=0)
        return mean, np.sqrt(np.square(frames - mean).mean(axis=(0, 1, 2)))

    def sample_frames(self, episodes: ArrayLike | None = None) -> NDArray[np.uint8]:
        """At most 1,024 frames (N, H, W, 3) at equal distances through the episodes."""
        rows = self.frame_rows(self.episode_array(episodes))
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), STATISTICS_FRAMES)).round().astype(np.int64)
        return self.read_frames(rows[chosen])

    def frame_rows(self, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (N,) that have a frame, numbered through all shards, one episode (n,) after the other."""
        starts, lengths = self.episode_starts[episodes], self.episode_lengths[episodes]
        spans = zip(starts, starts + lengths, strict=True)
        return np.concatenate([np.arange(start, stop, self.frame_interval) for start, stop in spans])

    def split(
        self, held_out_fraction: float, seed: int, episodes: ArrayLike | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Split by episode into (training, held-out) episode indices, sorted; a function of number and seed.

        At least one episode is held out if the fraction is above 0, and at least one is for training. Where there is a
        column ``family``, whole families are: episodes with the same number in their first rows.

        Args:
            held_out_fraction: Share of the episodes or families, in [0, 1).
            seed: Of the choice.
            episodes: Indices (n,) of those to split; None for all.

        Raises:
            ValueError: A fraction outside [0, 1), or a single episode or family that would have to be on both sides.
        """
        if not 0 <= held_out_fraction < 1:
            raise ValueError(f"held_out_fraction must be in [0, 1), got {held_out_fraction}")
        chosen = self.episode_array(episodes)
        families = self._families(chosen)
        distinct = np.unique(families)
        held_out = 0 if held_out_fraction == 0 else max(1, round(held_out_fraction * len(distinct)))
        if held_out >= len(distinct):
            if len(distinct) < 2:
                alike = ", all of one family," if FAMILY in self.columns else ","
                raise ValueError(
                    f"{len(chosen)} of the {self.num_episodes} episodes of {self.path} can be used{alike} and one is "
                    "needed to train on and another to be held out; collect more"
                )
            held_out = len(distinct) - 1
        order = distinct[np.random.default_rng(seed).permutation(len(distinct))]
        apart = np.isin(families, order[:held_out])
        return np.sort(chosen[~apart]), np.sort(chosen[apart])

    def _families(self, episodes: NDArray[np.int64]) -> NDArray[Any]:
        """Number of the family of each episode (n,), or of itself where the data tell of no families."""
        if FAMILY not in self.columns:
            return episodes
        numbers = self.column(FAMILY)
        if numbers.ndim != 1:
            raise ValueError(f"column {FAMILY} of {self.path} must have one number a row, got {numbers.shape[1:]}")
        return numbers[self.episode_starts[episodes]]

    def read_frames(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read the frames of rows (N,) numbered through all shards, in any order, as (N, H, W, 3) uint8.

        Each needed frame is read once, in the order of the file.

        Raises:
            ValueError: A row without a frame, or a damaged file.
        """
        self._check_have_frames(rows)
        frames = np.empty((len(rows), *self.frame_shape), np.uint8)
        order = np.argsort(rows, kind="stable")
        shards = np.searchsorted(self._shard_starts, rows, side="right") - 1
        previous = -1
        for position in order.tolist():
            if previous >= 0 and rows[position] == rows[previous]:
                frames[position] = frames[previous]
            else:
                shard = int(shards[position])
                self._reader(shard).read_frame(int(rows[position] - self._shard_starts[shard]), frames[position])
            previous = position
        return frames

    def _check_have_frames(self, rows: NDArray[np.int64]) -> None:
        if self.frame_interval == 1:
            return
        offsets = rows - self.episode_starts[np.searchsorted(self.episode_starts, rows, side="right") - 1]
        missing = rows[offsets % self.frame_interval != 0]
        if missing.size:
            raise ValueError(
                f"row {missing[0]} of {self.path} has no frame; it has one frame for every {self.frame_interval} steps"
            )

    def verify(self) -> None:
        """Compare every shard with the SHA-256 in the metadata; reads all bytes once.

        Raises:
            ValueError: A shard differs, or a single file that has no metadata to compare with.
        """
        if self.metadata is None:
            raise ValueError(f"{self.path} is a single file without metadata: there is no hash to compare it with")
        for file, record in zip(self._files, self.metadata.shards, strict=True):
            _check_size(file, record)
            if file_sha256(file) != record.sha256:
                raise ValueError(f"{file} is damaged, its SHA-256 differs from metadata.json; {_REPAIR}")

    def close(self) -> None:
        """Close the files; reading opens them again."""
        if self._open_in == os.getpid():
            for reader in self._open.values():
                reader.close()
        self._open = OrderedDict()

    def __len__(self) -> int:
        """Number of episodes."""
        return self.num_episodes

    def __getitem__(self, index: int) -> dict[str, NDArray[Any]]:
        """All columns of one episode, as :meth:`episode` reads them; -1 is the last."""
        return self.episode(index + self.num_episodes if index < 0 else index)

    def __repr__(self) -> str:
        """Name the size and the place."""
        return f"OfflineDataset({str(self.path)!r}: {self.num_episodes} episodes, {self.num_frames} frames)"

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: they belong to this process."""
        return {**self.__dict__, "_open": OrderedDict()}

    def _find_files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise FileNotFoundError(
                f"there is no dataset at {self.path}: give a folder made by collect() or an .h5 file"
            )
        self.metadata = DatasetMetadata.load(self.path)
        if not self.metadata.shards:
            raise ValueError(f"{self.path} holds no whole shard yet; {_REPAIR}")
        files = [shard_path(self.path, record) for record in self.metadata.shards]
        episodes = sum(record.episodes for record in self.metadata.shards)
        if len(set(files)) < len(files) or episodes > self.metadata.episodes:
            raise ValueError(
                f"{self.path / METADATA_FILE} names a shard twice, or more episodes ({episodes}) than there are "
                f"({self.metadata.episodes})"
            )
        for file, record in zip(files, self.metadata.shards, strict=True):
            _check_size(file, record)
        return files

    def _load_index(self) -> None:
        lengths, starts, owners, actions = [], [], [], []
        shard_starts = [0]
        for shard in range(len(self._files)):
            reader = self._reader(shard)
            self._take_layout(reader, first=shard == 0)
            if self.metadata is None:
                self.left_out = reader.left_out
            else:
                _check_record(reader, self.metadata, self.metadata.shards[shard])
            lengths.append(reader.lengths)
            starts.append(reader.offsets + shard_starts[-1])
            owners.append(np.full(len(reader.lengths), shard))
            actions.append(_actions(reader))
            shard_starts.append(shard_starts[-1] + reader.num_rows)
        self.episode_lengths = np.concatenate(lengths)
        self.episode_starts = np.concatenate(starts)
        self._episode_shard = np.concatenate(owners)
        self._shard_starts = np.asarray(shard_starts[:-1], dtype=np.int64)
        if len({values.shape[1] for values in actions}) > 1:
            raise ValueError(f"the shards of {self.path} have actions of different widths")
        self.actions = np.concatenate(actions)
        if not self.num_episodes:
            raise ValueError(f"{self.path} holds no episode; collect at least one")
        if self.metadata is not None:
            _check_statistics(self.path / METADATA_FILE, self.metadata, self.action_dim)

    def _take_layout(self, reader: ShardReader, first: bool) -> None:
        if first:
            self.frame_shape, self.columns = reader.frame_shape, sorted(reader.columns)
            self.frame_interval = reader.frame_interval
        self.columns = [name for name in self.columns if name not in SOMETIMES_THERE or self._has_all(reader, name)]
        columns = [name for name in sorted(reader.columns) if name in self.columns or name not in SOMETIMES_THERE]
        given = reader.frame_shape, columns, reader.frame_interval
        wanted = self.frame_shape, self.columns, self.frame_interval
        if given != wanted:
            raise ValueError(
                f"{reader.path} has frames, columns and frame interval {given}, the first shard has {wanted}"
            )

    def _has_all(self, reader: ShardReader, name: str) -> bool:
        """Whether a shard has a column like the first one's."""
        return name in reader.columns and reader.row_shape(name) == self._reader(0).row_shape(name)

    def _reader(self, shard: int) -> ShardReader:
        """Return the open shard, opening it if needed and closing the one unused for longest."""
        if self._open_in != os.getpid():  # forked: an HDF5 handle must not be shared between processes
            self._open, self._open_in = OrderedDict(), os.getpid()
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= MAX_OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        self._open[shard] = ShardReader(self._files[shard])
        return self._open[shard]

    def _locate(self, episode: int) -> tuple[int, slice]:
        """Shard of an episode and its rows in there."""
        shard = int(self._episode_shard[episode])
        start = int(self.episode_starts[episode] - self._shard_starts[shard])
        return shard, slice(start, start + int(self.episode_lengths[episode]))

    def episode_array(self, episodes: ArrayLike | None) -> NDArray[np.int64]:
        """Check episode indices and return them as (n,) int64; None stands for all episodes."""
        if episodes is None:
            return np.arange(self.num_episodes)
        wanted = np.asarray(episodes)
        self._check_episodes(wanted)
        return wanted.astype(np.int64)

    def _check_episodes(self, episodes: NDArray[Any]) -> None:
        if episodes.ndim != 1 or (episodes.size and episodes.dtype.kind not in "iu"):
            raise ValueError(f"episodes must be whole numbers of shape (n,), got {episodes.dtype} {episodes.shape}")
        outside = episodes[(episodes < 0) | (episodes >= self.num_episodes)]
        if outside.size:
            raise IndexError(
                f"episode {outside[0]} does not exist; the dataset has episodes 0 to {self.num_episodes - 1}"
            )

    def row_mask(self, episodes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the rows of the episodes, (rows,) bool."""
        change = np.zeros(len(self.actions) + 1, np.int64)
        np.add.at(change, self.episode_starts[episodes], 1)
        np.add.at(change, self.episode_starts[episodes] + self.episode_lengths[episodes], -1)
        return np.cumsum(change[:-1]) > 0


_REPAIR = "call collect() again with the same arguments to gather what is missing"


def _check_size(file: Path, record: ShardRecord) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; {_REPAIR}")
    if file.stat().st_size != record.bytes:
        raise ValueError(
            f"{file} is cut short or changed: {file.stat().st_size} bytes instead of {record.bytes}; {_REPAIR}"
        )


def _check_record(reader: ShardReader, metadata: DatasetMetadata, record: ShardRecord) -> None:
    """A shard of ours is what ``metadata.json`` says, and its episodes take all of its rows."""
    nothing: dict[str, str] = {}
    said = record.episodes, record.frames, record.frames, metadata.frame_shape, metadata.frame_interval, nothing
    rows = int(reader.lengths.sum()), reader.num_rows
    found = len(reader.lengths), *rows, reader.frame_shape, reader.frame_interval, reader.left_out
    names = "episodes", "rows of episodes", "rows", "frame_shape", "frame_interval", "content that is no column"
    for name, value, wanted in zip(names, found, said, strict=True):
        if value != wanted:
            raise ValueError(f"{reader.path} has {name} {value}, {METADATA_FILE} says {wanted}; {_REPAIR}")


def _check_statistics(file: Path, metadata: DatasetMetadata, width: int) -> None:
    for name in ("action_mean", "action_std"):
        values = getattr(metadata, name)
        if values is not None and (len(values) != width or not all(-1e38 < value < 1e38 for value in values)):
            raise ValueError(f"{file}: {name} must be {width} finite numbers, one per component of the actions")


def _actions(reader: ShardReader) -> NDArray[np.float32]:
    actions = reader.rows("action")
    if actions.ndim != 2 or actions.dtype.kind != "f" or not actions.shape[1]:
        raise ValueError(
            f"{reader.path}: action must be floats of shape (rows, A), got {actions.dtype} {actions.shape}"
        )
    return actions.astype(np.float32, copy=False)
