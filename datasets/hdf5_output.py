"""A file that HDF5 writes into without ever learning that the disk is full.

When a write or the closing of a file fails, HDF5 keeps what it could not write, and the process crashes at its end at
the latest. So it is given a file that takes everything: after the first failure what comes is dropped, and the failure
is raised once HDF5 is done.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import h5py


class Hdf5Output(io.RawIOBase):
    """The file object behind an ``h5py.File`` that is written; as a context manager it raises what failed."""

    def __init__(self, path: Path) -> None:
        """Create the file, or empty the one that is there."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
        self._position = 0
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raise the ``OSError`` of the first write that failed, if one has."""
        if self._failure is not None:
            raise self._failure

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; unless another error is on its way, raise what failed."""
        self.close()
        if error is None:
            self.check()

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += os.fstat(self._descriptor).st_size
        self._position = offset
        return offset

    def tell(self) -> int:
        """The present place."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read what HDF5 has written."""
        data = os.pread(self._descriptor, len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        """Write all, or note why not."""
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:] if written else data, self._position + written)
        except OSError as error:
            self._failure = self._failure or error
        self._position += len(data)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Set the length, or note why not."""
        size = self._position if size is None else size
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._failure = self._failure or error
        return size


@contextlib.contextmanager
def hdf5_file(path: Path) -> Iterator[tuple[h5py.File, Hdf5Output]]:
    """A new HDF5 file, which is closed when the block ends; raises ``OSError`` then if it could not be written."""
    with Hdf5Output(path) as output:
        # HDF5 1.10's format finds a chunk faster than the older one, h5py's default, and takes less room for its index
        file = h5py.File(output, "w", libver="v110")
        try:
            yield file, output
        finally:
            with signals_wait():
                file.close()


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM act when the block is over: an exception inside of HDF5's calls cannot pass them."""
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    here = threading.current_thread() is threading.main_thread()  # signals are handled in no other thread
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT) if here}
    raising = {number: handler for number, handler in handlers.items() if callable(handler)}
    for held in raising:
        signal.signal(held, note)
    try:
        yield
    finally:
        for held, handler in raising.items():
            signal.signal(held, handler)
        for number in arrived:
            signal.raise_signal(number)
