"""Files and folders that are whole whenever they exist: written beside, then put in their place.

Whatever a killed write has left under the name beside, a file, a folder or a link, never blocks the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

PART = ".part"
"""Ends the names of what is being written."""


def part_of(path: Path) -> Path:
    """Where the successor of ``path`` is written until it is whole."""
    return path.with_name(path.name + PART)


def remove(path: Path) -> None:
    """Delete a file, a link (not what it points to) or a folder with all it holds; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside ``path`` for its successor, a file or a folder.

    When the block ends, the successor is on disk and takes the place of what stood at ``path``; when it fails, the
    successor is removed and ``path`` is as it was. A file is replaced in one step. A folder can only be put where none
    or an empty one stands: a full one would have to be given up first.

    Raises:
        OSError: it cannot be written, as when the disk is full; the error names ``path`` and says what is there now.
    """
    part = part_of(path)
    remove(part)
    try:
        yield part
        _flush(part)
        os.replace(part, path)
    except BaseException as error:
        remove(part)
        if isinstance(error, OSError) and error.strerror and error.filename in (None, str(part), part):
            kept = "what was there before is kept" if path.exists() else "nothing is there"
            raise OSError(error.errno, f"{error.strerror}; {kept}", str(path)) from error
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; text is written as UTF-8."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def _flush(path: Path) -> None:
    """Have a file, or all files of a folder, reach the disk, so that a power cut leaves no name without content."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
