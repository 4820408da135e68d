"""A goal-conditioned inverse-dynamics head on latents: which actions lead from here to there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lewm_agent.tools.checks import require


@dataclass(frozen=True)
class InverseDynamicsConfig:
    """The goal-conditioned inverse-dynamics head and its training on frozen latents, after the world model's."""

    furthest: int = 10
    """Goals are 1 to this many action blocks ahead."""
    successful_only: bool = False
    """Learn from the episodes that ended at their goal alone, or, where none ends, from those of an expert: the others
    are there for the model's sake."""
    width: int = 512
    depth: int = 3
    dropout: float = 0.1
    latent_noise: float = 0.05
    """Standard deviation of the noise on its inputs, whose components have variance 1."""
    steps: int = 6000
    batch_size: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        for name in ("furthest", "width", "depth", "steps", "batch_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        require(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        for name in ("latent_noise", "weight_decay"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")


class InverseDynamics(nn.Module):
    """Latent, goal latent and blocks left until the goal, to the next action block (normalised)."""

    def __init__(self, latent_dim: int, block_dim: int, config: InverseDynamicsConfig) -> None:
        super().__init__()
        self.furthest = config.furthest
        sizes = [2 * latent_dim + 2, *[config.width] * config.depth]
        layers = [
            layer
            for inputs, outputs in itertools.pairwise(sizes)
            for layer in (nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU(), nn.Dropout(config.dropout))
        ]
        self.layers = nn.Sequential(*layers, nn.Linear(config.width, block_dim))

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
        return self.layers(torch.cat([latents, goals - latents, left / self.furthest, 1 / left], dim=-1))
