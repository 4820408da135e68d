"""How every command ends: with an exit code and, where something went wrong, one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.text import Text

DEBUG = "--debug"
"""Argument of every command: also show where in the code an error arose."""
FAILED, INTERRUPTED, UNREAD = 2, 130, 141
"""Exit codes; 141 is what a shell shows of a program whose reader has gone (``| head``)."""
SENTENCES = (ValueError, TypeError, OSError, RuntimeError, ImportError)
"""Errors whose message says what happened; the names of all others are shown before it."""
FULL = (errno.ENOSPC, errno.EDQUOT)
LIMITED = (*FULL, errno.EFBIG)
"""Where a run can go on once there is room."""


def run(work: Callable[[list[str]], int | None], arguments: Sequence[str] | None = None, *, continues: str = "") -> int:
    """Do what a command does, and return its exit code.

    Args:
        work: is given the arguments, without :data:`DEBUG`; returns an exit code, or None for 0.
        arguments: instead of the command line's.
        continues: how to go on after an interruption, by Ctrl-C or SIGTERM, or when the disk is full; a
            ``KeyboardInterrupt`` may say it better.

    Returns:
        2 after an error, of whatever kind, which is told in one sentence; 130 when interrupted; 141 when nobody reads
        the output any more.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _write_any_name()
    _find_modules_here()
    with _sigterm_interrupts(), _warnings_told(DEBUG in given):
        try:
            with _flushed():
                return int(work([argument for argument in given if argument != DEBUG]) or 0)
        except KeyboardInterrupt as stop:
            return _end(stop, INTERRUPTED, str(stop) or "; ".join(filter(None, ["interrupted", continues])), given)
        except BrokenPipeError:
            _drop_output()
            return UNREAD
        except Exception as error:
            more = continues if isinstance(error, OSError) and error.errno in LIMITED else ""
            told = [sentence(error), *getattr(error, "__notes__", []), more]
            return _end(error, FAILED, "; ".join(filter(None, told)), given)


def sentence(error: BaseException) -> str:
    """What happened, in one line."""
    said = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    match error:
        case OSError(filename=str() | bytes() as name, strerror=str() as reason):
            return f"{os.fsdecode(name)}: {_of_the_disk(error.errno, reason)}"
        case OSError(strerror=str() as reason):
            return _of_the_disk(error.errno, reason)
        case KeyError(args=[str() as key]) if " " not in key:
            return f"`{key}` is missing where it is needed ({DEBUG} shows where)"
        case KeyError(args=[str() as told]):
            return told
        case MemoryError():
            return f"there is not enough memory: {said}" if said else "there is not enough memory"
        case RecursionError():
            return f"something is nested too deeply: {said}"
    if said and (isinstance(error, SENTENCES) or type(error).__module__.partition(".")[0] == "gymnasium"):
        return said
    return f"{': '.join(filter(None, [type(error).__name__, said]))} ({DEBUG} shows where)"


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Where people are told things: names and paths appear as they are, whatever brackets and colons they have."""
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def say(text: str) -> None:
    """Print one line, however long, as it is."""
    console().print(text, soft_wrap=True)


def _of_the_disk(number: int | None, reason: str) -> str:
    return reason.replace(os.strerror(number or 0), "the disk is full", 1) if number in FULL else reason


def _end(error: BaseException, code: int, text: str, given: Sequence[str]) -> int:
    """Tell it, unless nobody reads that either."""
    with contextlib.suppress(SystemExit, BrokenPipeError):  # the former is how rich answers the latter
        if DEBUG in given:
            sys.stderr.write("".join(traceback.format_exception(error)))
        told = text if code == INTERRUPTED else Text.assemble(("error:", "red"), " ", text)
        console(stderr=True).print(told, soft_wrap=True)
    return code


@contextlib.contextmanager
def _warnings_told(debug: bool) -> Iterator[None]:
    """Have warnings told in one line each, as errors are; with ``--debug`` also where they arose."""

    def told(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        where = f" ({category.__name__}, {filename}:{lineno})" if debug else ""
        return f"warning: {' '.join(str(message).split())}{where}\n"

    before = warnings.formatwarning
    warnings.formatwarning = told
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextlib.contextmanager
def _flushed() -> Iterator[None]:
    """Have what was printed reach its reader within the block, also when ``sys.exit`` ends it."""
    try:
        yield
    finally:
        sys.stdout.flush()


def _drop_output() -> None:
    """Let what is still to be written vanish, which Python would complain of at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _find_modules_here() -> None:
    """Let ``module:Name-v0`` name a file of the folder that one is in, after all that is installed."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def _write_any_name() -> None:
    """Have file names that are no text in the terminal's encoding printed with backslashes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM, with which machines are shut down and jobs are cancelled, end a command like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
