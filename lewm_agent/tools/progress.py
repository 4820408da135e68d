"""How far a long operation is: a bar on a terminal, a line that changes in a notebook, elsewhere one now and then."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ThingT = TypeVar("ThingT")

FIRST_LINE_SECONDS = 5.0
LINE_SECONDS = 30.0
"""Between two lines where there is no terminal."""
NOTEBOOK_SECONDS = 1.0
"""Between two changes of the line in a notebook."""


class ProgressShown:
    """Shows steps done, steps per second and a note on standard error; a context manager.

    Args:
        label: what is being done.
        total: steps there are.
        start: steps already taken.
        shown: false shows nothing.
    """

    def __init__(self, label: str, total: int, *, start: int = 0, shown: bool = True) -> None:
        self._label, self._total, self._start, self._done = label, total, start, start
        self._note, self._lines, self._bar = "", False, None
        self._began = time.monotonic()
        self._next_line = self._began + FIRST_LINE_SECONDS
        console = Console(stderr=True)
        self._notebook = _Notebook() if shown and console.is_jupyter else None  # a bar needs an extension there
        if shown and console.is_terminal and self._notebook is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task(label, total=total, completed=start, note="")
        self._lines = shown and self._bar is None
        if self._notebook is not None:
            self._next_line = self._began

    def __enter__(self) -> ProgressShown:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._lines and self._done > self._start:
            self._line()

    def update(self, done: int, note: str | None = None) -> None:
        """Steps done by now; a note stays until there is another."""
        self._done, self._note = done, self._note if note is None else note
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=f"{self._speed():.1f}/s {self._note}")
        elif self._lines and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + (LINE_SECONDS if self._notebook is None else NOTEBOOK_SECONDS)
            self._line()

    def _speed(self) -> float:
        return (self._done - self._start) / max(1e-9, time.monotonic() - self._began)

    def _line(self) -> None:
        left = (self._total - self._done) / max(1e-9, self._speed())
        parts = [f"{self._done} of {self._total}", self._note, f"{self._speed():.1f} per second", f"{left:.0f} s left"]
        line = f"{self._label}: {', '.join(part for part in parts if part)}"
        if self._notebook is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._notebook.show(line)


def counted(label: str, things: Iterable[ThingT], total: int | None = None, *, shown: bool = True) -> Iterator[ThingT]:
    """The things one after the other, while it is shown how many are done.

    Args:
        label: what is being done.
        things: a sized collection, unless there is a total.
        total: how many there are.
        shown: false shows nothing.
    """
    if total is None:
        total = len(things) if isinstance(things, Sized) else 0
    with ProgressShown(label, total, shown=shown) as progress:
        for done, thing in enumerate(things, 1):
            yield thing
            progress.update(done)


class _Notebook:
    """One line below a cell, which changes."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, line: str) -> None:
        """The line from now on."""
        content = {"text/plain": line}
        if self._handle is None:
            display = importlib.import_module("IPython.display").display
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
