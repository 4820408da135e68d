"""Collecting episodes with a behavior policy, into shards that do not depend on how many processes gather them.

Shard k holds the episodes k * shard_episodes, ..., and is gathered whole by one process with one fresh environment
and policy. Every episode has seeds of its own, derived from the dataset's seed and its number. Hence one process or
many, uninterrupted or continued, give the same data.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import gymnasium as gym
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
from lewm_agent.datasets.shard_folder import finish, folder_for, missing_shards, shard_file, taken_up, with_shard
from lewm_agent.datasets.shards import Compression, ShardWriter, frame_filter
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
    compression: Compression = "gzip",
    overwrite: bool = False,
    progress: bool = True,
) -> OfflineDataset:
    """Collect episodes into a dataset folder, or continue there; returns the dataset.

    A folder that holds part of the same request is continued: only missing or damaged shards are gathered, and
    ``episodes`` may be larger than before. The data do not depend on ``num_envs`` or on interruptions, provided the
    environment and the policy draw only from their seeds. A failure leaves nothing half-written.

    Args:
        path: Dataset folder; created with its parents.
        make_env: Makes an environment with ``render_mode="rgb_array"``; picklable if ``num_envs`` > 1.
        make_policy: Makes the policy for an environment; picklable if ``num_envs`` > 1.
        episodes: Number of episodes.
        environment_id: Gymnasium id, recorded.
        policy: Description of the policy, recorded; part of what makes a request the same.
        seed: Fixes every episode.
        environment_kwargs: Keyword arguments of the environment, recorded; must be JSON.
        num_envs: Processes that gather at the same time, one environment each; 1 stays in this process.
        shard_episodes: Episodes per file.
        frame_interval: Record the frame of every so many steps only, for trainings whose frame skip is a multiple.
        compression: ``"gzip"``, ``"blosc"`` (extra ``fast``) or None, see :class:`ShardWriter`.
        overwrite: Delete the dataset that is there first.
        progress: Show a progress bar on the standard error stream.

    Raises:
        ValueError: Arguments out of range, another request's dataset in the folder, or an unfit environment or policy.
        TypeError: Frames that are not uint8.
        BlockingIOError: Another process is collecting into the folder.
        RuntimeError: A gathering process died.
        KeyboardInterrupt: Interrupted; whole shards are kept, and the message says how to go on.
    """
    folder = Path(path)
    _check_counts(episodes=episodes, num_envs=num_envs, shard_episodes=shard_episodes, frame_interval=frame_interval)
    episode_seed(seed, 0)
    frame_filter(compression)
    _check_picklable(num_envs, make_env=make_env, make_policy=make_policy)
    request = _request(
        make_env, environment_id, environment_kwargs or {}, policy, seed, episodes, shard_episodes, frame_interval
    )
    request = taken_up(folder, request, overwrite)
    job = _ShardJob(
        folder, make_env, make_policy, seed, episodes, shard_episodes, frame_interval, request.frame_shape, compression
    )
    with folder_for(folder, overwrite), _progress_bar(episodes, request, progress) as advance:
        return _gather_missing(job, request, num_envs, advance)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")


def _check_picklable(num_envs: int, **parts: object) -> None:
    for name, part in parts.items() if num_envs > 1 else ():
        try:
            ForkingPickler.dumps(part)
        except Exception as error:  # pickling runs code of the object's own class, which may raise anything
            raise ValueError(
                f"{name} cannot be sent to other processes ({error}); use num_envs=1, or define it at the top level "
                "of a module"
            ) from None


def _request(
    make_env: MakeEnv,
    environment_id: str,
    environment_kwargs: Mapping[str, Any],
    policy: str,
    seed: int,
    episodes: int,
    shard_episodes: int,
    frame_interval: int,
) -> DatasetMetadata:
    """Describe what is to be collected; makes the environment once, to check it before anything is written."""
    try:
        kwargs = json.loads(json.dumps(dict(environment_kwargs), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"environment_kwargs {environment_kwargs!r} cannot be recorded as JSON: {error}") from None
    env = make_env()
    try:
        _check_env(env)
        env.reset(seed=episode_seed(seed, 0))
        height, width, channels = rendered_frame(env).shape
        spaces = str(env.observation_space), str(env.action_space)
    finally:
        env.close()
    return DatasetMetadata(
        environment_id, kwargs, policy, seed, episodes, shard_episodes, (height, width, channels), *spaces,
        versions=software_versions(), git_commit=git_commit(), frame_interval=frame_interval,
    )  # fmt: skip


def _check_env(env: gym.Env[Any, Any]) -> None:
    if env.render_mode != "rgb_array":
        raise ValueError(f"the environment has render_mode {env.render_mode!r}; collecting needs 'rgb_array'")
    continuous_action_space(env)


@dataclass(frozen=True)
class _ShardJob:
    """What a process needs to know to gather any shard."""

    folder: Path
    make_env: MakeEnv
    make_policy: MakePolicy
    seed: int
    episodes: int
    shard_episodes: int
    frame_interval: int
    frame_shape: tuple[int, int, int]
    compression: Compression


Advance = Callable[[int], None]
Records = Generator[ShardRecord, None, None]


def _gather_shard(job: _ShardJob, index: int, advance: Advance) -> ShardRecord:
    """Gather one shard; ``advance`` is told the number of frames after every episode and may raise to stop."""
    first = index * job.shard_episodes
    env = job.make_env()
    try:
        policy = job.make_policy(env)
        with ShardWriter(job.folder / shard_file(index), job.compression, job.frame_interval) as writer:
            for episode in range(first, min(first + job.shard_episodes, job.episodes)):
                seeds = episode_seed(job.seed, episode), policy_seed(job.seed, episode)
                columns = rollout(env, policy, *seeds, job.frame_interval)
                if columns["pixels"].shape[1:] != job.frame_shape:
                    given = columns["pixels"].shape[1:]
                    raise ValueError(f"episode {episode} has frames {given}, the first frame was {job.frame_shape}")
                writer.append(columns)
                advance(len(columns["pixels"]))
    finally:
        env.close()
    return writer.record()


def _gather_missing(job: _ShardJob, request: DatasetMetadata, num_envs: int, advance: Advance) -> OfflineDataset:
    """Gather the shards that are missing and keep ``metadata.json`` up to date."""
    request.save(job.folder)
    missing = missing_shards(request)
    gather = _gather_here if num_envs == 1 else _gather_in_processes
    try:
        with contextlib.closing(gather(job, missing, num_envs, advance)) as records:
            for record in records:
                request = with_shard(job.folder, request, record)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_interrupted(job, request)) from None
    return finish(job.folder, request)


def _interrupted(job: _ShardJob, request: DatasetMetadata) -> str:
    done = sum(shard.episodes for shard in request.shards)
    if not done:
        return "collection interrupted before the first shard was whole; nothing is kept"
    return (
        f"collection interrupted: {done} of {job.episodes} episodes are in whole shards in {job.folder}; "
        "call collect() again with the same arguments to continue"
    )


def _gather_here(job: _ShardJob, missing: list[int], num_envs: int, advance: Advance) -> Records:
    for index in missing:
        yield _gather_shard(job, index, advance)


def _gather_in_processes(job: _ShardJob, missing: list[int], num_envs: int, advance: Advance) -> Records:
    if not missing:
        return
    context = multiprocessing.get_context("spawn")
    frames = context.SimpleQueue()
    stop = context.Event()
    workers = min(num_envs, len(missing))
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(frames, stop)) as pool:
        try:
            waiting = {pool.submit(_gather_in_worker, job, index) for index in missing}
            while waiting:
                finished, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
                while not frames.empty():
                    advance(frames.get())
                yield from _results(finished)
        except BaseException:
            stop.set()  # the workers delete what they have not finished
            pool.shutdown(cancel_futures=True)
            raise


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


class _Stopped(Exception):
    """The collection was stopped from outside; ends a worker's shard."""


_worker_channels: tuple[Any, Any] | None = None


def _start_worker(frames: Any, stop: Any) -> None:
    """Prepare a worker process: it leaves Ctrl-C to its parent and does not outlive it."""
    global _worker_channels
    _worker_channels = (frames, stop)
    end_with_parent()
    os.environ["OMP_NUM_THREADS"] = "1"  # for a policy network, one in every process: more threads would only compete
    if torch := sys.modules.get("torch"):  # a script has imported it already: the variable comes too late
        torch.set_num_threads(1)


def _gather_in_worker(job: _ShardJob, index: int) -> ShardRecord:
    if _worker_channels is None:
        raise RuntimeError("a collecting process was used without being prepared")
    frames, stop = _worker_channels

    def advance(count: int) -> None:
        if stop.is_set():
            raise _Stopped
        frames.put(count)

    return _gather_shard(job, index, advance)


@contextlib.contextmanager
def _progress_bar(episodes: int, request: DatasetMetadata, enabled: bool) -> Iterator[Advance]:
    """Show episodes, rates and remaining time; a single last line when the output is not a terminal."""
    columns = (
        TextColumn("collecting"),
        BarColumn(),
        TaskProgressColumn("{task.completed:.0f}/{task.total:.0f} episodes"),
        TextColumn("{task.fields[rates]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not enabled) as bar:
        present = sum(shard.episodes for shard in request.shards)
        task = bar.add_task("collecting", total=episodes, completed=present, rates="")
        gathered = {"episodes": 0, "frames": 0}

        def advance(frames: int) -> None:
            gathered["episodes"] += 1
            gathered["frames"] += frames
            seconds = max(bar.tasks[0].elapsed or 0.0, 1e-6)
            per_second = {name: count / seconds for name, count in gathered.items()}
            rates = f"{per_second['episodes']:.1f} episodes/s {per_second['frames']:.0f} frames/s"
            bar.update(task, advance=1, rates=rates)

        yield advance
