"""Fitting the head that goals in numbers are aimed at with, on frozen latents."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.goal_states import COLUMNS, GoalStates
from lewm_agent.tools.progress import ProgressShown
from lewm_agent.training.batches import FinishData
from lewm_agent.training.encoding import Latents
from lewm_agent.training.state import other_random_numbers

FRAMES, HELD_OUT_FRAMES = 10_000, 1_000
"""That are looked at, at most, at equal distances through the episodes."""
BATCH, PASSES, MOST_STEPS = 256, 50, 2000
LEARNING_RATE = 2e-3
WHOLE = 0.5
"""Share of the examples with all numbers; of the others each number is left open with a chance of its own."""


def recorded_columns(dataset: OfflineDataset) -> dict[str, int]:
    """Columns that say where the environment is, with how many numbers a row; empty where the data tell of none."""
    rows = {name: dataset.column(name, [0]) for name in COLUMNS if name in dataset.columns}
    return {name: found.shape[1] for name, found in rows.items() if found.ndim == 2 and found.dtype.kind == "f"}


def fit(latents: Latents, data: FinishData, seed: int, *, brief: bool = False, progress: bool = False) -> GoalStates:
    """A head for goals in the numbers that a dataset records.

    Args:
        latents: of the dataset that it is fitted to.
        data: episodes to learn from, and held-out ones for its error.
        seed: of its weights and of the order of examples.
        brief: take one step, to see that it can be done.
        progress: show progress.

    Raises:
        ValueError: the data record no such numbers, or none that are finite.
    """
    columns = recorded_columns(data.dataset)
    if not columns:
        raise ValueError(f"{data.dataset.path} records no numbers of the situation ({', '.join(COLUMNS)})")
    numbers, targets = _examples(latents, data.train, columns, FRAMES, progress)
    device = targets.device
    with other_random_numbers(seed, device):
        head = GoalStates(columns, targets.shape[1]).to(device)
        head.set_statistics(numbers, targets)
        steps = 1 if brief else min(MOST_STEPS, math.ceil(PASSES * len(numbers) / BATCH))
        _train(head, numbers, targets, steps, seed, progress)
    with torch.inference_mode():
        numbers, targets = _examples(latents, data.held_out, columns, HELD_OUT_FRAMES, False)
        spread = (targets - targets.mean(0)).square().sum(1).mean().clamp(min=1e-9)
        head.error.copy_((head(numbers) - targets).square().sum(1).mean() / spread)
    return head.eval()


def _train(head: GoalStates, numbers: Tensor, latents: Tensor, steps: int, seed: int, progress: bool) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(seed)
    with ProgressShown("goal states", steps, shown=progress) as shown:
        for step in range(steps):
            rows = torch.as_tensor(rng.integers(len(numbers), size=BATCH), device=numbers.device)
            open_ = torch.as_tensor(_left_open(rng, BATCH, numbers.shape[1]), device=numbers.device)
            loss = (head(numbers[rows].masked_fill(open_, torch.nan)) - latents[rows]).square().mean() / head.spread**2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            shown.update(step + 1, f"loss {loss.item():.4f}" if step % 20 == 0 else None)


def _left_open(rng: np.random.Generator, count: int, size: int) -> NDArray[np.bool_]:
    """Which numbers of examples (count, size) are not told; none in a share ``WHOLE`` of them."""
    chance = rng.uniform(size=(count, 1)) * (rng.uniform(size=(count, 1)) >= WHOLE)
    return rng.uniform(size=(count, size)) < chance


def _examples(
    latents: Latents, episodes: NDArray[np.int64], columns: dict[str, int], most: int, progress: bool
) -> tuple[Tensor, Tensor]:
    """Numbers (N, size) of rows with a frame, all finite, and the latents (N, latent_dim) of these frames."""
    dataset, device = latents.dataset, latents.world_model.action_mean.device
    rows = dataset.frame_rows(episodes)
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(np.int64)
    told = np.concatenate([dataset.column(name, episodes) for name in columns], axis=1)
    with_frame = np.concatenate([np.arange(n) % dataset.frame_interval == 0 for n in dataset.episode_lengths[episodes]])
    told = told[with_frame][chosen]
    usable = np.isfinite(told).all(axis=1)
    if not usable.any():
        raise ValueError(f"no row of {dataset.path} has finite numbers in {', '.join(columns)}")
    found = latents.of(rows[chosen][usable], progress)
    return torch.as_tensor(told[usable].astype(np.float32), device=device), torch.as_tensor(found, device=device)
