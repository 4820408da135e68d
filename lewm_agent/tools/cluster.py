"""Jobs that do parts of a work, here or on a cluster, through submitit (extra ``cluster``).

Nothing comes back from a job but files in a folder that all machines see: so a job that is lost costs what it had not
written, and what jobs write when nobody waits any more can still be taken up.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from lewm_agent.tools import strict_json
from lewm_agent.tools.checks import require, whole_number
from lewm_agent.tools.command import console, sentence

PartT = TypeVar("PartT")
Kind = Literal["none", "slurm", "local"]
"""What may be given on a command line; ``none`` stands for no jobs."""
WORK = "work.pkl"
"""In the folder of a call: what all its jobs do. A job whose folder lacks it is not wanted, or on another disk."""
JOBS = 8
"""How many there are where nobody says it."""
DAY = 24 * 60
POLL, PATIENCE = 0.5, 10.0
"""Seconds between two looks at the jobs, and those that cancelled ones here have to end."""


@dataclass(frozen=True)
class Cluster:
    """Where jobs run, and how many.

    Attributes:
        kind: executor of submitit: ``slurm``, or ``local`` for processes of this machine.
        jobs: how many at most.
        options: for submitit, as its ``AutoExecutor.update_parameters`` takes them; a job may take a day by default.
    """

    kind: str
    jobs: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_text(cls, kind: Kind, jobs: int | None, options: str) -> Cluster | None:
        """What is given on a command line, tried; None for ``none``.

        Raises:
            ValueError: there are jobs or options without a cluster, the options are no JSON object or none that
                submitit knows, or submitit is not installed.
            RuntimeError: there is no such cluster here.
        """
        given = _json_object(options)
        count = JOBS if jobs is None else whole_number("jobs", jobs, 1)
        if kind == "none":
            require(jobs is None and not given, "there are no jobs without a cluster: give --cluster slurm or local")
            return None
        cluster = cls(kind, count, given)
        with tempfile.TemporaryDirectory() as folder:
            cluster._executor(Path(folder))
        return cluster

    def run(self, place: Path, work: Callable[[PartT], object], parts: Sequence[PartT]) -> Iterator[int]:
        """Have jobs do the work on its parts, one each.

        Args:
            place: empty folder (:func:`call_folder`) for what jobs are told and say.
            work: is given a part, and called in a process of its own with the folder of this one; picklable.
            parts: likewise.

        Yields:
            How many jobs are over, now and then, and at last when all are.

        Raises:
            RuntimeError: a job failed, and the others were cancelled, or some ended without a result.
        """
        executor = self._executor(place)
        cloudpickle = importlib.import_module("cloudpickle")  # comes with submitit
        with (place / WORK).open("wb") as file:
            cloudpickle.dump(work, file)
        with self._submitted(executor, place, parts) as jobs:
            while (over := [job.done() for job in jobs]) and not all(over):
                _raise_failed(place)
                yield sum(over)
                time.sleep(POLL)
            lost = [job for job in jobs if job.exception() is not None]
            yield len(jobs)
            _raise_failed(place)
            if lost:
                raise RuntimeError(_lost(place, lost, len(jobs)))

    def split(self, items: Sequence[PartT]) -> list[Sequence[PartT]]:
        """The items in turn to as many parts as there are jobs; none is empty."""
        return [items[first :: self.jobs] for first in range(min(self.jobs, len(items)))]

    @contextlib.contextmanager
    def _submitted(self, executor: Any, place: Path, parts: Sequence[Any]) -> Iterator[list[Any]]:
        """Jobs for the parts, which are cancelled if the block fails."""
        jobs: list[Any] = []
        threads = max(1, (os.cpu_count() or 1) // len(parts)) if self.kind == "local" and parts else None
        told = [(place, number, part, threads) for number, part in enumerate(parts)]
        try:
            if self.kind == "local":  # one by one, so that each is known when Ctrl-C comes
                with _ctrl_c_heard(), _errors_into(place / "local.log"):
                    for one in told:
                        jobs.append(executor.submit(_do, *one))
            elif told:
                jobs.extend(executor.map_array(_do, *zip(*told, strict=True)))
            yield jobs
        except BaseException:
            _cancel(jobs, wait=self.kind == "local")
            raise

    def _executor(self, folder: Path) -> Any:
        try:
            import submitit
        except ImportError:
            raise ValueError("jobs on a cluster need submitit: pip install 'lewm-agent[cluster]'") from None
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.kind)
            executor.update_parameters(**{"name": "lewm", "timeout_min": DAY, **self.options})
        except (NameError, AssertionError, TypeError) as error:  # submitit's ways of refusing options
            raise ValueError(f"submitit refuses the options of the cluster: {' '.join(str(error).split())}") from None
        return executor


@contextlib.contextmanager
def call_folder(jobs: Path) -> Iterator[Path]:
    """A new folder inside ``jobs``, which goes, with all that earlier calls left there, when the block ends well.

    What jobs of earlier calls are still doing then comes to nothing: see :func:`still_wanted`. When the block fails,
    the folder stays, for the logs in it, if there are any.
    """
    jobs.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=jobs)).absolute()
    try:
        yield place
    except BaseException:
        if not any(place.glob("*_log.*")):
            shutil.rmtree(place)
            with contextlib.suppress(OSError):  # not empty
                jobs.rmdir()
        raise
    shutil.rmtree(jobs, ignore_errors=True)


def still_wanted(place: Path) -> None:
    """End a job whose call's folder is gone, as its work has been begun anew. Raises ``FileNotFoundError``."""
    if not (place / WORK).is_file():
        raise FileNotFoundError(
            f"{socket.gethostname()} does not see {place}: nobody waits for this job any more, or the folder is not on "
            "a disk that all machines share"
        )


def _do(place: Path, number: int, part: Any, threads: int | None) -> None:
    """What a job does; an error is told in one sentence in a file, for :func:`_raise_failed`."""
    try:
        still_wanted(place)
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # before the work brings torch
        with (place / WORK).open("rb") as file:
            work = pickle.load(file)
        work(part)
    except Exception as error:
        with contextlib.suppress(OSError):
            _told(place, number).write_text(sentence(error), encoding="utf-8")
        raise


def _told(place: Path, number: int) -> Path:
    return place / f"{number}.error"


def _raise_failed(place: Path) -> None:
    """Raise what a job has told of its failure; others would fail alike, so nobody need wait for them."""
    for told in sorted(place.glob("*.error")):
        if said := told.read_text(encoding="utf-8"):
            raise RuntimeError(f"{said} (in job {told.stem}; logs are in {place})")


def _lost(place: Path, lost: Sequence[Any], count: int) -> str:
    states = ", ".join(sorted({str(job.state).lower() for job in lost}))
    return (
        f"{len(lost)} of {count} jobs ended without a result ({states}): they were killed, or ran out of time "
        f"(timeout_min in the options of the cluster), or their machines do not see {place}, where logs are; "
        "the same command goes on with what is missing"
    )


def _cancel(jobs: Sequence[Any], *, wait: bool) -> None:
    """Cancel jobs; those of this machine are waited for, so that nothing is written behind one's back."""
    running = [job for job in jobs if not job.done()]
    for job in running:
        job.cancel(check=False)
    if running:
        console(stderr=True).print(f"{len(running)} jobs cancelled")
    until = time.monotonic() + PATIENCE
    while wait and time.monotonic() < until and not all(job.done() for job in running):
        time.sleep(0.05)


@contextlib.contextmanager
def _ctrl_c_heard() -> Iterator[None]:
    """Start processes that can be cancelled: background shells ignore Ctrl-C, and what they start inherits that."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _errors_into(log: Path) -> Iterator[None]:
    """Start processes whose errors go into a file: those that watch over local jobs end with a traceback."""
    kept = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = strict_json.parse(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f'--cluster-options must be a JSON object such as {{"timeout_min": 240}}, got {text!r}')
    return value
