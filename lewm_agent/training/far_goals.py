"""Fitting what helps with far goals: blocks to go, latents on the way, and the bank of recorded ways.

Blocks to go are learned in hindsight, from real latents and from imagined ones: a head that has seen real ones alone
is wrong about those that plans consist of.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lewm_agent.models.far_goals import NOISE, Bank, FarGoals, FarGoalsConfig
from lewm_agent.tools.progress import ProgressShown
from lewm_agent.training.batches import FinishData
from lewm_agent.training.encoding import Latents
from lewm_agent.training.state import other_random_numbers

FRAMES = 200_000
"""Latents that are learned from, at most."""
IMAGINED, LENGTH = 10_000, 5
"""Frames from which recorded blocks are imagined, at most, and how many blocks."""
BATCH = 384
ELSEWHERE = 0.25
"""Share of goals that are in another episode."""
DRAWS = 4
"""Latents that are drawn for each example, of which the nearest learns."""
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2
HELD_OUT = 4096
"""Examples that the error is told from."""


class Paths:
    """Latents at the boundaries of the action blocks of episodes, one episode after the other.

    Args:
        latents: of the dataset.
        episodes: which ones; those no longer than a block are left out, and of very many some at equal distances.
        progress: show progress.

    Attributes:
        latents: (F, D).
        blocks: (F, block_dim), normalised, that follow them; zeros after the last of an episode.
        episode: (F,), counted from 0.
        after: (F,), blocks until the episode's end.

    Raises:
        ValueError: no episode is longer than an action block.
    """

    def __init__(self, latents: Latents, episodes: NDArray[np.int64], progress: bool = False) -> None:
        dataset, codec, skip = latents.dataset, latents.world_model.codec, latents.world_model.config.frame_skip
        counts = (dataset.episode_lengths[episodes] - 1) // skip
        episodes, counts = episodes[counts > 0], counts[counts > 0]
        if not episodes.size:
            raise ValueError(f"no episode of {dataset.path} is longer than one action block ({skip} steps)")
        chosen = _spread_out(len(episodes), FRAMES / (counts + 1).mean())
        episodes, counts = episodes[chosen], counts[chosen]
        device = latents.world_model.action_mean.device
        self.episode = np.repeat(np.arange(len(counts)), counts + 1)
        ends = np.cumsum(counts + 1)
        self.after = ends[self.episode] - 1 - np.arange(len(self.episode))
        rows = dataset.episode_starts[episodes][self.episode] + skip * (counts[self.episode] - self.after)
        self.latents = torch.as_tensor(latents.of(rows, progress), device=device)
        within = np.where(self.after[:, None] > 0, rows[:, None] + np.arange(skip), 0)
        self.blocks = codec.blocks(torch.as_tensor(dataset.actions[within], device=device))
        self.blocks[self.after == 0] = 0


def _spread_out(count: int, most: float) -> NDArray[np.int64]:
    """At most so many of ``count`` numbers, at equal distances."""
    return np.linspace(0, count - 1, max(1, min(count, int(most)))).round().astype(np.int64)


class Examples:
    """Real and imagined latents of some paths, with goals.

    Args:
        paths: what was recorded.
        latents: whose world model imagines.
        reach: goals are less than this many blocks ahead.
    """

    def __init__(self, paths: Paths, latents: Latents, reach: int) -> None:
        self.paths, self.reach = paths, reach
        self._lengths = np.bincount(paths.episode)
        self._firsts = np.cumsum(self._lengths) - self._lengths
        starts = np.flatnonzero(paths.after)
        starts = starts[_spread_out(len(starts), IMAGINED)]
        ahead = np.minimum(starts[:, None] + np.arange(LENGTH), len(paths.after) - 1)
        with torch.inference_mode():
            nothing = paths.blocks.new_zeros(len(starts), 0, paths.blocks.shape[1])
            found = latents.world_model.rollout(paths.latents[starts, None], nothing, paths.blocks[ahead][:, None])
        within = np.arange(1, LENGTH + 1) <= paths.after[starts, None]
        self._imagined = found[:, 0][torch.as_tensor(within, device=found.device)].clone()
        self._meant = (starts[:, None] + np.arange(1, LENGTH + 1))[within]

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
        """Latents (B, D), the first half of them imagined, the frames (B,) they stand for, and blocks to go (B,)."""
        chosen = rng.integers(len(self._meant), size=count // 2)
        real = rng.integers(len(self.paths.after), size=count - len(chosen))
        frames = np.concatenate([self._meant[chosen], real])
        left = rng.integers(np.minimum(self.reach - 1, self.paths.after[frames]) + 1)
        return torch.cat([self._imagined[chosen], self.paths.latents[real]]), frames, left

    def elsewhere(self, frames: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """For each of the frames (B,) one of another episode, where there is one."""
        own = self.paths.episode[frames]
        others = len(self.paths.episode) - self._lengths[own]
        found = rng.integers(np.maximum(1, others))
        return np.where((found >= self._firsts[own]) & (others > 0), found + self._lengths[own], found)


def fit(
    latents: Latents,
    data: FinishData,
    config: FarGoalsConfig,
    seed: int,
    *,
    brief: bool = False,
    progress: bool = False,
) -> FarGoals:
    """Train heads for far goals; the world model's metric, if it has one, weighs what latents on the way must meet.

    Args:
        latents: of the dataset that they are fitted to.
        data: episodes to learn from, and held-out ones for errors.
        config: reach, stride, length of the training and size of the bank.
        seed: of weights, examples and noise.
        brief: take one step, to see that it can be done.
        progress: show progress.

    Raises:
        ValueError: no episode is longer than a block, or the error is not finite.
    """
    paths = Paths(latents, data.train, progress)
    device = paths.latents.device
    with other_random_numbers(seed, device):
        bank = _bank(paths, config.bank_megabytes) if config.bank_megabytes else None
        far = FarGoals(paths.latents.shape[1], config.reach, config.stride, bank).to(device)
        far.steps.set_statistics(paths.latents)
        far.subgoals.set_statistics(paths.latents)
        examples = Examples(paths, latents, config.reach)
        _train(far, examples, latents.world_model.metric, 1 if brief else config.fit_steps, seed, progress)
    _measure(far.eval(), Paths(latents, data.held_out), config)
    if not math.isfinite(float(far.steps.error)):
        raise ValueError(f"the latents of {data.dataset.path} are not finite: this model cannot be used; train it anew")
    return far


def _train(far: FarGoals, examples: Examples, metric: Tensor | None, steps: int, seed: int, progress: bool) -> None:
    optimizer = torch.optim.AdamW(far.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(seed)
    with ProgressShown("far goals", steps, shown=progress) as shown:
        for step in range(steps):
            found, frames, left = examples.draw(BATCH, rng)
            loss = _steps_loss(far, examples, found, frames, left, rng)
            loss = loss + _subgoal_loss(far, examples.paths.latents, found, frames, left, metric)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            shown.update(step + 1, f"loss {loss.item():.4f}" if step % 20 == 0 else None)


def _steps_loss(
    far: FarGoals,
    examples: Examples,
    found: Tensor,
    frames: NDArray[np.int64],
    left: NDArray[np.int64],
    rng: np.random.Generator,
) -> Tensor:
    away = rng.uniform(size=len(frames)) < ELSEWHERE
    goals = examples.paths.latents[np.where(away, examples.elsewhere(frames, rng), frames + left)]
    told = torch.as_tensor(np.where(away, far.steps.reach, left), device=found.device)
    return functional.cross_entropy(far.steps.logits(found, goals), told)


def _subgoal_loss(
    far: FarGoals,
    real: Tensor,
    found: Tensor,
    frames: NDArray[np.int64],
    left: NDArray[np.int64],
    metric: Tensor | None,
) -> Tensor:
    """Squared errors of the mean, and of the nearest of several that are drawn (implicit maximum likelihood)."""
    targets = real[frames + np.minimum(left, int(far.stride))].unsqueeze(1)
    goals, blocks_left = real[frames + left], torch.as_tensor(left, device=found.device)
    noise = torch.randn(len(found), 1 + DRAWS, NOISE, device=found.device)
    noise[:, 0] = 0
    error = far.subgoals(found, goals, blocks_left, noise) - targets
    unit = error / far.subgoals.spread if metric is None else error @ metric
    squares = unit.square().mean(-1)
    return squares[:, 0].mean() + squares[:, 1:].amin(1).mean()


@torch.inference_mode()
def _measure(far: FarGoals, paths: Paths, config: FarGoalsConfig) -> None:
    """Tell the head's error, and what it says of frames a stride apart, and two fifths of one, where one goes on."""
    rng, steps = np.random.default_rng(0), far.steps
    frames = rng.integers(len(paths.after), size=HELD_OUT)
    left = rng.integers(np.minimum(config.reach - 1, paths.after[frames]) + 1)
    told = steps(paths.latents[frames], paths.latents[frames + left])
    steps.error.copy_((told - torch.as_tensor(left, device=told.device)).abs().mean())
    for blocks, buffer in ((max(1, config.stride * 2 // 5), steps.reached), (config.stride, steps.near)):
        apart = np.flatnonzero(paths.after >= blocks)
        apart = rng.choice(apart, HELD_OUT) if apart.size else np.flatnonzero(paths.after)
        ahead = np.minimum(apart + blocks, len(paths.after) - 1)
        buffer.copy_(steps(paths.latents[apart], paths.latents[ahead]).median())


def _bank(paths: Paths, megabytes: float) -> Bank:
    """As many of the ways as fit, at equal distances."""
    numbers = paths.latents.shape[1] + paths.blocks.shape[1]
    counts = np.bincount(paths.episode)
    chosen = _spread_out(len(counts), 1e6 * megabytes / (2 * numbers * counts.mean()))
    kept = np.isin(paths.episode, chosen)
    bank = Bank(int(kept.sum()), len(chosen), paths.latents.shape[1], paths.blocks.shape[1])
    bank.latents.copy_(paths.latents[kept])
    bank.blocks.copy_(paths.blocks[kept])
    bank.lengths.copy_(torch.as_tensor(counts[chosen]))
    return bank
