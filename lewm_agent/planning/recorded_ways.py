"""Finding recorded ways that lead from about here to about there."""

from __future__ import annotations

import torch
from torch import Tensor

from lewm_agent.models.far_goals import Bank
from lewm_agent.tools.checks import require

STARTS = 64
"""Frames whose way is looked at closely."""


class RecordedWays:
    """A bank of recorded ways in the metric that one plans with, padded to rows of one episode each.

    Args:
        bank: float16 latents and blocks.
        metric: (D, D), in whose units latents are compared; None for their own.

    Raises:
        ValueError: lengths of episodes and number of latents do not fit.
    """

    def __init__(self, bank: Bank, metric: Tensor | None) -> None:
        lengths = bank.lengths
        require(
            int(lengths.sum()) == len(bank.latents) and bool((lengths > 0).all()),
            "the bank of recorded ways is damaged: its episodes have other lengths than its latents",
        )
        self.bank, self.metric = bank, metric
        self.compared = self._measured(bank.latents.float())
        ends = lengths.cumsum(0)
        self._last = (ends - 1).repeat_interleave(lengths)
        steps = torch.arange(int(lengths.max()), device=lengths.device)
        self._place = (ends - lengths).unsqueeze(1) + steps  # frames of each episode in a row
        self._inside = steps < lengths.unsqueeze(1)
        self._place = torch.where(self._inside, self._place, 0)
        self._episode = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)

    def _measured(self, latents: Tensor) -> Tensor:
        return latents if self.metric is None else latents @ self.metric

    def nearest(self, here: Tensor, goal: Tensor, count: int, stride: int, horizon: int) -> tuple[Tensor, Tensor]:
        """Latents some blocks on, and the blocks that follow, of the ways that are most like the one to the goal.

        A way is two frames of an episode, compared by start, end and the difference of the two.

        Args:
            here: (D,).
            goal: (D,).
            count: ways of different starts, at most.
            stride: blocks from the start of a way to the latent.
            horizon: blocks to give; zeros after the end of an episode.

        Returns:
            Latents (K, D) and blocks (K, horizon, block_dim).
        """
        begins = self.compared - self._measured(here)
        ends = self.compared - self._measured(goal)
        to_start, to_goal = begins.square().sum(1), ends.square().sum(1)
        rows = torch.where(self._inside, to_goal[self._place], torch.inf)
        later = rows.flip(1).cummin(1).values.flip(1)[self._inside]  # the nearest to the goal from there on
        starts = (to_start + later).topk(min(STARTS, len(later)), largest=False).indices
        ways = rows[self._episode[starts]] + to_start[starts, None]
        ways = ways + (ends[self._place[self._episode[starts]]] - begins[starts, None]).square().sum(-1)
        ways = torch.where(self._place[self._episode[starts]] >= starts[:, None], ways, torch.inf)
        lowest, end = ways.min(1)
        best = lowest.topk(min(count, len(lowest)), largest=False).indices
        starts, ends_at = starts[best], self._place[self._episode[starts[best]], end[best]]
        latents = self.bank.latents[torch.minimum(starts + stride, ends_at)].float()
        return latents, self._following(starts, horizon)

    def _following(self, starts: Tensor, horizon: int) -> Tensor:
        frames = starts[:, None] + torch.arange(horizon, device=starts.device)
        last = self._last[starts][:, None]
        blocks = self.bank.blocks[torch.minimum(frames, last)].float()
        return blocks * (frames < last).unsqueeze(-1)
