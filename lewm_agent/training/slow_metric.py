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

from lewm_agent.datasets.mixed import by_turns
from lewm_agent.training.encoding import Latents

Matrix = NDArray[np.float64]

EPISODES = 300
"""So many episodes, or all, are enough for a covariance."""
SMALLEST = 1e-3
"""Least variance of a direction, as a share of the largest."""


def fit(latents: Latents, episodes: NDArray[np.int64], power: float = 1.0) -> Tensor:
    """The matrix M (latent_dim, latent_dim) with which |(a - b) M| is the metric.

    In directions in which latents have variance 1, and changes are uncorrelated and have variances s, squared
    differences are divided by s to the ``power``. With 1 the metric is the inverse root of the changes' covariance.

    Args:
        latents: of the dataset that it is fitted to.
        episodes: which ones, of which at most 300 are looked at.
        power: how much more the slow counts than the fast.

    Raises:
        ValueError: no episode is longer than an action block.
    """
    metric = of_latents(_paths(latents, episodes), power)
    if not np.isfinite(metric).all():
        path = latents.dataset.path
        raise ValueError(f"the latents of {path} are not finite: this model cannot be used; train it anew")
    return torch.as_tensor(metric.astype(np.float32), device=latents.world_model.action_mean.device)


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


def _paths(latents: Latents, episodes: NDArray[np.int64]) -> list[Matrix]:
    """Latents of each episode (T, latent_dim) at the boundaries of its action blocks, in float64."""
    dataset, skip = latents.dataset, latents.world_model.config.frame_skip
    starts, lengths = dataset.episode_starts, dataset.episode_lengths
    chosen = by_turns(dataset, episodes[lengths[episodes] > skip])[:EPISODES]
    if not chosen.size:
        raise ValueError(f"no episode of {dataset.path} is longer than one action block ({skip} steps)")
    rows = [starts[episode] + np.arange(0, lengths[episode], skip) for episode in chosen]
    encoded = latents.of(np.concatenate(rows)).astype(np.float64)
    return np.split(encoded, np.cumsum([len(path) for path in rows])[:-1])


def _spread(covariance: Matrix) -> tuple[Matrix, Matrix]:
    """Variances (D,), none next to nothing, and directions (D, D) in columns."""
    variances, directions = np.linalg.eigh(np.atleast_2d(covariance))
    return variances.clip(min=SMALLEST * variances[-1]), directions
