"""A goal-conditioned inverse-dynamics head on latents: which actions lead from here to there."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from lewm_agent.config import InverseDynamicsConfig, ModelConfig


class InverseDynamics(nn.Module):
    """Latent, goal latent and blocks left until the goal, to the next action block (normalised)."""

    def __init__(self, model: ModelConfig, config: InverseDynamicsConfig) -> None:
        super().__init__()
        self.furthest = config.furthest
        sizes = [2 * model.latent_dim + 2, *[config.width] * config.depth]
        layers = [
            layer
            for inputs, outputs in itertools.pairwise(sizes)
            for layer in (nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU(), nn.Dropout(config.dropout))
        ]
        self.layers = nn.Sequential(*layers, nn.Linear(config.width, model.block_dim))

    def forward(self, latents: Tensor, goals: Tensor, blocks_left: Tensor) -> Tensor:
        """Propose the next block.

        Args:
            latents: (N, latent_dim).
            goals: (N, latent_dim).
            blocks_left: (N,), from 1 to the furthest goal it was trained on.

        Returns:
            (N, block_dim), normalised.
        """
        left = blocks_left.unsqueeze(-1).to(latents.dtype)
        block: Tensor = self.layers(torch.cat([latents, goals - latents, left / self.furthest, 1 / left], dim=-1))
        return block
