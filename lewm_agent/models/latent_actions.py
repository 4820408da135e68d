"""Latent actions: a small code of what happens between two frames, learned from frames alone (arXiv 2312.10812).

An inverse model sees both latents and says the code; a forward model sees the first latent and the code and says the
other. A code is random, near the standard normal distribution at a price, so that it holds little more than what the
forward model cannot know: what was done. Real actions are read from it by a linear map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lewm_agent.models.inverse_dynamics import InverseDynamics, InverseDynamicsConfig

CODE = 8
"""Numbers in a code; those that do not help stay near 0."""
PRICE = 0.003
"""Of a nat in the code, in shares of the squared change of the latents."""
WIDTH = 256
"""Of the hidden layers."""
RIDGE = 10.0
"""Pairs of frames that are worth as much as the guess that a code says nothing of an action."""


class LatentActions(nn.Module):
    """Two latents to the block of actions between them, by way of a code; :meth:`read` is due before that.

    Args:
        latent_dim: of the latents.
        block_dim: of the blocks.
    """

    reading: Tensor
    """(CODE + 1, block_dim), what each component of a code means, and a constant; zero until :meth:`read`."""

    def __init__(self, latent_dim: int, block_dim: int) -> None:
        super().__init__()
        config = InverseDynamicsConfig(furthest=1, width=WIDTH, depth=2, dropout=0.0)
        self.inverse = InverseDynamics(latent_dim, 2 * CODE, config)
        self.onward = nn.Sequential(
            nn.Linear(latent_dim + CODE, WIDTH),
            nn.LayerNorm(WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, WIDTH),
            nn.LayerNorm(WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, latent_dim),
        )
        self.register_buffer("reading", torch.zeros(CODE + 1, block_dim))

    def codes(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances (N, CODE) of the codes between latents (N, latent_dim)."""
        mean, log_variance = self.inverse(before, after, before.new_ones(len(before))).chunk(2, dim=-1)
        return mean, log_variance.clamp(-10, 2)

    def loss(self, before: Tensor, after: Tensor) -> Tensor:
        """Share of the change between latents (N, latent_dim) that is not foreseen, and the price of the codes."""
        mean, log_variance = self.codes(before, after)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        change = after - before
        unforeseen = (self.onward(torch.cat([before, code], dim=-1)) - change).square().mean()
        nats = (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=-1).mean() / 2
        return unforeseen / change.detach().square().mean().clamp(min=1e-8) + PRICE * nats

    def read(self, before: Tensor, after: Tensor, blocks: Tensor) -> None:
        """Learn from latents (N, latent_dim) and the blocks (N, block_dim) between them what codes mean."""
        codes = self._with_constant(before, after).double()
        ridge = RIDGE * torch.eye(CODE + 1, dtype=codes.dtype, device=codes.device)
        ridge[-1, -1] = 1e-3
        self.reading.copy_(torch.linalg.solve(codes.T @ codes + ridge, codes.T @ blocks.double()))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Blocks (N, block_dim) between latents (N, latent_dim), normalised."""
        return self._with_constant(before, after) @ self.reading

    def _with_constant(self, before: Tensor, after: Tensor) -> Tensor:
        mean, _ = self.codes(before, after)
        return torch.cat([mean, mean.new_ones(len(mean), 1)], dim=-1)
