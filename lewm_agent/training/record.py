"""How a model's weights came about."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lewm_agent import __version__
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.mixed import parts_of, weights_of


@dataclass(frozen=True)
class TrainingRecord:
    """Data, length and seed of a training, and whether it has come to its end."""

    data: str
    """Number of episodes, and the policy and seed they come from; of several datasets one after the other."""
    steps: int
    """Optimisation steps taken."""
    finished: bool
    """Whether the last step was taken and what follows it, such as an inverse-dynamics head, is fitted."""
    batch_size: int
    seed: int
    versions: str
    precision: str = ""
    """``float32`` or ``bfloat16``, in which a run goes on as it began; empty in records of before it was kept."""
    labelled: int | None = None
    """Training episodes whose own actions it was given, where others had none; None where all have theirs."""
    labels_by: str | None = None
    """What told those of the others (:data:`lewm_agent.training.labelling.TELLERS`); None where all have theirs."""
    label_error: float | None = None
    """Mean squared error of blocks of actions told of held-out episodes' frames; normalised actions have variance 1."""
    inverse_dynamics_error: float | None = None
    """Mean squared error of the blocks that the head proposes for held-out pairs; None without a finished head."""
    before: TrainingRecord | None = None
    """Of the training whose weights this one went on from."""

    @staticmethod
    def begun(dataset: OfflineDataset, batch_size: int, seed: int) -> TrainingRecord:
        """The record before the first step."""
        data = " + ".join(map(_told, parts_of(dataset), weights_of(dataset) or [None] * len(parts_of(dataset))))
        return TrainingRecord(data, 0, False, batch_size, seed, versions_here())

    def episodes_of(self, dataset: OfflineDataset) -> int:
        """How many of a dataset's episodes, from the first, the training had; 0 if its data were others."""
        origin, ends = re.escape(_origin(dataset)), r"(?:, weight [\d.e-]+)?(?= \+ \d+ episodes, |$)"
        counts = re.findall(rf"(?:^| \+ )(\d+) episodes, {origin}{ends}", self.data)
        return max((min(int(count), dataset.num_episodes) for count in counts), default=0)

    def chain(self) -> Iterator[TrainingRecord]:
        """This training, then the one before it, and so on to the first."""
        record: TrainingRecord | None = self
        while record is not None:
            yield record
            record = record.before

    def values(self) -> dict[str, Any]:
        """Its fields, ready for JSON, without what is missing."""
        told = dataclasses.asdict(dataclasses.replace(self, before=None))
        told["before"] = self.before and self.before.values()
        return {name: value for name, value in told.items() if value is not None and value != ""}

    def told(self) -> dict[str, Any]:
        """The same for tables: of trainings before it a line each."""
        earlier = [f"{record.data}, {record.steps} steps" for record in self.chain() if record is not self]
        return self.values() | ({"before": "; ".join(earlier)} if earlier else {})


def versions_here() -> str:
    """Of what a training depends on."""
    return f"lewm-agent {__version__}, torch {torch.__version__}, Python {platform.python_version()}"


def _told(dataset: OfflineDataset, weight: float | None) -> str:
    share = "" if weight is None else f", weight {weight:g}"
    return f"{dataset.num_episodes} episodes, {_origin(dataset)}{share}"


def _origin(dataset: OfflineDataset) -> str:
    source = dataset.metadata
    return f"policy {source.policy}, seed {source.seed}" if source else dataset.path.name
