"""Turning the frames of a dataset into latents, for what is trained on those alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.world_model import WorldModel
from lewm_agent.tools.freed_memory import release_freed
from lewm_agent.tools.progress import ProgressShown

FRAMES_AT_ONCE = 256
"""Frames encoded together."""


@torch.inference_mode()
def encode_rows(
    world_model: WorldModel, dataset: OfflineDataset, rows: NDArray[np.int64], progress: bool = False
) -> Tensor:
    """Latents (N, latent_dim) of the frames of rows (N,), on the model's device, which is in evaluation mode."""
    device = world_model.action_mean.device
    latents = torch.empty(len(rows), world_model.config.latent_dim, device=device)
    with ProgressShown("encode", len(latents), shown=progress) as shown:
        for start in range(0, len(latents), FRAMES_AT_ONCE):
            chunk = slice(start, start + FRAMES_AT_ONCE)
            latents[chunk] = world_model.encode(torch.as_tensor(dataset.read_frames(rows[chunk]), device=device))
            shown.update(min(start + FRAMES_AT_ONCE, len(latents)))
            if start % (20 * FRAMES_AT_ONCE) == 0:
                release_freed()
    return latents


class Latents:
    """Latents of a dataset's rows, each encoded when it is first asked for.

    Args:
        world_model: encodes; in evaluation mode.
        dataset: frames.
        known: latents (rows, latent_dim) with an entry for every row of the dataset, NaN where it is not known.
    """

    def __init__(
        self, world_model: WorldModel, dataset: OfflineDataset, known: NDArray[np.float32] | None = None
    ) -> None:
        self.world_model, self.dataset = world_model, dataset
        shape = len(dataset.actions), world_model.config.latent_dim
        self._known = np.full(shape, np.nan, np.float32) if known is None else known.copy()
        self._missing = np.isnan(self._known[:, 0])

    def of(self, rows: NDArray[np.int64], progress: bool = False) -> NDArray[np.float32]:
        """Latents (N, latent_dim) of the frames of rows (N,)."""
        missing = np.unique(rows[self._missing[rows]])
        if missing.size:
            self._known[missing] = encode_rows(self.world_model, self.dataset, missing, progress).cpu().numpy()
            self._missing[missing] = False
        return self._known[rows]


def encode_all(world_model: WorldModel, dataset: OfflineDataset, progress: bool = False) -> NDArray[np.float32]:
    """Latents of a whole dataset with an entry for every row, (rows, latent_dim); NaN where a row has no frame."""
    rows = dataset.frame_rows(np.arange(dataset.num_episodes))
    every = np.full((len(dataset.actions), world_model.config.latent_dim), np.nan, np.float32)
    was_training = world_model.training
    every[rows] = encode_rows(world_model.eval(), dataset, rows, progress).cpu().numpy()
    world_model.train(was_training)
    return every
