"""One attempt to break something, in a process of its own, and what came of it.

The command has everything imported, has one thread and never computes; every attempt is a fork of it, so that it begins
within milliseconds. The child leads a session of its own, by which whatever it leaves behind is found.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lewm_agent.tools import command

Outcome = Literal["same", "sentence", "harmless", "lost", "traceback", "hang", "wrong", "left"]
OUTCOMES: dict[Outcome, str] = {
    "same": "the result is that of a run that was left alone",
    "sentence": "refused in a sentence; after a full disk, then continued",
    "harmless": "accepted, and without any effect",
    "lost": "something that was there is gone, or the run cannot be continued",
    "traceback": "a traceback, Python's own words for an error, or a crash",
    "hang": "had to be ended",
    "wrong": "another result, without a word",
    "left": "a process or an unfinished file is left over",
}
GOOD: tuple[Outcome, ...] = ("same", "sentence", "harmless")
HANG_SECONDS = 240
"""No attempt takes a twentieth of it on an idle core."""
PROCESSOR_SECONDS = 60
"""Of one attempt: what is caught in a loop, even on a busy machine."""
MEMORY_BYTES = 16 << 30
"""Address space of one attempt."""
TOUCHES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "shutil.rmtree")
"""Names under which Python announces what it is about to do to a file."""


RAW = re.compile(
    r"Traceback \(most recent call last\)"
    rf"|\({command.DEBUG} shows where\)"
    r"|argument must be a string or a real number|invalid literal for|could not convert string|has no attribute '"
    r"|unsupported operand|not supported between|not subscriptable|object is not|object cannot be interpreted"
)
"""Signs of an error that nobody has found words for: Python's own, and the sentence made of its name."""
USAGE = "For full helptext"
"""In what the parser of command lines says, which names the option."""


@dataclass(frozen=True)
class Finding:
    """What came of an attempt, and how many breaks it had."""

    outcome: Outcome
    detail: str = ""
    breaks: int = 1


@dataclass(frozen=True)
class Trial:
    """An attempt: ``kind/what/number``, and what to do with an empty folder."""

    name: str
    attempt: Callable[[Path], Finding]


@dataclass
class Ended:
    """How a child process ended.

    Attributes:
        answer: what its work returned, JSON; None if it did not.
        text: all that it printed.
        code: exit status, or minus the number of the signal that ended it.
        hung: it had to be ended.
    """

    answer: Any
    text: str
    code: int
    hung: bool = False

    @property
    def outcome(self) -> Outcome | None:
        """What is wrong whatever had been asked; None if it answered."""
        if self.hung or self.code == -signal.SIGXCPU:
            return "hang"
        if self.code or (RAW.search(self.text) and USAGE not in self.text):
            return "traceback"
        return None

    @property
    def last_line(self) -> str:
        """What it said in the end."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"ended with {self.code} without a word"


class Child:
    """Work in a forked process, which leads a session of its own. ``work`` returns JSON."""

    def __init__(self, work: Callable[[], Any]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._folder = tempfile.TemporaryDirectory(prefix="lewm-faults-")
        self._answer, self._text = (Path(self._folder.name) / name for name in ("answer", "text"))
        self.code: int | None = None
        self.pid = os.fork()
        if not self.pid:
            self._be_child(work)

    def _be_child(self, work: Callable[[], Any]) -> None:
        code = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, 2 * PROCESSOR_SECONDS))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            output = os.open(self._text, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for number in (1, 2):
                os.dup2(output, number)
            sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w", closefd=False)) for n in (1, 2))
            answer = json.dumps(work())
            self._answer.write_text(answer)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def has_ended(self) -> bool:
        """Whether it has, without waiting."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.has_ended()

    def kill(self) -> None:
        """End it with kill -9, and only it."""
        if not self.has_ended():
            os.kill(self.pid, signal.SIGKILL)
            self.wait(HANG_SECONDS)

    def ended(self) -> Ended:
        """Wait for its end, ending it after ``HANG_SECONDS``; then everything that it left is ended too."""
        in_time = self.wait(HANG_SECONDS)
        self.kill()
        end_session(self.pid)
        text = self._text.read_text(errors="replace") if self._text.exists() else ""
        answer = json.loads(self._answer.read_text()) if not self.code and self._answer.exists() else None
        self._folder.cleanup()
        return Ended(answer, text, self.code if self.code is not None else 1, not in_time)


def run(work: Callable[[], Any]) -> Ended:
    """The work in a forked process, waited for."""
    return Child(work).ended()


def processes_of(session: int) -> dict[int, str]:
    """Living processes of a session and their command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, IndexError):  # it has just ended
                state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(its_session) == session and state != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def workers_of(session: int) -> list[int]:
    """Processes of a session other than its leader and multiprocessing's resource tracker, which holds no work."""
    return [pid for pid, line in processes_of(session).items() if pid != session and "resource_tracker" not in line]


def end_session(session: int) -> None:
    """End what is left of a session."""
    for pid in processes_of(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def sentence_of(error: Exception) -> str:
    """The words that a command has for an error; raises it if there are none of the package's own."""
    text = command.sentence(error)
    if command.DEBUG in text:
        raise error
    return f"error: {text}"


@contextlib.contextmanager
def kills_itself(folder: Path, at_event: int) -> Iterator[list[int]]:
    """Kill -9 this process when it is about to touch ``folder`` for the ``at_event``-th time; -1 only counts.

    Python announces everything that opens, renames, links or deletes a file before it is done.
    """
    count, armed = [0], [True]

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if not armed[0] or event not in TOUCHES:
            return
        beside_a_handle = event in ("os.remove", "os.rmdir") and not os.path.isabs(arguments[0])
        if str(folder) not in str(arguments[0]) and not beside_a_handle:
            return
        if count[0] == at_event:
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] += 1

    sys.addaudithook(listen)
    try:
        yield count
    finally:
        armed[0] = False
