"""One shard: an HDF5 file with flat columns and the episodes' lengths and offsets.

Every column has one row per frame; ``ep_len`` and ``ep_offset`` say which rows belong to which episode. This is the
layout of stable-worldmodel's HDF5 format (``stable_worldmodel/data/formats/hdf5.py``) and of the published LeWM
files, so such a file can be read as it is. Frames are stored one per chunk: a clip touches only the frames it shows.
"""

from __future__ import annotations

import importlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.metadata import ShardRecord, file_sha256

Compression = Literal["gzip", "blosc"] | None
COMPRESSIONS: tuple[Compression, ...] = ("gzip", "blosc", None)
INDEX_COLUMNS = ("ep_len", "ep_offset")
PLUGIN_ADVICE = 'pip install "lewm-agent[fast]"'
PART_SUFFIX = ".part"
FRAME_INTERVAL = "frame_interval"
"""Attribute of ``pixels``; files without it have a frame in every row."""

Episode = Mapping[str, NDArray[Any]]


class ShardWriter:
    """Write episodes into one new shard, all or nothing.

    Use as a context manager: rows go to ``<path>.part``, which becomes ``path`` when the block ends normally and is
    deleted when it ends with an exception.

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
        self._part = self.path.with_name(self.path.name + PART_SUFFIX)
        self._frame_filter = frame_filter(compression)
        self._lengths: list[int] = []
        self._rows = 0
        self._file: Any = None

    def __enter__(self) -> ShardWriter:
        """Create the unfinished file."""
        # HDF5 1.10's format finds a chunk faster than the older one, h5py's default, and takes less room for its index
        self._file = h5py.File(self._part, "w", libver="v110")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the shard, or drop it after an exception."""
        try:
            if kind is None:
                self._finish()
            self._file.close()
            if kind is None:
                os.replace(self._part, self.path)
        finally:  # after the rename there is nothing to delete
            self._part.unlink(missing_ok=True)

    def append(self, episode: Episode) -> None:
        """Add one episode.

        Args:
            episode: Columns of equal row count N: ``action`` (N, A) float, of which only the last row may be NaN,
                ``pixels`` (N, H, W, 3) uint8, but with ``frame_interval`` k only every k-th row's, and any others.
                Columns, row shapes and types must agree over the shard.

        Raises:
            TypeError: Frames that are not uint8.
            ValueError: Anything else that does not fit; the sentence names the column.
        """
        columns = {name: np.asarray(values) for name, values in episode.items()}
        check_episode(columns, self.frame_interval)
        if not self._lengths:
            self._create(columns)
        self._check_same_columns(columns)
        rows = len(columns["action"])
        for name, values in columns.items():
            dataset = self._file[name]
            dataset.resize(self._rows + rows, axis=0)
            dataset[self._rows :: self.frame_interval if name == "pixels" else 1] = values
        self._rows += rows
        self._lengths.append(rows)

    def record(self) -> ShardRecord:
        """Describe the finished shard; call after the block."""
        size, digest = self.path.stat().st_size, file_sha256(self.path)
        return ShardRecord(self.path.name, len(self._lengths), self._rows, size, digest)

    def _create(self, columns: dict[str, NDArray[Any]]) -> None:
        for name, values in columns.items():
            row = values.shape[1:]
            layout = {"chunks": (1, *row), **self._frame_filter} if name == "pixels" else {"chunks": (1024, *row)}
            self._file.create_dataset(name, shape=(0, *row), maxshape=(None, *row), dtype=values.dtype, **layout)
        self._file["pixels"].attrs[FRAME_INTERVAL] = self.frame_interval

    def _check_same_columns(self, columns: dict[str, NDArray[Any]]) -> None:
        if set(columns) != set(self._file):
            raise ValueError(
                f"an episode has columns {sorted(columns)}, the shard's first one has {sorted(self._file)}"
            )
        for name, values in columns.items():
            given, first = (values.shape[1:], values.dtype), (self._file[name].shape[1:], self._file[name].dtype)
            if given != first:
                raise ValueError(
                    f"column {name} has rows of shape {given[0]} and type {given[1]}, "
                    f"the shard's first episode has {first[0]} and {first[1]}"
                )

    def _finish(self) -> None:
        if not self._lengths:
            raise ValueError(f"no episode was written to {self.path}; a shard needs at least one")
        lengths = np.asarray(self._lengths, dtype=np.int64)
        self._file.create_dataset("ep_len", data=lengths)
        self._file.create_dataset("ep_offset", data=np.cumsum(lengths) - lengths)


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
    if bad.size:
        raise ValueError(f"action in row {bad[0]} is {action[bad[0]]}; all but an episode's last row must be finite")


class ShardReader:
    """Read one shard or one published ``.h5`` file; the file is open until :meth:`close`.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: No such file.
        ImportError: Its frames are compressed by a filter that needs hdf5plugin, which is not installed.
        ValueError: Not an HDF5 file, cut short, or without the columns ``pixels, action, ep_len, ep_offset``.

    Attributes:
        path: The file.
        columns: Names of the row columns.
        lengths: Rows of each episode, (E,) int64.
        offsets: First row of each episode, (E,) int64.
        frame_shape: (height, width, 3).
        num_rows: Rows in the file.
        frame_interval: Only rows 0, frame_interval, 2 frame_interval, ... of an episode have a frame.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            self._read_index()
            self._direct = _direct_filter(self._pixels, self.path)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def rows(self, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Read consecutive rows of a column."""
        try:
            return np.asarray(self._file[name][rows])
        except OSError as error:
            raise _damaged(self.path, f"column {name} cannot be read: {error}") from None

    def read_frame(self, row: int, out: NDArray[np.uint8]) -> None:
        """Read frame ``row`` into ``out`` (H, W, 3)."""
        try:
            if self._direct is None:
                out[...] = self._pixels[row]
                return
            # Fetching the chunk and inflating it here is 1.4 (224 px) to 3 times (64 px) as fast as HDF5's own
            # selection, whose fixed cost per read exceeds the work for a small frame.
            skipped_filters, data = self._pixels.id.read_direct_chunk((row, 0, 0, 0))
            if self._direct == "gzip" and not skipped_filters:
                data = zlib.decompress(data, bufsize=out.nbytes)
            out[...] = np.frombuffer(data, np.uint8).reshape(out.shape)
        except (OSError, ValueError, zlib.error) as error:
            raise _damaged(self.path, f"frame {row} cannot be read: {error}") from None

    def _read_index(self) -> None:
        missing = [name for name in ("pixels", "action", *INDEX_COLUMNS) if name not in self._file]
        if missing:
            raise ValueError(f"{self.path} lacks the columns {missing}; it has {sorted(self._file)}")
        self._pixels = self._file["pixels"]
        if self._pixels.dtype != np.uint8 or self._pixels.ndim != 4 or self._pixels.shape[-1] != 3:
            given = f"{self._pixels.dtype} {self._pixels.shape}"
            raise ValueError(f"{self.path}: pixels must be uint8 of shape (rows, height, width, 3), got {given}")
        self.num_rows = int(self._pixels.shape[0])
        self.frame_shape: tuple[int, int, int] = tuple(self._pixels.shape[1:])
        self.frame_interval = int(self._pixels.attrs.get(FRAME_INTERVAL, 1))
        self.columns = [name for name in self._file if name not in INDEX_COLUMNS]
        for name in self.columns:
            if len(self._file[name]) != self.num_rows:
                raise _damaged(self.path, f"{name} has {len(self._file[name])} rows, pixels has {self.num_rows}")
        self.lengths = self.rows("ep_len").astype(np.int64)
        self.offsets = self.rows("ep_offset").astype(np.int64)
        self._check_index()

    def _check_index(self) -> None:
        if self.lengths.shape != self.offsets.shape or self.lengths.ndim != 1:
            raise _damaged(self.path, f"ep_len {self.lengths.shape} and ep_offset {self.offsets.shape} do not agree")
        outside = (self.lengths < 1) | (self.offsets < 0) | (self.offsets + self.lengths > self.num_rows)
        if outside.any():
            episode = int(np.flatnonzero(outside)[0])
            raise _damaged(self.path, f"episode {episode} has rows outside of the {self.num_rows} in the file")


def _open(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise ValueError(
            f"{path} is not a whole HDF5 file ({error}); collect the dataset again to replace it, or download it again"
        ) from None


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} is damaged, {what}; delete the file and collect again, or download it again")


def frame_filter(compression: Compression) -> dict[str, Any]:
    """Keyword arguments for h5py that compress a frame; raises as :class:`ShardWriter` does."""
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression {compression!r} is unknown; allowed are {COMPRESSIONS}")
    if compression is None:
        return {}
    if compression == "gzip":  # level 1 reads twice as fast as 4 for a quarter more space
        return {"compression": "gzip", "compression_opts": 1}
    return dict(_hdf5plugin("writing with compression='blosc'").Blosc(cname="lz4", clevel=5))


def _hdf5plugin(purpose: str) -> Any:
    """Import hdf5plugin, which registers its filters with HDF5."""
    try:
        return importlib.import_module("hdf5plugin")
    except ImportError:
        raise ImportError(f"{purpose} needs the package hdf5plugin: {PLUGIN_ADVICE}") from None


def _direct_filter(pixels: Any, path: Path) -> Literal["gzip", "none"] | None:
    """Say how a chunk of ``pixels`` can be decoded without HDF5's filters; None: only by HDF5.

    Loads the plugins if a filter is not built in.
    """
    properties = pixels.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if any(not h5py.h5z.filter_avail(code) for code in filters):
        _hdf5plugin(f"reading the compressed frames of {path}")
        if any(not h5py.h5z.filter_avail(code) for code in filters):
            raise ValueError(f"{path}: its frames use HDF5 filters {filters}, of which hdf5plugin lacks some")
    if pixels.chunks != (1, *pixels.shape[1:]):
        return None
    return {(): "none", (h5py.h5z.FILTER_DEFLATE,): "gzip"}.get(tuple(filters))  # type: ignore[return-value]
