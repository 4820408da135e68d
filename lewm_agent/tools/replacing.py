"""Files and folders that are whole whenever they exist: written beside, then put in their place.

Whatever a killed write has left under the name beside, a file, a folder or a link, never blocks the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
        _tell(error, path)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; text is written as UTF-8."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON as a file, all or nothing. Raises ``ValueError`` for a figure that is not finite."""
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_together(files: Mapping[Path, bytes], index: Path, content: str) -> None:
    """Replace several files so that, whenever the process is killed, all old ones count or all new ones.

    The new ones are written beside the old. Then ``index`` is replaced: its content says by their hashes which files
    belong to it, so that from then on the new ones count. Then they take their places; where a kill prevents that,
    :func:`put_in_place` does it before the next reading or writing.

    Args:
        files: what is to be in each.
        index: the file that names their hashes.
        content: of ``index``.

    Raises:
        OSError: they could not be written; nothing has changed.
    """
    for path in (*files, index):
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder, where a file is to be written")
    before = index.read_bytes() if index.is_file() else None
    try:
        for path, data in files.items():
            remove(part_of(path))
            part_of(path).write_bytes(data)
            _flush(part_of(path))
        write_atomically(index, content)
    except BaseException as error:
        now = index.read_bytes() if index.is_file() else None
        if now == before:  # otherwise interrupted after the index was replaced: the new ones count
            for unfinished in files:
                remove(part_of(unfinished))
        _tell(error, path)
        raise
    put_in_place({path: hashlib.sha256(data).hexdigest() for path, data in files.items()})


def put_in_place(sha256: Mapping[Path, str]) -> None:
    """Finish a :func:`write_together` that was killed at its end: files of these hashes that still lie beside."""
    for path, expected in sha256.items():
        part = part_of(path)
        if part.is_file():
            with part.open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == expected
            if whole:
                with contextlib.suppress(FileNotFoundError):  # another process has just done it
                    os.replace(part, path)


def _tell(error: BaseException, path: Path) -> None:
    """Raise an error of the disk while ``path`` was being replaced so that it names the file and what is there now."""
    part = str(part_of(path))
    if isinstance(error, OSError) and error.strerror and str(error.filename or part) == part:
        kept = "what was there before is kept" if path.exists() else "nothing is there"
        raise OSError(error.errno, f"{error.strerror}; {kept}", str(path)) from error


def _flush(path: Path) -> None:
    """Have a file, or all files of a folder, reach the disk, so that a power cut leaves no name without content."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
