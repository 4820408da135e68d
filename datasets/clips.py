"""Clips: short frame sequences with the actions between them, and batches of clips in a reproducible order.

torch is imported when batches are asked for: processes that only collect data come through this module too, and
would start seconds later and some 200 MB heavier.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lewm_agent.datasets.batch import ClipBatch, GoalBatch
from lewm_agent.datasets.mixed import part_of, parts_of, weights_of
from lewm_agent.datasets.offline import OfflineDataset

AnyBatch = ClipBatch[Any] | GoalBatch[Any]
GRACE_SECONDS = 20
"""How long a reading process lives on after SIGTERM."""
EVERYTHING = slice(None)
GOLDEN_RATIO = (1 + 5**0.5) / 2
"""The fractional parts of its multiples spread evenly over [0, 1)."""


class Clips:
    """All clips of some episodes.

    A clip has T frames, ``frame_skip`` environment steps apart, and the actions taken between them; it spans
    (T - 1) * frame_skip + 1 rows of one episode. Every start row with a frame that leaves enough rows gives a clip;
    shorter episodes give none. Clips are numbered by episode, then by start row. A clip may come with a goal, a later
    frame of the episode: g action blocks after its last, where g is always the same for a clip and spread evenly over
    0 to ``goal_blocks``, or as far as the episode goes.

    Args:
        dataset: Where the frames are.
        episodes: Episode indices (n,); None for all.
        num_frames: T, at least 1.
        frame_skip: Environment steps between two frames, at least 1; a multiple of the dataset's ``frame_interval``.
        goal_blocks: Furthest goal, in blocks after the clip; None for clips without a goal.

    Raises:
        ValueError: No episode is long enough, an action inside an episode is not finite, or the clips would need frames
            that were not recorded.

    Attributes:
        episodes: Those of the episodes that are long enough for a clip, (m,) int64.
        stand_ins: What clips show in place of frames, an entry for every row of the dataset; None for frames.
    """

    stand_ins: NDArray[np.float32] | None = None

    def __init__(
        self,
        dataset: OfflineDataset,
        episodes: ArrayLike | None,
        num_frames: int,
        frame_skip: int,
        goal_blocks: int | None = None,
    ) -> None:
        if num_frames < 1 or frame_skip < 1:
            raise ValueError(f"num_frames ({num_frames}) and frame_skip ({frame_skip}) must be at least 1")
        if frame_skip % dataset.frame_interval:
            raise ValueError(
                f"frame_skip ({frame_skip}) must be a multiple of {dataset.frame_interval}, the frame interval of "
                f"{dataset.path}: only every so many rows have a frame"
            )
        self.dataset, self.num_frames, self.frame_skip = dataset, num_frames, frame_skip
        self.goal_blocks = goal_blocks
        self.rows_per_clip = (num_frames - 1) * frame_skip + 1
        chosen = dataset.episode_array(episodes)
        self.episodes = chosen[dataset.episode_lengths[chosen] >= self.rows_per_clip]
        if not len(self.episodes):
            raise ValueError(self._too_short(chosen))
        counts = -(-(dataset.episode_lengths[self.episodes] - self.rows_per_clip + 1) // dataset.frame_interval)
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts
        self._check_actions()

    def __len__(self) -> int:
        """Number of clips."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> AnyBatch:
        """Read one clip: what :meth:`fetch` returns, without the first axis."""
        return _each(self.fetch([index]), lambda values: values[0])

    def __getitems__(self, indices: Sequence[int]) -> AnyBatch:
        """Read a batch at once; torch's DataLoader calls this instead of ``__getitem__``."""
        return self.fetch(indices)

    def by_part(self) -> list[NDArray[np.int64]]:
        """Which clips are of each part of the dataset, a mixed one or not. Raises ``ValueError`` if one has none."""
        of = np.repeat(part_of(self.dataset, self.episodes), self._ends - self._starts)
        parts = parts_of(self.dataset)
        clips = [np.flatnonzero(of == number) for number in range(len(parts))]
        for part, own in zip(parts, clips, strict=True):
            if not own.size:
                raise ValueError(f"no clip comes from {part.path}, of which there is to be a share")
        return clips

    def locate(self, indices: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Episode index and start row within the episode of clips (B,).

        Raises:
            IndexError: No such clip.
        """
        clips = np.asarray(indices, dtype=np.int64).reshape(-1)
        outside = clips[(clips < 0) | (clips >= len(self))]
        if outside.size:
            raise IndexError(f"clip {outside[0]} does not exist; there are clips 0 to {len(self) - 1}")
        position = np.searchsorted(self._ends, clips, side="right")
        return self.episodes[position], (clips - self._starts[position]) * self.dataset.frame_interval

    def fetch(self, indices: ArrayLike, rows: slice = EVERYTHING) -> AnyBatch:
        """Read clips (B,), only the frames they show, with their goals if there are any.

        Args:
            indices: which clips.
            rows: which of these alone are read, by one of several that share a batch.
        """
        indices = np.asarray(indices, np.int64).reshape(-1)[rows]
        episodes, offsets = self.locate(indices)
        first = self.dataset.episode_starts[episodes] + offsets
        action_rows = first[:, None] + np.arange(self.rows_per_clip - 1)
        shape = (len(first), self.num_frames - 1, self.frame_skip, self.dataset.action_dim)
        actions = self.dataset.actions[action_rows].reshape(shape)
        frame_rows = first[:, None] + np.arange(self.num_frames) * self.frame_skip
        if self.goal_blocks is None:
            return ClipBatch(self._frames(frame_rows), actions)
        blocks_after = (self.dataset.episode_lengths[episodes] - offsets - self.rows_per_clip) // self.frame_skip
        choices = np.minimum(self.goal_blocks, blocks_after) + 1
        blocks = (indices * GOLDEN_RATIO % 1 * choices).astype(np.int64)
        goal_rows = frame_rows[:, -1:] + blocks[:, None] * self.frame_skip
        frames = self._frames(np.concatenate([frame_rows, goal_rows], axis=1))
        return ClipBatch(frames[:, :-1], actions, frames[:, -1], blocks)

    def _frames(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        if self.stand_ins is not None:
            return self.stand_ins[rows]
        frames = self.dataset.read_frames(rows.reshape(-1))
        return frames.reshape(*rows.shape, *frames.shape[1:])

    def _too_short(self, chosen: NDArray[np.int64]) -> str:
        lengths, everything = self.dataset.episode_lengths[chosen], self.dataset.num_episodes
        if not lengths.size:
            return f"no episodes were chosen from the {everything} of {self.dataset.path}"
        of = "" if len(chosen) == everything else f" of {len(chosen)} chosen ones"
        return (
            f"{self.dataset.path}: the longest episode{of} has {lengths.max()} rows, clips of {self.num_frames} frames "
            f"with frame_skip {self.frame_skip} need {self.rows_per_clip}"
        )

    def _check_actions(self) -> None:
        """Every action but an episode's last must be finite: training would spread a NaN silently."""
        bad: NDArray[np.bool_] = np.any(~np.isfinite(self.dataset.actions), axis=1)
        bad[self.dataset.episode_starts + self.dataset.episode_lengths - 1] = False
        before = np.concatenate([[0], np.cumsum(bad)])
        starts = self.dataset.episode_starts[self.episodes]
        inside = before[starts + self.dataset.episode_lengths[self.episodes]] - before[starts]
        inside[np.isin(self.episodes, self.dataset.awaited)] = 0
        if inside.any():
            position = int(np.flatnonzero(inside)[0])
            row, episode = int(np.flatnonzero(bad[starts[position] :])[0]), self.episodes[position]
            if episode in self.dataset.without_actions:
                raise ValueError(
                    f"episode {episode} of {self.dataset.path} has no actions: only training can "
                    "do with frames alone, beside episodes that have some"
                )
            raise ValueError(
                f"the action in row {row} of episode {episode} of {self.dataset.path} is not finite; "
                "only an episode's last row, which has no action, may be NaN"
            )


def batches_per_epoch(clips: Clips, batch_size: int) -> int:
    """Number of whole batches in an epoch.

    Raises:
        ValueError: Fewer clips than one batch.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(clips) < batch_size:
        raise ValueError(f"batch_size ({batch_size}) must be at most the number of clips ({len(clips)})")
    return len(clips) // batch_size


class BatchOrder:
    """Clip indices of the batch at each optimizer step in [start_step, stop_step).

    An epoch has as many clips as there are, and the incomplete last batch is dropped. Epoch e visits them in the order
    ``default_rng([seed, e]).permutation``: every clip once, or of a mixed dataset with weights, of each part its share
    of the epoch, where one epoch goes on among the clips of a part where the one before left off. So a step's batch
    depends on the seed and the step only, not on where the run was resumed.
    """

    def __init__(self, clips: Clips, batch_size: int, seed: int, start_step: int, stop_step: int) -> None:
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if not 0 <= start_step <= stop_step:
            raise ValueError(f"steps must satisfy 0 <= start_step <= stop_step, got {start_step} and {stop_step}")
        self.per_epoch = batches_per_epoch(clips, batch_size)
        self.num_clips, self.batch_size, self.seed = len(clips), batch_size, seed
        self.start_step, self.stop_step = start_step, stop_step
        weights = weights_of(clips.dataset)
        self._parts = [] if weights is None else clips.by_part()
        self._shares = [] if weights is None else _shares(weights, len(clips))

    def __len__(self) -> int:
        """Number of batches."""
        return self.stop_step - self.start_step

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the clip indices of one batch after the other."""
        epoch = -1
        for step in range(self.start_step, self.stop_step):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                order = self._visited(epoch)
            first = (step % self.per_epoch) * self.batch_size
            yield order[first : first + self.batch_size].tolist()

    def _visited(self, epoch: int) -> NDArray[np.int64]:
        """The clips of an epoch, in order."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_clips)
        if not self._parts:
            return order
        chosen = [self._of_part(number, epoch) for number in range(len(self._parts))]
        return np.concatenate(chosen)[order]

    def _of_part(self, number: int, epoch: int) -> NDArray[np.int64]:
        """What an epoch sees of a part, whose clips are seen in one random order after the other."""
        clips, share = self._parts[number], self._shares[number]
        first, last = epoch * share, (epoch + 1) * share
        orders = [
            np.random.default_rng([self.seed, around, number + 1]).permutation(clips)
            for around in range(first // len(clips), -(-last // len(clips)))
        ]
        start = first % len(clips)
        return np.concatenate([*orders, clips[:0]])[start : start + share]


def _shares(weights: Sequence[float], count: int) -> list[int]:
    """How many of ``count`` each weight stands for; what rounding leaves goes to the largest remainders."""
    exact = np.array(weights) / sum(weights) * count
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: count - shares.sum()]] += 1
    return [int(share) for share in shares]


class _Share:
    """Some rows of every batch of clips."""

    def __init__(self, clips: Clips, rows: slice) -> None:
        self._clips, self._rows = clips, rows

    def __getitems__(self, indices: Sequence[int]) -> AnyBatch:
        """Those of the batch with these indices."""
        return self._clips.fetch(indices, self._rows)


def clip_batches(
    clips: Clips,
    batch_size: int,
    seed: int,
    start_step: int,
    stop_step: int,
    workers: int = 0,
    *,
    rows: slice = EVERYTHING,
    pinned: bool = False,
) -> Iterator[AnyBatch]:
    """Iterate over the batches of optimizer steps start_step, ..., stop_step - 1.

    The batch of a step is the same wherever the iteration starts, for any number of workers, and for any number of
    processes that share it. The global random generators are left alone.

    Args:
        clips: What to draw from.
        batch_size: Clips per batch.
        seed: Fixes the order, see :class:`BatchOrder`.
        start_step: First step, the number of steps already done.
        stop_step: One past the last step.
        workers: Processes that read ahead; 0 reads in this process.
        rows: Which of the rows of every batch are read.
        pinned: Put batches into memory from which a GPU copies while it computes.

    Returns:
        Iterator of what :meth:`Clips.fetch` returns, as tensors on the CPU.

    Raises:
        ValueError: Sizes or steps out of range; raised at the call, not at the first batch.
    """
    import torch
    from torch.utils.data import DataLoader, Dataset

    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    order = BatchOrder(clips, batch_size, seed, start_step, stop_step)
    loader = DataLoader(
        cast("Dataset[AnyBatch]", _Share(clips, rows)),  # a map-style dataset by its method
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_to_tensors,  # type: ignore[arg-type]  # __getitems__ hands over a batch, not a list of samples
        prefetch_factor=4 if workers else None,
        pin_memory=pinned,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=torch.Generator(),  # otherwise the loader draws a number from torch's global generator
    )
    return iter(loader)


def _leave_signals_to_the_parent(worker: int) -> None:
    """Go on reading after a Ctrl-C or SIGTERM that all processes get: the parent ends its step, saves, and ends us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))


def _to_tensors(arrays: AnyBatch) -> AnyBatch:
    import torch

    return _each(arrays, torch.from_numpy)


def _each(batch: AnyBatch, change: Callable[[Any], Any]) -> AnyBatch:
    """The batch with every array that is there changed."""
    return type(batch)(*(None if values is None else change(values) for values in batch))
