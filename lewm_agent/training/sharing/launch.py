"""Starts the processes of a training on several devices, and ends them together.

Each is a process of its own, as torchrun would start it, so that within them there is one way of working. The process
that calls lives on beside them: it waits, passes on a request to stop, shows their warnings, and says why they ended.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch

from lewm_agent.models.ranks import EndedElsewhereError, LostRankError
from lewm_agent.tools.interruption import Interruption, interruptible
from lewm_agent.tools.workers import end_with_parent
from lewm_agent.training.sharing.placement import ADDRESS, Placement

ResultT = TypeVar("ResultT")

GRACE_SECONDS = 15.0
"""How long the others may go on when one has ended: to write what they are writing, not to wait for it in vain."""
POLL_SECONDS = 0.2
UNGUARDED = 97
"""Exit code of a process that came to start further ones while it was being started."""
GUARD = (
    "a script that learns on several devices is imported by each of their processes: call learn under "
    '`if __name__ == "__main__":`'
)


def launch(placement: Placement, work: Callable[[int], ResultT], kept: Callable[[], str]) -> ResultT:
    """Have ``work`` done by every process of this machine, and return what the first of them returns.

    Args:
        placement: how many processes.
        work: picklable; is given the number of the process on this machine.
        kept: what is left when a process was killed, in words.

    Raises:
        LostRankError: one was killed.
        ValueError: ``work`` cannot be pickled.
        RuntimeError: the calling script starts processes while it is imported.
        Exception: what the lowest rank that failed raised.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(UNGUARDED)
    try:
        content = pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "callbacks, loggers and kinds of agents go to other processes, which import them: define them in a module, "
            f"outside of functions ({error})"
        ) from error
    crew = _Crew(placement, kept)
    with interruptible() as interruption, interruption.between_steps():
        try:
            crew.start(content)
            crew.wait(interruption)
        finally:
            crew.end()
    found: ResultT = crew.result(interruption.requested)
    return found


@dataclass
class _Member(Generic[ResultT]):
    """One process, what it sent, and whether it was ended from here."""

    rank: int
    process: BaseProcess
    connection: Connection
    outcome: tuple[str, Any] | None = None
    ended_by_us: bool = False

    def read(self) -> None:
        """Take what it has sent; its end is seen by its exit code."""
        try:
            while self.connection.poll():
                kind, value = pickle.loads(self.connection.recv_bytes())
                if kind == "warning":
                    message, category = value
                    warnings.warn(message, category, stacklevel=6)
                else:
                    self.outcome = (kind, value)
        except (EOFError, OSError):
            self.process.join(POLL_SECONDS)

    @property
    def failed(self) -> bool:
        """Whether it has ended otherwise than by returning."""
        return self.process.exitcode is not None and (self.outcome is None or self.outcome[0] != "done")


@dataclass
class _Crew:
    """All processes of this machine."""

    placement: Placement
    kept: Callable[[], str]
    members: list[_Member[Any]] = field(default_factory=list)

    def start(self, work: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
        environment = here if self.placement.num_nodes == 1 else {name: os.environ[name] for name in ADDRESS}
        for local_rank in range(self.placement.devices):
            ours, theirs = context.Pipe()
            rank = self.placement.rank_of(local_rank)
            process = context.Process(
                target=_be_a_rank, args=(theirs, environment, local_rank, rank, self.placement.devices)
            )
            process.start()
            theirs.close()
            self.members.append(_Member(rank, process, ours))
        for member in self.members:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended, which is seen by waiting
                member.connection.send_bytes(work)

    def wait(self, interruption: Interruption) -> None:
        """Until all have ended, soon after one has failed."""
        asked, deadline = False, None
        while running := [member for member in self.members if member.process.exitcode is None]:
            wait([m.process.sentinel for m in running] + [m.connection for m in running], POLL_SECONDS)
            for member in self.members:
                member.read()
            if interruption.requested and not asked:
                asked = True
                for member in running:
                    member.process.terminate()
            if deadline is None and any(member.failed for member in self.members):
                deadline = time.monotonic() + GRACE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                return

    def end(self) -> None:
        """Leave none behind."""
        for member in self.members:
            if member.process.exitcode is None:
                member.ended_by_us = True
                member.process.kill()
            member.process.join()
            member.read()

    def result(self, interrupted: bool) -> Any:
        """What rank 0 returned, or the one error that tells why there is none."""
        killed = [m for m in self.members if m.outcome is None and not m.ended_by_us]
        errors = [m.outcome[1] for m in self.members if m.outcome is not None and m.outcome[0] == "failed"]
        if killed and not interrupted:
            raise self._why(killed[0])
        if interrupted and not any(isinstance(error, KeyboardInterrupt) for error, _ in errors):
            errors = [] if self._all_done() else [(KeyboardInterrupt("stopped before the first step"), "")]
        for error, told in sorted(errors, key=lambda one: _weight(one[0])):
            raise error from _ElsewhereError(told)
        outcome = self.members[0].outcome
        if outcome is None or outcome[0] != "done":
            raise EndedElsewhereError
        return outcome[1]

    def _all_done(self) -> bool:
        return all(m.outcome is not None and m.outcome[0] == "done" for m in self.members)

    def _why(self, member: _Member[Any]) -> RuntimeError:
        code = member.process.exitcode or 0
        if code == UNGUARDED:
            return RuntimeError(GUARD)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        memory = ", as when memory runs out" if code == -signal.SIGKILL else ""
        which = f"rank {member.rank} of {self.placement.count}"
        return LostRankError(f"{which} {how}{memory}, and all others with it; {self.kept()}")


def _weight(error: BaseException) -> int:
    """Lower for what tells more of why all ended."""
    return 0 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, LostRankError) else 1


class _ElsewhereError(Exception):
    """The traceback of another process, for ``--debug``."""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _be_a_rank(connection: Connection, environment: dict[str, str], local_rank: int, rank: int, devices: int) -> None:
    """What a process does."""
    os.setpgrp()  # a Ctrl-C at the terminal is passed on once, by the process that waits
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    os.environ.update(environment, LOCAL_RANK=str(local_rank))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // devices))

    def send(kind: str, value: Any = None) -> None:
        connection.send_bytes(pickle.dumps((kind, value)))  # plainly: a tensor is not to be shared with who ends now

    if rank == 0:
        warnings.showwarning = lambda message, category, *_: send("warning", (str(message), category))
    else:
        warnings.simplefilter("ignore")
    try:
        send("done", pickle.loads(connection.recv_bytes())(local_rank))
    except SystemExit as ending:
        send("silent")
        sys.exit(ending.code)
    except BaseException as error:
        send("failed", (_picklable(error), "".join(traceback.format_exception(error))))
        sys.exit(1)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _picklable(error: BaseException) -> BaseException:
    try:
        same: BaseException = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return same
