"""One shard: an HDF5 file with flat columns and the episodes' lengths and offsets.

Every column has one row per frame; ``ep_len`` and ``ep_offset`` say which rows belong to which episode. This is the
layout of stable-worldmodel's HDF5 format (``stable_worldmodel/data/formats/hdf5.py``) and of the published LeWM
files, so such a file can be read as it is. Frames are stored one per chunk: a clip touches only the frames it shows.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.hdf5_output import hdf5_file, signals_wait
from lewm_agent.datasets.metadata import ShardRecord, file_sha256
from lewm_agent.tools.replacing import replacing

Compression = Literal["gzip", "blosc"] | None
COMPRESSIONS: tuple[Compression, ...] = ("gzip", "blosc", None)
INDEX_COLUMNS = ("ep_len", "ep_offset")
PLUGIN_ADVICE = 'pip install "lewm-agent[fast]"'
REACHED = "goal_reached"
"""Column of attempts: 1 in the rows in which the goal is reached, else 0."""
SOMETIMES_THERE = ("state", "goal_state", "observation", "achieved_goal", REACHED)
"""Columns that an environment need not have; they are kept if every episode has them, with rows of one shape."""
FAMILY = "family"
"""Column of whole numbers that tells episodes that belong together, which training and held-out data never share."""
FRAME_INTERVAL = "frame_interval"
"""Attribute of ``pixels``; files without it have a frame in every row."""

Episode = Mapping[str, NDArray[Any]]


class ShardWriter:
    """Write episodes into one new shard, all or nothing.

    Use as a context manager: rows go to ``<path>.part``, which becomes ``path`` when the block ends normally and is
    deleted when it ends with an exception. A full disk raises ``OSError`` from :meth:`append` or the end of the block.

    Args:
        path: The shard to write; replaced if it exists.
        compression: ``"gzip"`` (level 1, readable everywhere), ``"blosc"`` (LZ4; faster reading, needs the extra
            ``fast``), or None.
        frame_interval: Only rows 0, frame_interval, 2 frame_interval, ... of an episode have a frame; the chunks of the
            others are never written and take no room.

    Raises:
        ValueError: Unknown compression.
        ImportError: ``"blosc"`` without the package hdf5plugin.
    """

    def __init__(self, path: str | Path, compression: Compression = "gzip", frame_interval: int = 1) -> None:
        self.path = Path(path)
        self.frame_interval = frame_interval
        self._frame_filter = frame_filter(compression)
        self._lengths: list[int] = []
        self._rows = 0
        self._row_shapes: dict[str, tuple[int, ...]] = {}
        self._left_out: set[str] = set()

    def __enter__(self) -> ShardWriter:
        """Create the unfinished file."""
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(replacing(self.path))
            self._file, self._output = stack.enter_context(hdf5_file(part))
            self._unfinished = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the shard, or drop it after an exception."""
        if error is not None:
            self._unfinished.__exit__(kind, error, trace)
            return
        with self._unfinished, signals_wait():
            self._finish()

    def append(self, episode: Episode) -> None:
        """Add one episode.

        Args:
            episode: Columns of equal row count N: ``action`` (N, A) float, of which the last row may be NaN, or all,
                ``pixels`` (N, H, W, 3) uint8, but with ``frame_interval`` k only every k-th row's, and any others.
                Columns, row shapes and types must agree over the shard; but those of ``SOMETIMES_THERE`` are left out
                of a shard in which they do not.

        Raises:
            OSError: The disk is full, or the file cannot be written for another reason.
            TypeError: Frames that are not uint8.
            ValueError: Anything else that does not fit; the sentence names the column.
        """
        columns = {name: np.asarray(values) for name, values in episode.items() if name not in self._left_out}
        check_episode(columns, self.frame_interval)
        with signals_wait():
            if not self._lengths:
                self._create(columns)
            columns = self._agreeing(columns)
            self._check_same_columns(columns)
            self._write(columns)
        self._output.check()

    def record(self) -> ShardRecord:
        """Describe the finished shard; call after the block."""
        size, digest = self.path.stat().st_size, file_sha256(self.path)
        return ShardRecord(self.path.name, len(self._lengths), self._rows, size, digest)

    def _create(self, columns: dict[str, NDArray[Any]]) -> None:
        self._row_shapes = {name: values.shape[1:] for name, values in columns.items()}
        for name, values in columns.items():
            row = values.shape[1:]
            # Compressed frames have a checksum inside; other columns get one, so that damage is said when it is read
            other = {"chunks": (1024, *row), "fletcher32": True}
            layout = {"chunks": (1, *row), **self._frame_filter} if name == "pixels" else other
            self._file.create_dataset(name, shape=(0, *row), maxshape=(None, *row), dtype=values.dtype, **layout)
        self._file["pixels"].attrs[FRAME_INTERVAL] = self.frame_interval

    def _write(self, columns: dict[str, NDArray[Any]]) -> None:
        rows = len(columns["action"])
        for name, values in columns.items():
            dataset = self._file[name]
            dataset.resize(self._rows + rows, axis=0)
            dataset[self._rows :: self.frame_interval if name == "pixels" else 1] = values
        self._rows += rows
        self._lengths.append(rows)

    def _agreeing(self, columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The columns without those that need not be there and that not all episodes have; they leave the file too."""
        for name in SOMETIMES_THERE:
            given = columns[name].shape[1:] if name in columns else None
            if given != self._row_shapes.get(name):
                self._left_out.add(name)
                if self._row_shapes.pop(name, None) is not None:
                    del self._file[name]
        return {name: values for name, values in columns.items() if name not in self._left_out}

    def _check_same_columns(self, columns: dict[str, NDArray[Any]]) -> None:
        if set(columns) != set(self._file):
            raise ValueError(
                f"an episode has columns {sorted(columns)}, the shard's first one has {sorted(self._file)}"
            )
        for name, values in columns.items():
            given, first = (values.shape[1:], values.dtype), (self._row_shapes[name], self._file[name].dtype)
            if given != first:
                raise ValueError(
                    f"column {name} has rows of shape {given[0]} and type {given[1]}, "
                    f"the shard's first episode has {first[0]} and {first[1]}"
                )

    def _finish(self) -> None:
        if not self._lengths:
            raise ValueError(f"no episode was written to {self.path}; a shard needs at least one")
        lengths = np.asarray(self._lengths, dtype=np.int64)
        self._file.create_dataset("ep_len", data=lengths, fletcher32=True)
        self._file.create_dataset("ep_offset", data=np.cumsum(lengths) - lengths, fletcher32=True)


def check_frames(frames: NDArray[Any], what: str = "pixels") -> None:
    """Check that frames are (..., H, W, 3) uint8.

    Raises:
        TypeError: Another type; says so if there are NaN.
        ValueError: Another shape.
    """
    if frames.dtype != np.uint8:
        kind = f"{frames.dtype} with NaN" if frames.dtype.kind == "f" and np.isnan(frames).any() else f"{frames.dtype}"
        raise TypeError(f"{what} must be uint8 frames with values 0 to 255, got {kind}")
    if frames.ndim < 3 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"{what} must be frames of shape (height, width, 3), got {frames.shape}")


def check_episode(columns: Episode, frame_interval: int = 1) -> None:
    """Check one episode's columns, see :meth:`ShardWriter.append`."""
    for name in ("pixels", "action"):
        if name not in columns:
            raise ValueError(f"an episode needs the column {name}; it has {sorted(columns)}")
    pixels, action = columns["pixels"], columns["action"]
    check_frames(pixels)
    if pixels.ndim != 4:
        raise ValueError(f"pixels must have shape (rows, height, width, 3), got {pixels.shape}")
    if action.ndim != 2 or action.dtype.kind != "f":
        raise ValueError(f"action must be floats of shape (rows, action_dim), got {action.dtype} {action.shape}")
    for name, values in columns.items():
        wanted = len(range(0, len(action), frame_interval)) if name == "pixels" else len(action)
        if len(values) != wanted:
            raise ValueError(f"column {name} has {len(values)} rows instead of {wanted}; action has {len(action)}")
    bad = np.flatnonzero(~np.isfinite(action[:-1]).all(axis=1))
    if bad.size and not np.isnan(action).all():  # an episode without actions
        raise ValueError(f"action in row {bad[0]} is {action[bad[0]]}; all but an episode's last row must be finite")


def frame_filter(compression: Compression) -> dict[str, Any]:
    """Keyword arguments for h5py that compress a frame; raises as :class:`ShardWriter` does."""
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression {compression!r} is unknown; allowed are {COMPRESSIONS}")
    if compression is None:
        return {}
    if compression == "gzip":  # level 1 reads twice as fast as 4 for a quarter more space
        return {"compression": "gzip", "compression_opts": 1}
    return dict(hdf5plugin_for("writing with compression='blosc'").Blosc(cname="lz4", clevel=5))


def hdf5plugin_for(purpose: str) -> Any:
    """Import hdf5plugin, which registers its filters with HDF5; ``ImportError`` says how to install it."""
    try:
        return importlib.import_module("hdf5plugin")
    except ImportError:
        raise ImportError(f"{purpose} needs the package hdf5plugin: {PLUGIN_ADVICE}") from None
