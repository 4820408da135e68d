"""Rollouts of a result, read from the files that it names, and checked against it."""

from __future__ import annotations

import base64
import binascii
import io
import math
from dataclasses import dataclass
from typing import Any

import dacite
from PIL import Image, UnidentifiedImageError

from lewm_agent.eval.reporting.failures import solved_level
from lewm_agent.eval.reporting.runs import Record, Run
from lewm_agent.evaluation.rollouts import Rollout, Strip
from lewm_agent.tools import strict_json


@dataclass(frozen=True)
class Shown:
    """A rollout, the number of its pair and what the result says of it."""

    pair: int
    record: Record
    rollout: Rollout

    @property
    def outcome(self) -> str:
        """For people."""
        step = self.record.first_success_step
        return "not solved" if step is None else f"solved at step {step}"


def shown(run: Run) -> list[Shown]:
    """Failures, the nearest first, then solved pairs. Raises ``ValueError`` for files that are not of this result."""
    found = [
        Shown(pair, record, _read(run, pair, record))
        for pair, record in enumerate(run.result.records)
        if record.rollout is not None
    ]

    def nearness(one: Shown) -> tuple[bool, float]:
        least = one.record.least_distance
        return one.record.success, 0.0 if one.record.success else math.inf if least is None else least

    return sorted(found, key=nearness)


def for_page(run: Run, rollouts: list[Shown]) -> dict[str, Any]:
    """What the page's script shows of a run, ready for JSON."""
    records = [record for record in run.values["records"] if record.get("latent_distances")]
    return {
        "number": run.number,
        "level": solved_level(records),
        "episodes": [{"pair": one.pair, "outcome": one.outcome, **one.rollout.to_dict()} for one in rollouts],
    }


def _read(run: Run, pair: int, record: Record) -> Rollout:
    path = run.path.parent / str(record.rollout)
    if not path.is_file():
        raise ValueError(f"{run.path} names a rollout of pair {pair} that is not there: {path}")
    try:
        found = dacite.from_dict(Rollout, strict_json.read(path), dacite.Config(strict=True))
        _check(found)
    except (dacite.DaciteError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{run.path} names a rollout of pair {pair} that is none: {path} ({error})") from None
    if not _is_of(found, record, run.values["records"][pair].get("latent_distances", [])):
        raise ValueError(f"{path} is of another run than {run.path}: measure again with --video")
    return found


def _is_of(rollout: Rollout, record: Record, latent_distances: list[float]) -> bool:
    """Whether a rollout tells the same as the result."""
    told = [distance for distance in rollout.distances[1:] if distance is not None]
    return (
        rollout.first_success_step == record.first_success_step
        and (min(told) if told else None) == record.least_distance
        and (bool(rollout.fault) or [look.distance for look in rollout.looks] == latent_distances)
    )


def _check(rollout: Rollout) -> None:
    """Raise ``ValueError`` unless all parts fit together."""
    last = rollout.frames.count - 1
    planned = sum(plan.frames for plan in rollout.plans)
    if len(rollout.distances) != rollout.frames.count:
        raise ValueError(f"{rollout.frames.count} frames, but {len(rollout.distances)} distances")
    if planned != (0 if rollout.imagined is None else rollout.imagined.count):
        raise ValueError("plans and imagined frames do not fit")
    for part in (rollout.looks, rollout.plans):
        steps = [one.step for one in part]
        if steps != sorted(set(steps)) or any(not 0 <= step <= last for step in steps):
            raise ValueError("steps are not in order")
    if rollout.block < 1:
        raise ValueError("a block has no steps")
    for strip in (rollout.frames, rollout.goal, rollout.imagined):
        if strip is not None:
            _check_strip(strip)


def _check_strip(strip: Strip) -> None:
    """Raise ``ValueError`` unless the picture has room for the frames it is said to hold."""
    if min(strip.width, strip.height, strip.columns, strip.count) < 1:
        raise ValueError("a picture without frames")
    try:
        with Image.open(io.BytesIO(base64.b64decode(strip.image, validate=True)), formats=["WEBP"]) as picture:
            size = picture.size
    except (binascii.Error, UnidentifiedImageError) as error:
        raise ValueError("a picture is not WebP in base64") from error
    rows = math.ceil(strip.count / strip.columns)
    if size != (strip.columns * strip.width, rows * strip.height):
        raise ValueError("a picture has not the size of its frames")
