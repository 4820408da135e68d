"""Collecting episodes with a behavior policy, into shards that do not depend on how many processes gather them.

Shard k holds the episodes k * shard_episodes, ..., and is gathered whole by one process with one fresh environment
and policy. Every episode has seeds of its own, derived from the dataset's seed and its number. Hence one process or
many, uninterrupted or continued, give the same data.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import types
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lewm_agent.datasets.metadata import DatasetMetadata, ShardRecord, git_commit, software_versions
from lewm_agent.datasets.offline import OfflineDataset
from lewm_agent.datasets.rollout import (
    BehaviorPolicy,
    continuous_action_space,
    episode_seed,
    policy_seed,
    rendered_frame,
    rollout,
)
from lewm_agent.datasets.shard_folder import ShardFolder, next_shard
from lewm_agent.datasets.shards import FAMILY, Compression, ShardWriter, frame_filter
from lewm_agent.tools.checks import json_object, whole_number
from lewm_agent.tools.workers import end_with_parent

MakeEnv = Callable[[], "gym.Env[Any, Any]"]
MakePolicy = Callable[["gym.Env[Any, Any]"], BehaviorPolicy]


def collect(
    path: str | Path,
    make_env: MakeEnv,
    make_policy: MakePolicy,
    episodes: int,
    *,
    environment_id: str,
    policy: str,
    seed: int,
    environment_kwargs: Mapping[str, Any] | None = None,
    num_envs: int = 1,
    shard_episodes: int = 100,
    frame_interval: int = 1,
    families: int | None = None,
    compression: Compression = "gzip",
    overwrite: bool = False,
    progress: bool = True,
) -> OfflineDataset:
    """Collect episodes into a dataset folder, or continue there; returns the dataset.

    A folder that holds part of the same request is continued: missing or damaged shards are gathered, and ``episodes``
    may be larger than before. The data do not depend on ``num_envs`` or on interruptions if environment and policy draw
    only from their seeds. A failure leaves nothing half-written, and what was whole before stays so.

    Args:
        path: Dataset folder; created with its parents.
        make_env: Makes an environment with ``render_mode="rgb_array"``; like the next, picklable if ``num_envs`` > 1.
        make_policy: Makes the policy for an environment.
        episodes: Number of episodes.
        environment_id: Gymnasium id, recorded.
        policy: Description of the policy, recorded; part of what makes a request the same.
        seed: Fixes every episode.
        environment_kwargs: Keyword arguments of the environment, recorded; must be JSON.
        num_envs: Processes that gather at the same time, one environment each; 1 stays in this process.
        shard_episodes: Episodes per file.
        frame_interval: Record the frame of every so many steps only, for trainings whose frame skip is a multiple.
        families: Let episode k begin like k modulo this, which column ``family`` tells; no split divides a family.
        compression: ``"gzip"``, ``"blosc"`` (extra ``fast``) or None, see :class:`ShardWriter`.
        overwrite: Replace the dataset that is there; it stays until its successor is whole.
        progress: Show a progress bar on the standard error stream.

    Raises:
        ValueError: Arguments out of range, another request's dataset in the folder, or an unfit environment or policy.
        TypeError: Frames that are not uint8.
        BlockingIOError, RuntimeError: Another process is collecting into the folder; a gathering process died.
        OSError, KeyboardInterrupt: The disk is full, or it was interrupted; the message says what is kept.
    """
    num_envs = whole_number("num_envs", num_envs, 1)
    frame_filter(compression)
    _check_picklable(num_envs, environment=make_env, policy=make_policy)
    if families is not None:
        families = whole_number("families", families, 1)
        policy = f"{policy}, {families} families"
    request = _requested(
        make_env, make_policy, environment_id=environment_id, environment_kwargs=environment_kwargs or {},
        policy=policy, seed=seed, episodes=episodes, shard_episodes=shard_episodes, frame_interval=frame_interval,
    )  # fmt: skip
    job = _ShardJob(Path(path), make_env, make_policy, request, compression, families)
    return _filled(ShardFolder(Path(path), request, overwrite), job, num_envs, progress)


def _filled(folder: ShardFolder, job: _ShardJob, num_envs: int, progress: bool) -> OfflineDataset:
    """The dataset, with the shards gathered that the folder lacks."""
    gather = _gather_here if num_envs == 1 else _gather_in_processes
    with folder.filling("collection"), _progress_bar(folder, progress) as advance:
        with contextlib.closing(gather(job, folder.missing, num_envs, advance)) as records:
            for record in records:
                folder.add(record)
        return folder.finish()


def _requested(make_env: MakeEnv, make_policy: MakePolicy, **asked: Any) -> DatasetMetadata:
    """What is asked for, checked, with what an environment made for it says of itself."""
    for name, least in (("seed", 0), ("episodes", 1), ("shard_episodes", 1), ("frame_interval", 1)):
        asked[name] = whole_number(name, asked[name], least)
    asked["environment_kwargs"] = json_object("environment_kwargs", asked["environment_kwargs"])
    frame_shape, observation_space, action_space = _try_out(make_env, make_policy, episode_seed(asked["seed"], 0))
    return DatasetMetadata(
        frame_shape=frame_shape,
        observation_space=observation_space,
        action_space=action_space,
        versions=software_versions(),
        git_commit=git_commit(),
        **asked,
    )


_SENT = {
    "environment": "give a registered one by its name (or a function at the top level of a module that makes it)",
    "policy": "define it at the top level of a module",
}
"""What can be sent."""


def _check_picklable(num_envs: int, **parts: object) -> None:
    for name, part in parts.items() if num_envs > 1 else ():
        try:
            ForkingPickler.dumps(part)
        except Exception as error:  # pickling runs code of the object's own class, which may raise anything
            raise ValueError(
                f"the {name} cannot be sent to other processes ({error}); use num_envs=1, or {_SENT[name]}"
            ) from None


def _try_out(make_env: MakeEnv, make_policy: MakePolicy, seed: int) -> tuple[tuple[int, int, int], str, str]:
    """Make the environment and the policy once, so that what is unfit is told before anything is written.

    Returns the shape of the frames and the text forms of the observation and the action space.
    """
    env = make_env()
    try:
        if env.render_mode != "rgb_array":
            raise ValueError(f"the environment has render_mode {env.render_mode!r}; collecting needs 'rgb_array'")
        continuous_action_space(env)
        make_policy(env)
        env.reset(seed=seed)
        height, width, channels = rendered_frame(env).shape
        return (height, width, channels), str(env.observation_space), str(env.action_space)
    finally:
        env.close()


@dataclass(frozen=True)
class _ShardJob:
    """What a process needs to know to gather any shard."""

    folder: Path
    make_env: MakeEnv
    make_policy: MakePolicy
    request: DatasetMetadata
    compression: Compression
    families: int | None


Advance = Callable[[int], None]
Records = Generator[ShardRecord, None, None]


def _gather_shard(job: _ShardJob, index: int, advance: Advance) -> ShardRecord:
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


def _gather_here(job: _ShardJob, missing: list[int], num_envs: int, advance: Advance) -> Records:
    for index in missing:
        yield _gather_shard(job, index, advance)


def _gather_in_processes(job: _ShardJob, missing: list[int], num_envs: int, advance: Advance) -> Records:
    if not missing:
        return
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
def _script_left_out(job: _ShardJob) -> Iterator[None]:
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


def _gather_in_worker(job: _ShardJob, index: int) -> ShardRecord:
    if _worker_frames is None:
        raise RuntimeError("a collecting process was used without being prepared")
    return _gather_shard(job, index, _worker_frames.put)


@contextlib.contextmanager
def _progress_bar(folder: ShardFolder, enabled: bool) -> Iterator[Advance]:
    """Show episodes, rates and remaining time; a single last line when the output is not a terminal."""
    columns = (
        TextColumn("collecting"),
        BarColumn(),
        TaskProgressColumn("{task.completed:.0f}/{task.total:.0f} episodes"),
        TextColumn("{task.fields[rates]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not enabled) as bar:
        total, present = folder.request.episodes, folder.complete
        task = bar.add_task("collecting", total=total, completed=present, rates="")
        gathered = {"episodes": 0, "frames": 0}

        def advance(frames: int) -> None:
            gathered["episodes"] += 1
            gathered["frames"] += frames
            seconds = max(bar.tasks[0].elapsed or 0.0, 1e-6)
            per_second = {name: count / seconds for name, count in gathered.items()}
            rates = f"{per_second['episodes']:.1f} episodes/s {per_second['frames']:.0f} frames/s"
            bar.update(task, advance=1, rates=rates)

        yield advance
