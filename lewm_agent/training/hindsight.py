"""Training the inverse-dynamics head in hindsight, on frozen latents.

Every later frame of an episode is a goal that the episode's own actions reached.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.mixed import by_part
from lewm_agent.datasets.shards import REACHED
from lewm_agent.models.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
from lewm_agent.tools.progress import ProgressShown
from lewm_agent.training.batches import FinishData
from lewm_agent.training.encoding import Latents


class HindsightPairs:
    """Latents of all recorded frames of some episodes, to draw (frame, later frame, blocks between, next block) from.

    Args:
        latents: of the dataset that they are drawn from.
        episodes: which ones (n,).
        progress: show progress.

    Raises:
        ValueError: no episode is longer than one action block.
    """

    def __init__(self, latents: Latents, episodes: NDArray[np.int64], progress: bool = False) -> None:
        world_model, dataset = latents.world_model, latents.dataset
        self._skip = world_model.config.frame_skip
        self._frames_per_block = self._skip // dataset.frame_interval
        self._rows = dataset.frame_rows(episodes)
        last = dataset.episode_starts[episodes] + dataset.episode_lengths[episodes] - 1
        frames = -(-dataset.episode_lengths[episodes] // dataset.frame_interval)
        self._blocks_after = (np.repeat(last, frames) - self._rows) // self._skip
        self._usable = np.flatnonzero(self._blocks_after)
        if not self._usable.size:
            raise ValueError(f"no episode of {dataset.path} is longer than one action block ({self._skip} steps)")
        self._device = world_model.action_mean.device
        self._actions = dataset.actions
        self._codec = world_model.codec
        self._latents = torch.as_tensor(latents.of(self._rows, progress), device=self._device)

    def draw(self, count: int, furthest: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents (B, D), goals (B, D), blocks between them (B,) and the next block (B, block_dim), normalised."""
        frames = rng.choice(self._usable, count)
        left = 1 + rng.integers(np.minimum(furthest, self._blocks_after[frames]))
        goals = frames + left * self._frames_per_block
        rows = self._rows[frames, None] + np.arange(self._skip)
        blocks = self._codec.blocks(torch.as_tensor(self._actions[rows], device=self._device))
        blocks_left = torch.as_tensor(left, device=self._device)
        return self._latents[frames], self._latents[goals], blocks_left, blocks


def successful(data: FinishData) -> FinishData:
    """The same data with those episodes alone that ended at their goal, or, in a dataset where none did, an expert's.

    Args:
        data: episodes to choose from.

    Returns:
        Those; in a rehearsal ``data`` as they are, if the episodes that they stand for have such.

    Raises:
        ValueError: there are none to learn from, or none to be held out.
    """
    whole = data.rehearsed or data
    chosen = [
        _worth_imitating(whole.dataset, episodes, of)
        for episodes, of in ((whole.train, "training"), (whole.held_out, "held-out"))
    ]
    return data if data.rehearsed else replace(data, train=chosen[0], held_out=chosen[1])


def _worth_imitating(dataset: OfflineDataset, episodes: NDArray[np.int64], of: str) -> NDArray[np.int64]:
    """Of each part what is worth it: an expert's data whose episodes never end may lie beside attempts that do."""
    chosen = [first + _successful_in(part, own) for part, first, own in by_part(dataset, episodes) if own.size]
    found = np.concatenate(chosen) if chosen else episodes
    if found.size:
        return found
    raise ValueError(
        f"inverse_dynamics.successful_only finds none among the {len(episodes)} {of} episodes of {dataset.path} that "
        "ended at its goal or is an expert's; more episodes may have some"
    )


def _successful_in(dataset: OfflineDataset, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.cumsum(dataset.episode_lengths[episodes]) - dataset.episode_lengths[episodes]
    for column in ("terminated", REACHED, "expert"):
        if column in dataset.columns:
            chosen = np.logical_or.reduceat(dataset.column(column, episodes), starts)
            if chosen.any():
                return episodes[chosen]
    return episodes[:0]


def fit(
    head: InverseDynamics,
    training: HindsightPairs,
    held_out: HindsightPairs,
    config: InverseDynamicsConfig,
    seed: int,
    progress: bool = False,
) -> float:
    """Train the head in place and leave it in evaluation mode.

    Args:
        head: to train.
        training: pairs to learn from.
        held_out: pairs of other episodes.
        config: length and step size of the training.
        seed: of the pairs drawn, of dropout and of the noise.
        progress: show progress.

    Returns:
        Mean squared error of the proposed blocks on the held-out pairs; normalised actions have variance 1.

    Raises:
        ValueError: the error is not finite.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    rate, decay = config.learning_rate, config.weight_decay
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    head.train()
    with ProgressShown("inverse dynamics", config.steps, shown=progress) as shown:
        for step in range(config.steps):
            latents, goals, left, blocks = training.draw(config.batch_size, config.furthest, rng)
            noisy = (x + config.latent_noise * torch.randn_like(x) for x in (latents, goals))
            loss = (head(*noisy, left) - blocks).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            shown.update(step + 1, f"loss {loss.item():.4f}" if step % 20 == 0 else None)
    head.eval()
    with torch.inference_mode():
        latents, goals, left, blocks = held_out.draw(8192, config.furthest, np.random.default_rng(0))
        error = float((head(latents, goals, left) - blocks).square().mean())
    if not math.isfinite(error):
        raise ValueError(
            f"the trained inverse-dynamics head has an error of {error}: lower inverse_dynamics.learning_rate"
        )
    return error
