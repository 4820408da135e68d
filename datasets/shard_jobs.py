"""Gathering shards by jobs of a cluster, into a folder that all its machines see.

A job writes into a folder of its call, inside the dataset's, and beside every whole shard a record; whoever waits for
the jobs moves both into the dataset. What the jobs of an earlier call have left whole is taken up first; those which
are still at work end by themselves, as their folder goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lewm_agent.datasets import gathering
from lewm_agent.datasets.gathering import Advance, Records, ShardJob
from lewm_agent.datasets.metadata import DatasetMetadata, ShardRecord
from lewm_agent.datasets.shard_folder import JOBS, check_same_request, expected_shards
from lewm_agent.tools import strict_json
from lewm_agent.tools.cluster import Cluster, call_folder, still_wanted
from lewm_agent.tools.replacing import write_json

RECORD = "shard-*.json"


def check(request: DatasetMetadata, cluster: Cluster) -> None:
    """Raise ``ValueError`` if there are more jobs than shards."""
    shards = len(expected_shards(request.episodes, request.shard_episodes))
    if cluster.jobs > shards:
        raise ValueError(
            f"{request.episodes} episodes are {shards} files of up to {request.shard_episodes}, each written by one "
            f"job: {cluster.jobs} jobs are too many; give {shards} or fewer"
        )


def gather(job: ShardJob, missing: Sequence[int], num_envs: int, advance: Advance, cluster: Cluster) -> Records:
    """Gather shards of these numbers into the job's folder, by jobs with some processes each."""
    episodes = list(expected_shards(job.request.episodes, job.request.shard_episodes).values())
    wanted = {index: episodes[index] for index in missing}
    with call_folder(job.folder / JOBS) as place:

        def arrived(at: Path) -> Iterator[ShardRecord]:
            for record in _arrived(at, job.folder, wanted):
                del wanted[_number(record)]
                for _ in range(record.episodes):
                    advance(record.frames // record.episodes)
                yield record

        for earlier in _of_same_request(job):
            yield from arrived(earlier)
        job.request.save(place)
        work = _Gathering(dataclasses.replace(job, folder=place), num_envs)
        try:
            for _ in cluster.run(place, work, cluster.split(sorted(wanted))):
                yield from arrived(place)
        except (Exception, KeyboardInterrupt):
            yield from arrived(place)
            raise


@dataclass(frozen=True)
class _Gathering:
    """What every job does with the numbers of its shards."""

    job: ShardJob
    num_envs: int

    def __call__(self, shards: Sequence[int]) -> None:
        place = self.job.folder
        with contextlib.closing(
            gathering.gather(self.job, shards, self.num_envs, lambda frames: still_wanted(place))
        ) as records:
            for record in records:
                write_json((place / record.file).with_suffix("").with_suffix(".json"), dataclasses.asdict(record))


def _of_same_request(job: ShardJob) -> Iterator[Path]:
    """Folders of earlier calls that asked for the same."""
    for place in sorted((job.folder / JOBS).iterdir()):
        with contextlib.suppress(FileNotFoundError, ValueError):
            check_same_request(place, job.request, DatasetMetadata.load(place))
            yield place


def _arrived(place: Path, folder: Path, wanted: Mapping[int, int]) -> Iterator[ShardRecord]:
    """Whole shards that jobs have written, each moved to where the dataset's folder expects it.

    Args:
        place: where they are written.
        folder: of the dataset.
        wanted: how many episodes each missing shard is to have, by its number.
    """
    for told in sorted(place.glob(RECORD)):
        record = ShardRecord(**strict_json.read(told))
        if wanted.get(_number(record)) == record.episodes:
            os.replace(place / record.file, folder / record.file)
            yield record
        told.unlink()


def _number(record: ShardRecord) -> int:
    return int(record.file.split(".")[0].rpartition("-")[2])
