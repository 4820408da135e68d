"""The nearest failures of an evaluation: how the distance of latents from the goal went, and what that says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lewm_agent.tools import strict_json

BARS = "▁▂▃▄▅▆▇█"
NO_NEARER, AWAY = 0.9, 1.5
"""Share of the first distance above which it did not come nearer; multiple of the least at which it had gone again. A
guess, and the page says so."""
READINGS = {
    "as_near": "Its latents came as near to the goal's as on solved pairs: what is missing hardly shows in them; see "
    "with lewm probe whether they hold it.",
    "no_nearer": "It never came nearer: the search finds no way, or distance does not lead there; see the errors and "
    "distances above, and try more samples or goals on the way.",
    "away": "It came near and went away again: plan more often (planner.execute), or count the nearest block of a plan "
    "(planner.cost best).",
    "on_its_way": "It was on its way when the steps ended: give it more (--budget), or plan further ahead "
    "(planner.horizon).",
}
"""What a trace says, and what to do."""


@dataclass(frozen=True)
class Failure:
    """A pair that was not solved.

    Attributes:
        pair: its number in the evaluation.
        least_distance: from the goal, in the environment's units; None where nothing tells.
        final_distance: likewise.
        latent_distances: of the frames that the planner looked at from the goal.
        reading: a sentence of what that says, and of what to do.
    """

    pair: int
    least_distance: float | None
    final_distance: float | None
    latent_distances: list[float]
    reading: str

    @property
    def bars(self) -> str:
        """The latent distances as a row of bars."""
        most = max(self.latent_distances) or 1.0
        return "".join(BARS[round((len(BARS) - 1) * value / most)] for value in self.latent_distances)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)


def read_evaluation(path: Path, weights_sha256: str) -> dict[str, Any]:
    """The JSON of an evaluation. Raises ``ValueError`` if it is none, of other weights, or without latent distances."""
    found = strict_json.read(path)
    if not isinstance(found, dict) or not isinstance(found.get("records"), list) or "model" not in found:
        raise ValueError(f"{path} is no result of lewm eval")
    if found["model"].get("weights_sha256") != weights_sha256:
        raise ValueError(f"{path} was measured with another model than the one that is diagnosed")
    if not any(record.get("latent_distances") for record in found["records"]):
        raise ValueError(f"{path} does not say how far latents were from their goals: run lewm eval again")
    return found


def solved_level(records: Sequence[dict[str, Any]]) -> float | None:
    """Median of the least latent distance on solved pairs; None if none was solved."""
    least = [min(record["latent_distances"]) for record in records if record["success"] and record["latent_distances"]]
    return round(float(np.median(least)), 4) if least else None


def nearest_failures(records: Sequence[dict[str, Any]], count: int) -> list[Failure]:
    """So many failures, those first that came nearest to their goals: in the environment's units, else in latents."""
    level = solved_level(records)
    failed = [(n, one) for n, one in enumerate(records) if not one["success"] and one["latent_distances"]]

    def nearness(numbered: tuple[int, dict[str, Any]]) -> tuple[float, float]:
        told = numbered[1]["least_distance"]
        return (math.inf if told is None else told), min(numbered[1]["latent_distances"])

    return [
        Failure(
            pair=number,
            least_distance=record["least_distance"],
            final_distance=record["final_distance"],
            latent_distances=record["latent_distances"],
            reading=READINGS[_reading(record["latent_distances"], level)],
        )
        for number, record in sorted(failed, key=nearness)[:count]
    ]


def _reading(distances: Sequence[float], level: float | None) -> str:
    """Name of what a trace says, where solved pairs come as near as ``level``."""
    first, least, last = distances[0], min(distances), distances[-1]
    if level is not None and least <= level:
        return "as_near"
    if least > NO_NEARER * first:
        return "no_nearer"
    return "away" if last > AWAY * least else "on_its_way"
