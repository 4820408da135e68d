"""Kill -9 at random moments, continue, and compare with a run that was left alone."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breaking.scene import Operation, Scene, operations
from breaking.trial import (
    HANG_SECONDS,
    Child,
    Ended,
    Finding,
    Trial,
    kills_itself,
    processes_of,
    run,
    sentence_of,
    workers_of,
)

Killed = tuple[bool, Finding | None]
"""Whether it was killed in time, and what was wrong before it came to continuing."""
LEFT_SECONDS = 5.0
"""After the parent was killed, for its workers to end, where no others want the processor."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that was left alone: what came out, how long it took, and how often it touched its files."""

    result: Any
    seconds: float
    touches: int


def trials(scene: Scene, kills: int, seed: int) -> Iterator[Trial]:
    """About so many kills, spread over operations; every second attempt kills what continues, too."""
    for operation in operations(scene):
        known = Reference(operation)
        for victim in ("parent", "worker") if operation.with_workers else ("parent",):
            what = f"{operation.name}{', a worker' if victim == 'worker' else ''}"
            share = operation.share / (2 if operation.with_workers else 1)
            for number in range(max(1, round(kills * share / (1.5 if victim == "parent" else 1)))):
                name = f"kills/{what}/{number}"
                yield Trial(name, attempt(operation, known, victim, number, f"{seed}/{name}"))


class Reference:
    """The undisturbed run of an operation, made when it is first asked for."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._known: Undisturbed | None = None

    def get(self, folder: Path) -> Undisturbed:
        """It, with ``folder`` to work in."""
        if self._known is None:
            place = folder / "undisturbed"
            place.mkdir()
            ended = run(lambda: self._run(place))
            if ended.outcome is not None:
                raise RuntimeError(f"{self._operation.name} fails undisturbed:\n{ended.text}")
            self._known = Undisturbed(**ended.answer)
        return self._known

    def _run(self, folder: Path) -> dict[str, Any]:
        self._operation.prepare(folder)
        began = time.monotonic()
        with kills_itself(folder, at_event=-1) as touches:
            disturbed(self._operation)(folder)
        seconds = time.monotonic() - began
        return {"result": self._operation.result(folder), "seconds": seconds, "touches": touches[0]}


def attempt(
    operation: Operation, reference: Reference, victim: str, number: int, seed: str
) -> Callable[[Path], Finding]:
    """One or two kills, what they have left, and the run that then goes on to the end."""

    def work(folder: Path) -> Finding:
        rng, known = random.Random(seed), reference.get(folder)
        place = folder / "killed"
        place.mkdir()
        run(lambda: operation.prepare(place))
        least, kills, kill = 0, 0, kill_parent if victim == "parent" else kill_worker
        for _ in range(1 + number % 2 if victim == "parent" else 1):
            killed, problem = kill(operation, place, known, rng)
            kills += killed
            if problem is not None:
                return Finding(problem.outcome, problem.detail, kills)
            kept = run(lambda: operation.kept(place))
            if kept.outcome is not None or kept.answer < least:
                detail = kept.last_line if kept.outcome else f"{kept.answer} kept, {least} were"
                return Finding("lost", f"after kill {kills}: {detail}", kills)
            least = kept.answer
        return compared(run(lambda: continued(operation, place)), known, kills)

    return work


def disturbed(operation: Operation) -> Callable[[Path], None]:
    """What is killed: with workers, if it has any."""
    return operation.with_workers or operation.run


def continued(operation: Operation, folder: Path) -> Any:
    """The result after the run has gone on to its end."""
    operation.run(folder)
    return operation.result(folder)


def compared(ended: Ended, known: Undisturbed, kills: int) -> Finding:
    """Whether it came out as if nothing had happened."""
    if ended.outcome is not None:
        outcome: Any = "hang" if ended.outcome == "hang" else "lost"
        return Finding(outcome, f"cannot be continued: {ended.last_line}", kills)
    if ended.answer != known.result:
        return Finding("wrong", f"another result: {difference(known.result, ended.answer)}", kills)
    return Finding("same", breaks=kills)


def difference(expected: Any, found: Any, at: str = "") -> str:
    """Where two JSON values first differ."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return next(difference(expected[k], found[k], f"{at}/{k}") for k in expected if expected[k] != found[k])
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return next(difference(a, b, f"{at}/{i}") for i, (a, b) in pairs if a != b)
    return f"{at}: {str(expected)[:80]} became {str(found)[:80]}"


def kill_parent(operation: Operation, folder: Path, known: Undisturbed, rng: random.Random) -> Killed:
    """Kill it at a random touch of its files or at a random time; tried again, earlier, if it had ended before."""
    at_touch = rng.random() < 0.5
    for span in (1.0, 0.5, 0.25, 0.1, 0.02):
        event = rng.randrange(max(1, round(known.touches * span))) if at_touch else -1
        child = Child(functools.partial(watched, operation, folder, event))
        child.wait(HANG_SECONDS if at_touch else rng.random() * known.seconds * span)
        killed = not child.has_ended() or child.code == -signal.SIGKILL
        child.kill()
        left = wait_until_alone(child.pid)
        ended = child.ended()
        if left:
            return True, Finding("left", f"alive {LEFT_SECONDS:g} s after: {'; '.join(left)}"[:300])
        if killed:
            return True, None
        if ended.outcome is not None:
            return False, Finding("lost", f"cannot be continued: {ended.last_line}")
    return False, None  # nothing was left to do


def watched(operation: Operation, folder: Path, event: int) -> None:
    """The operation, killed at a touch of its files."""
    with kills_itself(folder, event):
        disturbed(operation)(folder)


def kill_worker(operation: Operation, folder: Path, known: Undisturbed, rng: random.Random) -> Killed:
    """Kill one of its workers at a random time; the parent must end by itself, with a sentence or with the result."""
    child = Child(functools.partial(ending_well, operation, folder))
    while not child.has_ended() and not workers_of(child.pid):
        time.sleep(0.005)
    child.wait(rng.random() * known.seconds / 2)
    if workers := workers_of(child.pid):
        os.kill(rng.choice(workers), signal.SIGKILL)
    ended = child.ended()
    return bool(workers), None if ended.outcome is None else Finding(ended.outcome, ended.last_line)


def ending_well(operation: Operation, folder: Path) -> str:
    """The operation; an error that has a sentence is an answer."""
    try:
        disturbed(operation)(folder)
    except Exception as error:
        return sentence_of(error)
    return ""


def wait_until_alone(session: int) -> list[str]:
    """What is still alive of a session after ``LEFT_SECONDS``, or as much more as the machine has to do for others."""
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    deadline = time.monotonic() + LEFT_SECONDS * max(1.0, busy)
    while (left := processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return list(left.values())
