"""Reading one HDF5 file of episodes, ours or somebody else's, whose index is checked before it is believed.

Nothing outside the file is read, whatever it says, and no more memory is asked for than a file of its size can need.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.shards import FRAME_INTERVAL, INDEX_COLUMNS, hdf5plugin_for

SMALL = 2**28
"""Bytes that may be asked for without a look at the file's size."""
EXPANSION = 20
"""Bytes of a column or a frame for every byte of the file that holds it: frames take most of a file, columns little."""
DEFLATE_EXPANSION = 1032
"""Most bytes that a byte can inflate to (https://zlib.net/zlib_tech.html)."""
FILTER_ROOM = 1024
"""Bytes by which the filters that do not shrink a chunk may enlarge it."""

LIBRARY_ERRORS = (OSError, RuntimeError, LookupError, TypeError, ValueError, ArithmeticError, MemoryError, zlib.error)
"""What h5py and zlib raise over damaged content; a chunk that was never written is a MemoryError."""


class ShardReader:
    """Read one shard or one published ``.h5`` file; the file is open until :meth:`close`.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: No such file.
        BlockingIOError: Another program is writing it.
        ImportError: Its frames or actions are compressed by a filter that needs hdf5plugin, which is not installed.
        ValueError: Not an HDF5 file, cut short, or without sound columns ``pixels, action, ep_len, ep_offset``.

    Attributes:
        path: The file.
        columns: Names of the row columns.
        left_out: Other things in the file, and why they are no row columns.
        lengths: Rows of each episode, (E,) int64; episodes without rows are left out.
        offsets: First row of each episode, (E,) int64.
        frame_shape: (height, width, 3).
        num_rows: Rows in the file.
        frame_interval: Only rows 0, frame_interval, 2 frame_interval, ... of an episode have a frame.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            self._read_layout()
            self._read_index()
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
        except LIBRARY_ERRORS as error:
            raise _damaged(self.path, f"column {name} cannot be read: {error}") from None

    def row_shape(self, name: str) -> tuple[int, ...]:
        """Shape of one row of a column."""
        return tuple(self._file[name].shape[1:])

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
                data = _inflated(data, out.nbytes)
            out[...] = np.frombuffer(data, np.uint8).reshape(out.shape)
        except LIBRARY_ERRORS as error:
            raise _damaged(self.path, f"frame {row} cannot be read: {str(error) or 'it was never written'}") from None

    def _read_layout(self) -> None:
        try:
            names = list(self._file)
        except LIBRARY_ERRORS as error:
            raise _damaged(self.path, f"its names cannot be read: {error}") from None
        missing = [name for name in ("pixels", "action", *INDEX_COLUMNS) if name not in names]
        if missing:
            raise ValueError(f"{self.path} lacks the columns {missing}; it has {sorted(names)}")
        self._require("pixels", None)
        self._pixels = self._file["pixels"]
        shape = self._pixels.shape
        if self._pixels.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape[1:]:
            given = f"{self._pixels.dtype} {shape}"
            raise ValueError(f"{self.path}: pixels must be uint8 of shape (rows, height, width, 3), got {given}")
        self.num_rows = int(shape[0])
        self.frame_shape: tuple[int, int, int] = tuple(shape[1:])
        self._require("action", self.num_rows)
        others = [name for name in names if name not in ("pixels", "action", *INDEX_COLUMNS)]
        self.left_out = _left_out(self._file, others, self.num_rows)
        self.columns = [name for name in names if name not in (*INDEX_COLUMNS, *self.left_out)]

    def _require(self, name: str, rows: int | None) -> None:
        if reason := _unfit(self._file, name, rows):
            raise ValueError(f"{self.path} cannot be used: {name} {reason}")

    def _read_index(self) -> None:
        self.frame_interval = self._checked_interval()
        index = _index(self._file, self.path, self.num_rows)
        self.lengths, self.offsets = (values[index[0] > 0] for values in index)
        self._direct = _direct_filter(self._pixels)
        self._check_written()

    def _checked_interval(self) -> int:
        try:
            interval = self._pixels.attrs.get(FRAME_INTERVAL, 1)
        except LIBRARY_ERRORS as error:
            raise _damaged(self.path, f"{FRAME_INTERVAL} cannot be read: {error}") from None
        if not isinstance(interval, int | np.integer) or not 1 <= interval < 2**31:
            raise _damaged(self.path, f"{FRAME_INTERVAL} must be a whole number of at least 1, got {interval!r}")
        return int(interval)

    def _check_written(self) -> None:
        """HDF5 returns zeros for what was never written; reading a chunk directly finds out by itself."""
        if self._direct is None:
            frames = int((-(-self.lengths // self.frame_interval)).sum())
            if _unwritten(self._pixels, frames):
                raise _damaged(self.path, "pixels has frames that were never written")


def _index(file: Any, path: Path, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    for name in INDEX_COLUMNS:
        reason = _unfit(file, name, None) or ("is not one number per episode" if file[name].ndim != 1 else None)
        if reason:
            raise ValueError(f"{path} cannot be used: {name} {reason}")
    try:
        lengths, offsets = (np.asarray(file[name][()]) for name in INDEX_COLUMNS)
    except LIBRARY_ERRORS as error:
        raise _damaged(path, f"ep_len or ep_offset cannot be read: {error}") from None
    return checked_index(path, lengths, offsets, rows)


def checked_index(
    path: Path, lengths: NDArray[Any], offsets: NDArray[Any], rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``ep_len`` and ``ep_offset`` (E,), if episodes lie within ``rows`` rows and share none; some may be empty.

    Raises:
        ValueError: They do not.
    """
    if lengths.shape != offsets.shape or lengths.ndim != 1 or {lengths.dtype.kind, offsets.dtype.kind} - {*"iu"}:
        given = f"{lengths.dtype} {lengths.shape} and {offsets.dtype} {offsets.shape}"
        raise ValueError(f"{path} cannot be used: ep_len and ep_offset must be as many whole numbers, got {given}")
    outside = (lengths < 0) | (lengths > rows) | (offsets < 0)
    outside |= offsets > rows - np.where(outside, 0, lengths).astype(np.int64)
    if outside.any():
        raise ValueError(f"{path} cannot be used: episode {np.flatnonzero(outside)[0]} has rows outside of the {rows}")
    lengths, offsets = lengths.astype(np.int64), offsets.astype(np.int64)
    order = np.argsort(offsets, kind="stable")
    order = order[lengths[order] > 0]
    overlaps = np.flatnonzero((offsets + lengths)[order][:-1] > offsets[order][1:])
    if overlaps.size:
        first, second = sorted(order[overlaps[0] : overlaps[0] + 2].tolist())
        raise ValueError(f"{path} cannot be used: episodes {first} and {second} share rows by ep_len and ep_offset")
    return lengths, offsets


def row_columns(path: Path) -> list[str]:
    """Names of what a foreign file with actions and their episodes holds as many rows of, whatever else is in it.

    Raises:
        ValueError: It is no such file, or its index cannot be true. Otherwise as :class:`ShardReader`.
    """
    with _open(path) as file:
        if missing := [name for name in ("action", *INDEX_COLUMNS) if name not in list(file)]:
            raise ValueError(f"{path} lacks the columns {missing}; it has {sorted(file)}")
        if reason := _unfit(file, "action", None):
            raise ValueError(f"{path} cannot be used: action {reason}")
        rows = len(file["action"])
        _index(file, path, rows)
        others = [name for name in file if name not in INDEX_COLUMNS]
        return [name for name in others if name not in _left_out(file, others, rows)]


def check_self_contained(path: Path) -> None:
    """Raise ``ValueError`` if anything in an HDF5 file lies in another file, or is a link that might lead there."""

    def leads_out(name: str, link: Any) -> str | None:
        if not isinstance(link, h5py.HardLink):
            return name
        found = file[name]
        return name if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external) else None

    with _open(path) as file:
        if name := file.visititems_links(leads_out):
            raise ValueError(f"{path} cannot be used: {name} is a link or lies in other files; copy its values into it")


def _left_out(file: Any, names: list[str], rows: int) -> dict[str, str]:
    """Which of the names are no columns with so many rows, and why."""
    reasons: dict[str, str] = {}
    for name in names:
        try:
            reason = _unfit(file, name, rows)
        except ImportError as error:
            reason = str(error)
        if reason:
            reasons[name] = reason
    return reasons


def _unfit(file: Any, name: str, rows: int | None) -> str | None:
    """Why something in the file cannot be a column with so many rows; any number of them will do if it is None."""
    try:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            return "is a link, and what it leads to may lie in another file"
        column = file[name]
        if not isinstance(column, h5py.Dataset):
            return "is a group, not a column"
        return next(_faults(column, rows, Path(file.filename).stat().st_size), None)
    except LIBRARY_ERRORS as error:
        return f"cannot be read: {error}"


def _open(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return h5py.File(path, "r", locking="best-effort")
    except BlockingIOError:
        raise BlockingIOError(f"{path} is being written by another program; try again when that is done") from None
    except PermissionError:
        raise PermissionError(f"{path} may not be read by this user") from None
    except LIBRARY_ERRORS as error:
        if "already open for write" in str(error):
            raise ValueError(
                f"{path} is being written, or the program that wrote it did not close it; in that case "
                f"`h5clear --status {path}` of the HDF5 tools makes it readable"
            ) from None
        raise ValueError(f"{path} is not a whole HDF5 file ({error}); get a new copy of it") from None


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} is damaged, {what}")


def _faults(column: Any, rows: int | None, file_bytes: int) -> Iterator[str]:
    """What is wrong with a column, the cheapest to find first."""
    is_frames = column.ndim == 4 and column.dtype == np.uint8  # read row by row, other columns whole
    if column.dtype.kind not in "biuf":
        yield f"holds {column.dtype}, not numbers"
    if column.ndim == 0:
        yield "is a single number, not a column"
    if column.is_virtual or column.external:
        yield "is stored in other files; copy its values into this one"
    if rows is not None and column.shape[0] != rows:
        yield f"has {column.shape[0]} rows instead of {rows}"
    if rows is not None and 0 in column.shape[1:]:
        yield f"has rows of shape {column.shape[1:]}, with nothing in them"
    asked = column.dtype.itemsize * max(math.prod(column.shape[is_frames:]), math.prod(column.chunks or ()))
    if asked > max(SMALL, EXPANSION * file_bytes):
        yield f"asks for {asked / 1e9:.1f} GB, and the whole file has {file_bytes / 1e6:.1f} MB"
    _load_filters(column)
    if not is_frames and _unwritten(column, 0):
        yield "has rows that were never written"
    if not (is_frames and _direct_filter(column)) and _overfull(column, is_frames):
        yield "unpacks to more than the file says"


def _load_filters(column: Any) -> None:
    """Have hdf5plugin register the filters of a column that are not built in; ``ImportError`` if it lacks them."""
    filters = _filters(column)
    if any(not h5py.h5z.filter_avail(code) for code in filters):
        hdf5plugin_for(f"reading {Path(column.file.filename).name}")
        if any(not h5py.h5z.filter_avail(code) for code in filters):
            raise ValueError(f"it is packed by the HDF5 filters {filters}, of which hdf5plugin lacks some")


def _filters(column: Any) -> tuple[int, ...]:
    properties = column.id.get_create_plist()
    return tuple(properties.get_filter(index)[0] for index in range(properties.get_nfilters()))


def _unwritten(column: Any, frames: int) -> bool:
    """Whether rows, of the frames one per chunk only so many, are not in the file."""
    if column.chunks is None:
        return bool(column.id.get_storage_size() < column.nbytes)
    if column.chunks == (1, *column.shape[1:]) and column.ndim == 4:
        return bool(column.id.get_num_chunks() < frames)
    pairs = zip(column.shape, column.chunks, strict=True)
    return bool(column.id.get_num_chunks() < math.prod(-(-rows // chunk) for rows, chunk in pairs))


def _overfull(column: Any, is_frames: bool) -> bool:
    """Whether a deflated chunk holds more than its rows: HDF5 would inflate it to whatever it holds.

    Honest filters do not enlarge a chunk. Inside of chunks of frames nobody looks, that would be to read them all.
    """
    filters = _filters(column)
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return False
    chunks: list[Any] = []
    column.id.chunk_iter(chunks.append)
    most = math.prod(column.chunks) * column.dtype.itemsize + FILTER_ROOM
    if max((chunk.size for chunk in chunks), default=0) > most:
        return True
    large = [chunk for chunk in chunks if chunk.size * DEFLATE_EXPANSION > SMALL and not chunk.filter_mask]
    if is_frames or filters[-1] != h5py.h5z.FILTER_DEFLATE:
        return False
    return any(len(_inflated(column.id.read_direct_chunk(chunk.chunk_offset)[1], most)) > most for chunk in large)


def _inflated(data: bytes, size: int) -> bytes:
    """Inflate ``size`` bytes; of more than that no more than one, unless it is little anyway."""
    if len(data) * DEFLATE_EXPANSION <= SMALL:
        return zlib.decompress(data, bufsize=size)
    stream = zlib.decompressobj()
    content = stream.decompress(data, size + 1)
    if len(content) <= size and not stream.eof:
        raise ValueError("its compressed content is cut short")
    return content


def _direct_filter(pixels: Any) -> Literal["gzip", "none"] | None:
    """Say how a chunk of ``pixels`` can be decoded without HDF5's filters; None: only by HDF5."""
    if pixels.chunks != (1, *pixels.shape[1:]):
        return None
    return {(): "none", (h5py.h5z.FILTER_DEFLATE,): "gzip"}.get(_filters(pixels))  # type: ignore[return-value]
