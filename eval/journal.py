"""What an evaluation has played so far, in a file, so that an interrupted one continues."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lewm_agent.eval.rollouts import Trace


class Journal:
    """Finished traces by the number of their pair, one line of JSON each after a line that says what was asked for.

    A file of another request is replaced; a last line that is cut short is dropped.

    Args:
        path: of the file; None keeps nothing.
        request: all that the traces depend on, as JSON.
    """

    def __init__(self, path: Path | None, request: dict[str, Any]) -> None:
        self._path = path
        self.finished: dict[int, Trace] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = _whole_lines(path)
        if lines and lines[0] == json.loads(json.dumps(request)):
            self.finished = {line["pair"]: _trace(line["trace"]) for line in lines[1:]}
        path.write_text("".join(json.dumps(line) + "\n" for line in [request, *lines[1 : 1 + len(self.finished)]]))
        self._file = path.open("a")

    def add(self, number: int, trace: Trace) -> None:
        """Keep the trace of a finished pair."""
        self.finished[number] = trace
        if self._path is not None:
            states = [state.tolist() for state in trace.states]
            self._file.write(json.dumps({"pair": number, "trace": {**asdict(trace), "states": states}}) + "\n")
            self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file. It stays until whoever asked for the traces has made a result of them."""
        if self._path is not None:
            self._file.close()


def _whole_lines(path: Path) -> list[Any]:
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def _trace(values: dict[str, Any]) -> Trace:
    return Trace(**{**values, "states": [np.array(state) for state in values["states"]]})
