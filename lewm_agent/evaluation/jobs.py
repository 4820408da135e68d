"""Jobs of a cluster that play an evaluation, each a part of its trials.

A job keeps what it plays in a journal of its own, beside the output; whoever waits for the jobs takes these up into the
journal of the whole, of which the result is then made as ever. Journals that the jobs of an earlier call have left are
taken up likewise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from lewm_agent.evaluation.journal import Journal
from lewm_agent.evaluation.measuring import AnyAgent, Measuring, journal_of
from lewm_agent.evaluation.suite import Suite
from lewm_agent.tools.cluster import Cluster, call_folder
from lewm_agent.tools.progress import ProgressShown

FOLDER = ".jobs"
"""Ending of the folder beside the output where jobs keep what they play, and their logs."""
PART = "part-{}"
"""What stands for the output of a job, by the number of its first trial."""


def check(cluster: Cluster, episodes: int, output: Path | None) -> None:
    """Raise ``ValueError`` if there are more jobs than trials, or there is no output beside which they can write."""
    if output is None:
        raise ValueError("jobs write beside the output, on a disk that all machines share: give an output (--output)")
    if cluster.jobs > episodes:
        raise ValueError(f"{cluster.jobs} jobs for {episodes} pairs are too many; give {episodes} or fewer")


def play(measuring: Measuring, cluster: Cluster) -> None:
    """Have jobs play what the journal of a measurement lacks; its ``run`` then makes the result.

    Args:
        measuring: with ``load`` and ``output``; of its processes, ``workers``, every job has as many.
        cluster: where the jobs run.

    Raises:
        RuntimeError: a job failed or was lost, or measured something else; what others have played is kept.
    """
    output, load = measuring.output, measuring.load
    if output is None or load is None:
        raise ValueError("jobs need an output, and a way to load the agent")
    folder = output.with_name(output.name + FOLDER)
    with measuring.journal() as journal, call_folder(folder) as place:
        _take_up(folder, journal)
        parts = cluster.split(measuring.missing(journal))
        settings = measuring.planner_seed, measuring.num_envs, measuring.workers
        work = functools.partial(_play_part, place, measuring.suite, load, *settings)
        try:
            with ProgressShown("jobs", len(parts), shown=measuring.progress) as shown:
                for over in cluster.run(place, work, parts):
                    shown.update(over)
        finally:
            _take_up(folder, journal)
        if left := measuring.missing(journal):
            raise RuntimeError(
                f"jobs have not played {len(left)} of the pairs, but others: is the model the same on all machines?"
            )


def _play_part(
    place: Path,
    suite: Suite,
    load: Callable[[], AnyAgent],
    planner_seed: int,
    num_envs: int,
    workers: int,
    numbers: Sequence[int],
) -> None:
    """What a job does with the numbers of its trials."""
    output = place / PART.format(numbers[0])
    Measuring(suite, load(), "", planner_seed, num_envs, workers, load, output, progress=False).play(numbers)


def _take_up(folder: Path, journal: Journal) -> None:
    """Have the journal hold what jobs of this call and of earlier ones have played."""
    for part in sorted(folder.glob(f"*/{journal_of(Path(PART.format('*')))}")):
        journal.absorb(part)
        part.unlink()  # a job of an earlier call that is still at work ends with its next line
