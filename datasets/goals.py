"""Transitions with goals drawn in hindsight, as goal-conditioned policies and values learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lewm_agent.datasets.batch import GoalBatch
from lewm_agent.datasets.clips import EVERYTHING, Clips
from lewm_agent.datasets.offline import OfflineDataset


@dataclass(frozen=True)
class GoalMixture:
    """Where goals come from; the shares add up to 1.

    Attributes:
        random: any frame of the episodes.
        geometric: a later frame of the episode, k blocks on with a probability that falls by ``discount`` with every
            block, and its last one where the episode is shorter.
        uniform: a later frame of the episode, each equally likely.
        current: the frame itself.
    """

    random: float = 0.0
    geometric: float = 0.0
    uniform: float = 0.0
    current: float = 0.0

    def __post_init__(self) -> None:
        shares = astuple(self)
        if min(shares) < 0 or not np.isclose(sum(shares), 1):
            raise ValueError(f"the shares of a mixture of goals must not be negative and add up to 1, got {shares}")


class GoalClips(Clips):
    """Clips of two frames, one action block apart, each with one goal from every mixture.

    The goals are a function of the clips that are fetched together: other ones in every epoch, and the same again
    after an interruption. Distances are counted in action blocks.

    Args:
        dataset: Where the frames are.
        episodes: Episode indices (n,), also those of random goals.
        frame_skip: Environment steps in a block.
        mixtures: One for every goal of a clip.
        discount: Of the geometric distribution, per block, in (0, 1).

    Raises:
        ValueError: As for ``Clips``.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        episodes: NDArray[np.int64],
        frame_skip: int,
        mixtures: Sequence[GoalMixture],
        discount: float,
    ) -> None:
        super().__init__(dataset, episodes, 2, frame_skip)
        self._rows = dataset.frame_rows(self.episodes)
        self._mixtures = tuple(mixtures)
        self._discount = discount

    def fetch(self, indices: ArrayLike, rows: slice = EVERYTHING) -> GoalBatch[NDArray[Any]]:
        """Read clips (B,), each with one goal per mixture, or only some of them."""
        episodes, offsets = self.locate(indices)
        first = self.dataset.episode_starts[episodes] + offsets
        left = (self.dataset.episode_lengths[episodes] - 1 - offsets) // self.frame_skip
        rng = np.random.default_rng(np.atleast_1d(np.asarray(indices, np.int64)))
        goals = np.stack([self._draw(mixture, first, left, rng) for mixture in self._mixtures], axis=1)
        first, goals = first[rows, None], goals[rows]
        shown = np.concatenate([first, first + self.frame_skip, goals], axis=1)
        actions = self.dataset.actions[first + np.arange(self.frame_skip)]
        frames = self._frames(shown)
        return GoalBatch(frames[:, :2], actions[:, None], frames[:, 2:], goals == first)

    def _draw(
        self, mixture: GoalMixture, rows: NDArray[np.int64], left: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Rows (B,) of goals for frames in rows (B,), with so many blocks left (B,) until the episode ends."""
        geometric = np.minimum(rng.geometric(1 - self._discount, len(rows)), left)
        uniform = rng.integers(1, left + 1)
        choices = np.stack(
            [
                rng.choice(self._rows, len(rows)),
                rows + geometric * self.frame_skip,
                rows + uniform * self.frame_skip,
                rows,
            ]
        )
        source = rng.choice(len(choices), len(rows), p=np.array(astuple(mixture)) / sum(astuple(mixture)))
        return choices[source, np.arange(len(rows))]
