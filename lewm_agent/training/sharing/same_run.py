"""Whether all ranks are in one run: the same data and settings, and one folder that all of them see."""

from __future__ import annotations

import uuid
import zlib
from pathlib import Path
from typing import Any

from lewm_agent.datasets import OfflineDataset
from lewm_agent.models import ranks

MARK = ".rank-0-was-here-"
"""Begins the name of a file with which ranks see whether they have one folder."""


def fingerprint(dataset: OfflineDataset) -> dict[str, Any]:
    """What tells a dataset from others, but for its frames."""
    lengths, actions = (zlib.crc32(values.tobytes()) for values in (dataset.episode_lengths, dataset.actions))
    return {"episodes": lengths, "actions": actions}


def check_alike(facts: dict[str, Any]) -> None:
    """Raise ``ValueError``, which says what differs, unless all ranks have the same facts."""
    every = ranks.all_have((ranks.host(), facts))
    first = every[0][1]
    for number, (host, theirs) in enumerate(every):
        for name in {**first, **theirs}:
            if theirs.get(name) != first.get(name):
                ranks.raise_everywhere(
                    ValueError(
                        f"rank {number} on {host} has {name.removeprefix('agent.')} {theirs.get(name)!r}, and rank 0 "
                        f"has {first.get(name)!r}: start all ranks with the same data and settings"
                    )
                )


def check_shared(folder: Path) -> None:
    """Raise ``ValueError`` if a rank does not see what rank 0 writes into the folder, which is there for that one."""
    if ranks.count() == 1:
        return
    mark = folder / ranks.from_first(lambda: f"{MARK}{uuid.uuid4().hex}")
    ranks.from_first(mark.touch)
    try:
        seen = ranks.all_have((mark.exists(), ranks.host(), str(folder.absolute())))
    finally:
        if ranks.is_first():
            mark.unlink()
    blind = [number for number, (sees, _, _) in enumerate(seen) if not sees]
    if blind:
        (_, host, path), (_, first_host, first_path) = seen[blind[0]], seen[0]
        ranks.raise_everywhere(
            ValueError(
                f"rank {blind[0]} on {host} does not see in {path} what rank 0 on {first_host} writes into "
                f"{first_path}: give an output folder that all machines share"
            )
        )
