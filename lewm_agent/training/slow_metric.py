"""A planning metric in which what changes slowly counts more than what changes fast.

The idea is that of slow feature analysis (Wiskott & Sejnowski 2002): differences between latents are measured in
units of how much latents usually differ after one action block. In plain Euclidean distance the quick agent drowns
the slow object that it pushes. A higher power goes further: a direction counts by how small a share of its variance
changes in a block, so that what moves rarely counts most, and noise, all of which changes, next to nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.world_model import WorldModel

Matrix = NDArray[np.float64]

EPISODES = 300
"""So many episodes, or all, are enough for a covariance."""
SMALLEST = 1e-3
"""Least variance of a direction, as a share of the largest."""


@torch.inference_mode()
def fit(world_model: WorldModel, dataset: OfflineDataset, episodes: NDArray[np.int64], power: float = 1.0) -> Tensor:
    """The matrix M (latent_dim, latent_dim) with which |(a - b) M| is the metric.

    In directions in which latents have variance 1, and changes are uncorrelated and have variances s, squared
    differences are divided by s to the ``power``. With 1 the metric is the inverse root of the changes' covariance.

    Args:
        world_model: encodes; in evaluation mode.
        dataset: frames.
        episodes: which ones, of which at most 300 are looked at.
        power: how much more the slow counts than the fast.

    Raises:
        ValueError: no episode is longer than an action block.
    """
    latents = _latents(world_model, dataset, episodes)
    metric = of_latents(latents, power)
    if not np.isfinite(metric).all():
        raise ValueError(f"the latents of {dataset.path} are not finite: this model cannot be used; train it anew")
    return torch.as_tensor(metric.astype(np.float32), device=world_model.action_mean.device)


def of_latents(latents: list[Matrix], power: float) -> Matrix:
    """The same from the latents of each episode (T, latent_dim) at the boundaries of action blocks, in float64.

    It is NaN where a latent is not finite.
    """
    changes = np.concatenate([episode[1:] - episode[:-1] for episode in latents])
    every = np.concatenate(latents)
    if not np.isfinite(every).all():
        return np.full((every.shape[1], every.shape[1]), np.nan)
    variances, directions = _spread(np.cov(every.T, bias=True))
    whitening = directions / np.sqrt(variances)
    variances, directions = _spread(changes.T @ changes / len(changes))
    shares, turned = np.linalg.eigh(whitening.T @ (directions * variances) @ directions.T @ whitening)
    slow = whitening @ turned / shares ** (power / 2)
    squares, directions = np.linalg.eigh(slow @ slow.T)
    metric: Matrix = (directions * np.sqrt(squares.clip(min=0))) @ directions.T
    return metric


def _latents(world_model: WorldModel, dataset: OfflineDataset, episodes: NDArray[np.int64]) -> list[Matrix]:
    """Latents of each episode (T, latent_dim) at the boundaries of its action blocks, in float64.

    They are not kept on the device, for Apple's GPUs have no float64.
    """
    skip, device = world_model.config.frame_skip, world_model.action_mean.device
    starts, lengths = dataset.episode_starts, dataset.episode_lengths
    found = []
    for episode in episodes[lengths[episodes] > skip][:EPISODES]:
        rows = starts[episode] + np.arange(0, lengths[episode], skip)
        frames = torch.as_tensor(dataset.read_frames(rows), device=device)
        found.append(world_model.encode(frames).cpu().numpy().astype(np.float64))
    if not found:
        raise ValueError(f"no episode of {dataset.path} is longer than one action block ({skip} steps)")
    return found


def _spread(covariance: Matrix) -> tuple[Matrix, Matrix]:
    """Variances (D,), none next to nothing, and directions (D, D) in columns."""
    variances, directions = np.linalg.eigh(np.atleast_2d(covariance))
    return variances.clip(min=SMALLEST * variances[-1]), directions
