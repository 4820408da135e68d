"""A disk that is full at every size of a small run; then room is made, and the run goes on."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from breaking.kills import Reference, Undisturbed, compared, continued
from breaking.scene import Operation, Scene, operations
from breaking.trial import Ended, Finding, Trial, run, sentence_of

PAGE = 4096
ROOM = 256 << 20
"""Bytes of a disk that is not full."""
FEWEST = 8
"""Sizes at which a run is tried that writes little."""


def trials(scene: Scene, folder: Path, step: int) -> Iterator[Trial]:
    """Every operation of one process on disks ``step`` bytes apart, up to what it needs, measured in ``folder``."""
    small_disks = _can_mount(folder)
    for operation in operations(scene):
        if operation.with_workers:
            continue
        known = Reference(operation)
        size = _size(operation, folder)
        for number, limit in enumerate(range(PAGE, size, min(step, max(PAGE, size // FEWEST)))):
            name = f"disks/{operation.name}/{number}"
            yield Trial(name, _attempt(operation, known, limit, small_disks))


def _size(operation: Operation, folder: Path) -> int:
    """Bytes on disk of all that an undisturbed run leaves."""
    place = folder / operation.name
    place.mkdir()

    def work() -> int:
        operation.prepare(place)
        operation.run(place)
        return sum(file.stat().st_blocks * 512 for file in place.rglob("*"))

    ended = run(work)
    if ended.outcome is not None:
        raise RuntimeError(f"{operation.name} fails with room enough:\n{ended.text}")
    return int(ended.answer)


def _attempt(operation: Operation, reference: Reference, limit: int, small_disks: bool) -> Callable[[Path], Finding]:
    def attempt(folder: Path) -> Finding:
        known = reference.get(folder)
        place = folder / "disk"
        place.mkdir()
        if not small_disks:
            return _found(operation, place, run(lambda: _with_small_files(operation, place, limit)), known, limit)
        _mount(place, ROOM)
        try:
            run(lambda: operation.prepare(place))
            used = sum(file.stat().st_blocks * 512 for file in place.rglob("*"))
            _mount(place, used + limit, again=True)
            full = run(lambda: _ending(operation, place))
            _mount(place, ROOM, again=True)
            return _found(operation, place, full, known, limit)
        finally:
            subprocess.run(["umount", str(place)], check=True)

    return attempt


def _found(operation: Operation, place: Path, full: Ended, known: Undisturbed, limit: int) -> Finding:
    if full.outcome is not None:
        return Finding(full.outcome, f"{limit} bytes: {full.last_line}")
    if left := [file.name for file in place.rglob("*.part*")]:
        return Finding("left", f"{limit} bytes: {left}")
    kept = run(lambda: operation.kept(place))
    if kept.outcome is not None:
        return Finding("lost", f"{limit} bytes: {kept.last_line}")
    found = compared(run(lambda: continued(operation, place)), known, 1)
    if found.outcome != "same":
        return Finding(found.outcome, f"{limit} bytes: {full.answer}, then {found.detail}")
    return Finding("sentence" if full.answer else "same", full.answer)


def _ending(operation: Operation, folder: Path) -> str:
    """The words with which a run on a full disk ends; none if there was room."""
    try:
        operation.run(folder)
    except Exception as error:
        return sentence_of(error)
    return ""


def _with_small_files(operation: Operation, folder: Path, limit: int) -> str:
    """The same where no disk can be mounted: no file may grow beyond the limit."""
    operation.prepare(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return _ending(operation, folder)


def _can_mount(folder: Path) -> bool:
    place = folder / "mounted"
    place.mkdir()
    try:
        _mount(place, PAGE)
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(place)], check=True)
    return True


def _mount(place: Path, size: int, again: bool = False) -> None:
    options = f"size={size}{',remount' if again else ''}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True, capture_output=True)
