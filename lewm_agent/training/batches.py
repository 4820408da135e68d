"""The clips of a dataset as the trainer wants them: training and held-out episodes apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets import Clips, OfflineDataset, clip_batches
from lewm_agent.models import ranks
from lewm_agent.training.loop import Batch
from lewm_agent.training.settings import TrainingConfig

MakeClips = Callable[[OfflineDataset, NDArray[np.int64]], Clips]
"""Dataset and episodes (n,) to their clips."""


@dataclass(frozen=True)
class FinishData:
    """On what is fitted to a trained model: dataset, training and held-out episodes (n,), what stood for frames.

    In a rehearsal few episodes stand for many, which are those of ``rehearsed``.
    """

    dataset: OfflineDataset
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    stand_ins: NDArray[np.float32] | None = None
    rehearsed: FinishData | None = None


class TrainingClips:
    """Splits the episodes that give clips; the order of batches is a function of seed and step.

    Episodes that are too short for a clip are left out, with a warning that counts them. Held-out ones whose actions
    are awaited are left out too, for nothing can be compared with what will be told of them.

    Args:
        dataset: frames and actions.
        make: the clips of one side of the split.
        training: batch size and share of held-out episodes.
        seed: of the split and of the order.
        workers: processes that read ahead of training.
        pinned: for a GPU.

    Raises:
        ValueError: fewer than two episodes are long enough, or the training clips do not fill a batch.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        make: MakeClips,
        training: TrainingConfig,
        seed: int,
        workers: int,
        *,
        pinned: bool = False,
    ) -> None:
        every = make(dataset, np.arange(dataset.num_episodes))
        if short := dataset.num_episodes - len(every.episodes):
            warnings.warn(
                f"{short} of the {dataset.num_episodes} episodes of {dataset.path} have fewer rows than a clip needs "
                f"({every.rows_per_clip}) and are left out",
                stacklevel=5,
            )
        self.train_episodes, held_out = dataset.split(training.held_out_fraction, seed, every.episodes)
        self.held_out_episodes = np.setdiff1d(held_out, dataset.awaited)
        self._train = make(dataset, self.train_episodes)
        self._held_out = make(dataset, self.held_out_episodes)
        self._batch_size, self._seed = training.batch_size, seed
        self._workers, self._pinned = workers, pinned
        self.steps_per_epoch = len(self._train) // training.batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"{len(self._train)} training clips do not fill one batch of {training.batch_size}; collect more "
                "episodes, or lower batch_size"
            )

    def read_from(self, dataset: OfflineDataset) -> None:
        """From now on give the actions of this one, which is the same otherwise."""
        self._train.dataset = self._held_out.dataset = dataset

    def show(self, stand_ins: NDArray[np.float32]) -> None:
        """From now on give these in place of frames; an entry for every row of the dataset."""
        self._train.stand_ins = self._held_out.stand_ins = stand_ins

    def train_batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """This rank's rows of the batches of the training episodes for these optimisation steps."""
        return clip_batches(
            self._train,
            self._batch_size,
            self._seed,
            start_step,
            stop_step,
            self._workers,
            rows=ranks.share(self._batch_size),
            pinned=self._pinned,
        )

    def held_out_batches(self, count: int) -> Iterator[Batch]:
        """At most ``count`` batches of the held-out episodes, always the same."""
        size = min(self._batch_size, len(self._held_out))
        return clip_batches(self._held_out, size, 0, 0, min(count, len(self._held_out) // size))
