"""What an evaluation has played so far, in a file, so that an interrupted one continues."""

from __future__ import annotations

import contextlib
import errno
import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lewm_agent.evaluation.playing import Trace
from lewm_agent.tools import strict_json
from lewm_agent.tools.replacing import write_atomically

ROWS = ("states", "actions")
"""What a trace holds as arrays."""


class Journal:
    """What was played, one line of JSON for each pair after a line that says what was asked for.

    A file of another request is replaced; a last line that is cut short is dropped.

    Args:
        path: of the file; None keeps nothing.
        request: all that the traces and floors depend on, as JSON.

    Attributes:
        finished: traces of the agent, by the number of their pair.
        solved: whether a floor or ceiling solved a pair, by its name and the pair's number.

    Raises:
        ValueError: another line of the file is not what an evaluation writes.
    """

    def __init__(self, path: Path | None, request: dict[str, Any]) -> None:
        self._path, self._budget = path, request.get("budget")
        self.finished: dict[int, Trace] = {}
        self.solved: dict[tuple[str, int], bool] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps(request)
        self._request = json.loads(header)
        kept = self._read(path)
        write_atomically(path, "".join(f"{line}\n" for line in [header, *kept]))
        self._file = path.open("a")

    def absorb(self, path: Path) -> None:
        """Take over what another file has of the same request. Raises ``ValueError`` as for one's own."""
        if lines := self._read(path):
            self._file.write("".join(f"{line}\n" for line in lines))
            self._file.flush()

    def add(self, number: int, trace: Trace) -> None:
        """Keep the trace of a finished pair. Raises ``ValueError`` if it has figures that are not finite."""
        _check(trace, self._budget)
        self.finished[number] = trace
        rows = {name: [row.tolist() for row in getattr(trace, name)] for name in ROWS}
        self._write({"pair": number, "trace": {**asdict(trace), **rows}})

    def add_floor(self, name: str, number: int, solved: bool) -> None:
        """Keep whether a floor or ceiling has solved a pair."""
        self.solved[name, number] = solved
        self._write({"pair": number, "floor": name, "solved": solved})

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file. It stays until whoever asked for the traces has made a result of them."""
        if self._path is not None:
            with contextlib.suppress(OSError):  # what a full disk did not take, and has been told of
                self._file.close()

    def _write(self, entry: dict[str, Any]) -> None:
        if self._path is not None:
            if not self._path.is_file():
                raise FileNotFoundError(errno.ENOENT, "was removed while it was written", str(self._path))
            try:
                self._file.write(json.dumps(entry) + "\n")
                self._file.flush()
            except OSError as error:
                raise OSError(error.errno, str(error.strerror), str(self._path)) from None

    def _read(self, path: Path) -> list[str]:
        """Take over what a file has of the same request; returns these lines."""
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        for number, line in enumerate(lines, start=1):
            try:
                entry = strict_json.parse(line)
                if number > 1:
                    self._take(entry)
                elif entry != self._request:
                    return []
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{path} is damaged in line {number}: delete that line, and what it held is played again, or the "
                    "file, to begin anew"
                ) from None
        return [line.decode() for line in lines[1:]]

    def _take(self, entry: dict[str, Any]) -> None:
        number, floor, solved = entry["pair"], entry.get("floor"), entry.get("solved")
        if type(number) is not int or number < 0:
            raise ValueError("a pair has a number from 0")
        if floor is None:
            rows = {name: [np.array(row, dtype=np.float64) for row in entry["trace"][name]] for name in ROWS}
            trace = Trace(**{**entry["trace"], **rows})
            _check(trace, self._budget)
            self.finished[number] = trace
        elif isinstance(floor, str) and isinstance(solved, bool):
            self.solved[floor, number] = solved
        else:
            raise ValueError("a floor has a name, and solves a pair or not")


def _check(trace: Trace, budget: int | None) -> None:
    """Raise ``ValueError`` unless a trace is of a whole episode, and all its figures are finite."""
    told = [distance for distance in (*trace.distances, *trace.latent_distances) if distance is not None]
    figures = np.array([*told, trace.plans, trace.planning_seconds, trace.seconds], dtype=np.float64)
    if not all(np.isfinite(values).all() for values in (figures, np.stack(trace.states), *trace.actions)):
        raise ValueError("the world gave a state or a distance that is not finite")
    steps = len(trace.actions)
    if not len(trace.states) == len(trace.distances) == steps + 1:
        raise ValueError(f"an episode of {steps} actions has {steps + 1} states, not {len(trace.states)}")
    if budget is not None and not (steps == budget or (trace.ended and 0 < steps < budget)):
        raise ValueError(f"an episode has {budget} steps, this one {steps}")
