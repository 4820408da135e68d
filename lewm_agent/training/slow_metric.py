"""A planning metric in which what changes slowly counts more than what changes fast.

The idea is that of slow feature analysis (Wiskott & Sejnowski 2002): differences between latents are measured in
units of how much latents usually differ after one action block. In plain Euclidean distance the quick agent drowns
the slow object that it pushes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.world_model import WorldModel

EPISODES = 300
"""So many episodes, or all, are enough for a covariance."""
SMALLEST = 1e-3
"""Least variance of a direction, as a share of the largest."""


@torch.inference_mode()
def fit(world_model: WorldModel, dataset: OfflineDataset, episodes: NDArray[np.int64], ridge: float = 0.0) -> Tensor:
    """The matrix M (latent_dim, latent_dim) with which |(a - b) M| is the metric: the inverse root of the covariance.

    Args:
        world_model: encodes; in evaluation mode.
        dataset: frames.
        episodes: which ones, of which at most 300 are looked at.
        ridge: share of the mean variance that is added in every direction: what hardly ever changes is mostly noise.

    Raises:
        ValueError: no episode is longer than an action block.
    """
    skip, device = world_model.config.frame_skip, world_model.action_mean.device
    starts, lengths = dataset.episode_starts, dataset.episode_lengths
    changes = []
    for episode in episodes[lengths[episodes] > skip][:EPISODES]:
        rows = starts[episode] + np.arange(0, lengths[episode], skip)
        frames = torch.as_tensor(dataset.read_frames(rows), device=device)
        changes.append(world_model.encode(frames).diff(dim=0).cpu())
    if not changes:
        raise ValueError(f"no episode of {dataset.path} is longer than one action block ({skip} steps)")
    change = torch.cat(changes).numpy().astype(np.float64)  # here, for Apple's GPUs have no float64
    if not np.isfinite(change).all():
        raise ValueError(f"the latents of {dataset.path} are not finite: this model cannot be used; train it anew")
    variances, directions = np.linalg.eigh(change.T @ change / len(change))
    variances = variances + ridge * variances.mean()
    variances = variances.clip(min=SMALLEST * variances[-1])
    metric = (directions / np.sqrt(variances)) @ directions.T
    return torch.as_tensor(metric.astype(np.float32), device=device)
