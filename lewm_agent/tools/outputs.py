"""Files that a command will write at its end, tried in its first second and kept from other processes until then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
"""Ending of the file that is held beside an output; it goes with its holder unless that is killed, and blocks nobody
then."""


@contextlib.contextmanager
def reserved(*paths: Path | None) -> Iterator[None]:
    """Hold the files that will be written to ``paths``, whose folders are made; None stands for one not asked for.

    Raises:
        ValueError: two are the same, or one is a folder or a device.
        BlockingIOError: another process holds one of them.
        OSError: one cannot be written.
    """
    wanted = [path for path in paths if path is not None]
    if twice := [path for path in wanted if wanted.count(path) > 1]:
        raise ValueError(f"{twice[0]} is asked for twice: give every output a path of its own")
    with contextlib.ExitStack() as held:
        for path in wanted:
            held.enter_context(_held(path))
        yield


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    if path.is_dir() or not path.name:
        raise IsADirectoryError(f"{path} is a folder: give the path of the file to be written")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a device or a pipe: give the path of a file, which can be replaced")
    made = [parent for parent in path.parents if not parent.exists()]
    lock = path.with_name(path.name + LOCK)
    with contextlib.ExitStack() as last:
        try:
            last.callback(_remove_empty, made)
            path.parent.mkdir(parents=True, exist_ok=True)
            last.enter_context(FileLock(lock, blocking=False))
        except Timeout:
            raise BlockingIOError(f"another process is writing {path}: wait for it, or give another path") from None
        except (FileExistsError, NotADirectoryError):
            raise NotADirectoryError(f"{path} cannot be written: a file stands where its folder would be") from None
        except OSError as error:
            raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from None
        last.callback(lock.unlink, missing_ok=True)  # while it is held: who waits for it sees that it is gone
        yield


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made and not used."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
