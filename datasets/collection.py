"""Collecting episodes with a behavior policy, into shards that do not depend on how many processes gather them.

Shard k holds the episodes k * shard_episodes, ..., and is gathered whole by one process with one fresh environment
and policy. Every episode has seeds of its own, derived from the dataset's seed and its number. Hence one process or
many, uninterrupted or continued, give the same data.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lewm_agent.datasets import shard_jobs
from lewm_agent.datasets.gathering import Advance, MakeEnv, MakePolicy, ShardJob, check_picklable, gather
from lewm_agent.datasets.metadata import DatasetMetadata, git_commit, software_versions
from lewm_agent.datasets.offline import OfflineDataset
from lewm_agent.datasets.rollout import continuous_action_space, episode_seed, rendered_frame
from lewm_agent.datasets.shard_folder import ShardFolder
from lewm_agent.datasets.shards import Compression, frame_filter
from lewm_agent.tools.checks import json_object, whole_number
from lewm_agent.tools.cluster import Cluster
from lewm_agent.tools.progress import ProgressShown


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
    cluster: Cluster | None = None,
    attempts: Mapping[str, Any] | None = None,
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
        cluster: Has jobs gather, with ``num_envs`` processes each; the data do not depend on it either.
        attempts: Where an agent acts, all that its attempts depend on, recorded; must be JSON.

    Raises:
        ValueError: Arguments out of range, another request's dataset in the folder, or an unfit environment or policy.
        TypeError: Frames that are not uint8.
        BlockingIOError, RuntimeError: Another process is collecting into the folder; a gathering process died.
        OSError, KeyboardInterrupt: The disk is full, or it was interrupted; the message says what is kept.
    """
    num_envs = whole_number("num_envs", num_envs, 1)
    frame_filter(compression)
    check_picklable(num_envs, environment=make_env, policy=make_policy)
    if families is not None:
        families = whole_number("families", families, 1)
        policy = f"{policy}, {families} families"
    request = _requested(
        make_env, make_policy, environment_id=environment_id, environment_kwargs=environment_kwargs or {},
        policy=policy, seed=seed, episodes=episodes, shard_episodes=shard_episodes, frame_interval=frame_interval,
        attempts=None if attempts is None else json_object("attempts", attempts),
    )  # fmt: skip
    job = ShardJob(Path(path), make_env, make_policy, request, compression, families)
    if cluster is not None:
        shard_jobs.check(request, cluster)
    return _filled(ShardFolder(Path(path), request, overwrite), job, num_envs, progress, cluster)


def _filled(
    folder: ShardFolder, job: ShardJob, num_envs: int, progress: bool, cluster: Cluster | None
) -> OfflineDataset:
    """The dataset, with the shards gathered that the folder lacks."""
    with folder.filling("collection"), _progress_bar(folder, progress) as advance:
        if cluster is None:
            found = gather(job, folder.missing, num_envs, advance)
        else:
            found = shard_jobs.gather(job, folder.missing, num_envs, advance, cluster)
        with contextlib.closing(found) as records:
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


@contextlib.contextmanager
def _progress_bar(folder: ShardFolder, enabled: bool) -> Iterator[Advance]:
    """Show episodes, frames per second and remaining time."""
    total, present = folder.request.episodes, folder.complete
    with ProgressShown("collecting, episodes", total, start=present, shown=enabled and present < total) as shown:
        began, gathered, frames = time.monotonic(), present, 0

        def advance(more: int) -> None:
            nonlocal gathered, frames
            gathered, frames = gathered + 1, frames + more
            shown.update(gathered, f"{frames / max(1e-6, time.monotonic() - began):.0f} frames/s")

        yield advance
