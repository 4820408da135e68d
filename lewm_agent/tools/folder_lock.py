"""A folder that one process at a time may write into."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = ".lock"
"""Stays when its holder is done: deleting it could let two others in."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an existing folder; a process that dies, by whatever signal, lets go of it.

    Raises:
        BlockingIOError: another process holds it.
    """
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BlockingIOError(f"another process is writing into {folder}: wait for it, or give another path") from None
    try:
        yield
    finally:
        lock.release()
