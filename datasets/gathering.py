"""Gathering shards: in this process or in several.

Shard k holds the episodes k * shard_episodes, ..., and is gathered whole by one process with one fresh environment
and policy. Every episode has seeds of its own, derived from the dataset's seed and its number.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lewm_agent.datasets.metadata import DatasetMetadata, ShardRecord
from lewm_agent.datasets.rollout import BehaviorPolicy, episode_seed, policy_seed, rollout
from lewm_agent.datasets.shard_folder import next_shard
from lewm_agent.datasets.shards import FAMILY, Compression, ShardWriter
from lewm_agent.tools.workers import end_with_parent

MakeEnv = Callable[[], "gym.Env[Any, Any]"]
MakePolicy = Callable[["gym.Env[Any, Any]"], BehaviorPolicy]


@dataclass(frozen=True)
class ShardJob:
    """What a process needs to know to gather any shard."""

    folder: Path
    make_env: MakeEnv
    make_policy: MakePolicy
    request: DatasetMetadata
    compression: Compression
    families: int | None


Advance = Callable[[int], None]
Records = Generator[ShardRecord, None, None]


def _gather_shard(job: ShardJob, index: int, advance: Advance) -> ShardRecord:
    """Gather one shard; ``advance`` is told the number of frames after every episode and may raise to stop."""
    asked = job.request
    first = index * asked.shard_episodes
    env = job.make_env()
    try:
        policy = job.make_policy(env)
        with ShardWriter(next_shard(job.folder, index), job.compression, asked.frame_interval) as writer:
            for episode in range(first, min(first + asked.shard_episodes, asked.episodes)):
                family = episode % (job.families or asked.episodes)
                seeds = episode_seed(asked.seed, family), policy_seed(asked.seed, episode)
                columns = rollout(env, policy, *seeds, asked.frame_interval)
                if job.families is not None:
                    columns[FAMILY] = np.full(len(columns["action"]), family)
                if columns["pixels"].shape[1:] != asked.frame_shape:
                    given = columns["pixels"].shape[1:]
                    raise ValueError(f"episode {episode} has frames {given}, the first frame was {asked.frame_shape}")
                writer.append(columns)
                advance(len(columns["pixels"]))
    finally:
        env.close()
    return writer.record()


def gather(job: ShardJob, missing: Sequence[int], num_envs: int, advance: Advance) -> Records:
    """Gather shards of these numbers into the job's folder, in this process (1) or by several at the same time."""
    if num_envs > 1 and missing:
        yield from _gather_in_processes(job, missing, num_envs, advance)
        return
    for index in missing:
        yield _gather_shard(job, index, advance)


def _gather_in_processes(job: ShardJob, missing: Sequence[int], num_envs: int, advance: Advance) -> Records:
    context = multiprocessing.get_context("spawn")
    with _shared_memory_needed():
        frames, (lifeline, end) = context.SimpleQueue(), context.Pipe(duplex=False)
        workers = min(num_envs, len(missing))
        pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(frames, lifeline))
    with pool:
        try:
            with _script_left_out(job):
                waiting = {pool.submit(_gather_in_worker, job, index) for index in missing}
            while waiting:
                finished, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
                while not frames.empty():
                    advance(frames.get())
                yield from _results(finished)
        except BaseException:
            end.close()  # the workers end at once, were they in the middle of an episode that never does
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _shared_memory_needed() -> Iterator[None]:
    """Say what processes need in order to talk to each other, where the system refuses it."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"several processes need shared memory, which this system refuses ({error.strerror}): let /dev/shm be "
            "writable, or use num_envs=1"
        ) from None


@contextlib.contextmanager
def _script_left_out(job: ShardJob) -> Iterator[None]:
    """Start processes that do not run the main script again, if the job needs nothing of it.

    They import it only to unpickle what it defines. Left out, it may lack ``if __name__ == "__main__":``, and what it
    imports (torch, in ``lewm``) takes no memory in every process.
    """
    script = sys.modules["__main__"]
    if b"__main__" in bytes(ForkingPickler.dumps(job)):
        yield
        return
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _results(finished: set[Future[ShardRecord]]) -> Iterator[ShardRecord]:
    """Yield what went well before raising what did not."""
    failed = [future for future in finished if future.exception() is not None]
    yield from (future.result() for future in finished if future not in failed)
    for future in failed:
        try:
            future.result()
        except BrokenProcessPool:
            raise RuntimeError(
                "a collecting process died; it may have run out of memory (use fewer num_envs), or could not import "
                "the environment or the policy (a script needs `if __name__ == '__main__':`); whole shards are kept"
            ) from None


_worker_frames: Any = None
"""In a worker process, where it tells of the frames of each episode."""


def _start_worker(frames: Any, lifeline: Connection) -> None:
    """Prepare a worker process: it leaves Ctrl-C to its parent and ends when that dies or lets go of the lifeline."""
    global _worker_frames
    _worker_frames = frames
    end_with_parent(lifeline)
    os.environ["OMP_NUM_THREADS"] = "1"  # for a policy network, one in every process: more threads would only compete
    if torch := sys.modules.get("torch"):  # a script has imported it already: the variable comes too late
        torch.set_num_threads(1)


def _gather_in_worker(job: ShardJob, index: int) -> ShardRecord:
    if _worker_frames is None:
        raise RuntimeError("a collecting process was used without being prepared")
    return _gather_shard(job, index, _worker_frames.put)


_SENT = {
    "environment": "give a registered one by its name (or a function at the top level of a module that makes it)",
    "policy": "define it at the top level of a module",
}
"""What can be sent."""


def check_picklable(num_envs: int, **parts: object) -> None:
    """Raise ``ValueError`` for a part that several processes need and that cannot be sent to them."""
    for name, part in parts.items() if num_envs > 1 else ():
        try:
            ForkingPickler.dumps(part)
        except Exception as error:  # pickling runs code of the object's own class, which may raise anything
            raise ValueError(
                f"the {name} cannot be sent to other processes ({error}); use num_envs=1, or {_SENT[name]}"
            ) from None
