"""What helps with far goals, all on frozen latents: blocks to go, the next latent on the way, recorded ways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

PART = "far_goals."
"""Beginning of the names of these tensors in a model's."""
WIDTH = 256
LAST = 5
"""Place of the last layer in a network."""
NOISE = 8
"""Random numbers that tell one way to go on from another."""
SMALLEST = 1e-6
"""Standard deviation under which a component counts as one that never changes."""


def _hidden() -> list[nn.Module]:
    return [nn.LayerNorm(WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()]


class _Scaled(nn.Module):
    """A network on latents (..., D) in units of the data's mean and standard deviation."""

    center: Tensor
    spread: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(latent_dim))
        self.register_buffer("spread", torch.ones(latent_dim))

    def set_statistics(self, latents: Tensor) -> None:
        """Take over mean and standard deviation of latents (N, D)."""
        self.center.copy_(latents.mean(0))
        self.spread.copy_(latents.std(0, correction=0).clamp(min=SMALLEST))

    def scaled(self, latents: Tensor) -> Tensor:
        """The same latents in these units."""
        return (latents - self.center) / self.spread


class StepsToGo(_Scaled):
    """How many action blocks lead from a latent to another, as recorded episodes went.

    A distribution over 0, 1, ... ``reach`` blocks, of which the mean is told; the last of them means farther, or not
    at all. What it tells of a real frame and of an imagined one is meant to be the same, for plans are judged by it.

    Args:
        latent_dim: size of a latent.
        reach: most blocks that are told apart.

    Attributes:
        near: what it tells, in the median, of held-out frames that are a stride apart.
        reached: likewise two fifths of a stride apart.
        error: mean difference from the blocks recorded between held-out frames.
    """

    near: Tensor
    reached: Tensor
    error: Tensor
    blocks: Tensor

    def __init__(self, latent_dim: int, reach: int) -> None:
        super().__init__(latent_dim)
        self.here = nn.Linear(latent_dim, WIDTH)
        self.there = nn.Linear(latent_dim, WIDTH, bias=False)
        with torch.no_grad():  # half of the units begin with the difference of the two
            self.there.weight[: WIDTH // 2] = -self.here.weight[: WIDTH // 2]
        self.layers = nn.Sequential(*_hidden(), nn.Linear(WIDTH, reach + 1))
        for name in ("near", "reached", "error"):
            self.register_buffer(name, torch.tensor(torch.nan))
        self.register_buffer("blocks", torch.arange(reach + 1.0), persistent=False)

    @property
    def reach(self) -> int:
        """Most blocks that are told apart."""
        return len(self.blocks) - 1

    def logits(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Of 0 to ``reach`` blocks, (..., reach + 1); arguments as for :meth:`forward`."""
        return self.layers(self.here(self.scaled(latents)) + self.there(self.scaled(goals)))

    def forward(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Blocks to go (...), from latents (..., D) to goals (..., D), whose shapes are broadcast."""
        return self.logits(latents, goals).softmax(-1) @ self.blocks


class Subgoals(_Scaled):
    """Latent, goal and blocks left to it, to the latent some blocks on: the mean with no noise, else one of several.

    Args:
        latent_dim: size of a latent.
        reach: most blocks left that it is told.
    """

    def __init__(self, latent_dim: int, reach: int) -> None:
        super().__init__(latent_dim)
        self.reach = reach
        self.first = nn.Linear(2 * latent_dim + 2 + NOISE, WIDTH)
        self.layers = nn.Sequential(*_hidden(), nn.Linear(WIDTH, latent_dim))

    def forward(self, latents: Tensor, goals: Tensor, left: Tensor, noise: Tensor) -> Tensor:
        """Latents (N, D), goals (N, D), blocks left (N,) and noise (N, K, NOISE) to latents on the way (N, K, D)."""
        left = left.clamp(1, self.reach).unsqueeze(-1).to(latents.dtype)
        known = torch.cat([self.scaled(latents), (goals - latents) / self.spread, left / self.reach, 1 / left], dim=-1)
        inputs = torch.cat([known.unsqueeze(1).expand(-1, noise.shape[1], -1), noise], dim=-1)
        return latents.unsqueeze(1) + self.spread * self.layers(self.first(inputs))


class Bank(nn.Module):
    """Recorded ways: latents at the boundaries of action blocks, episode after episode, and the blocks between.

    Kept as float16.

    Args:
        frames: how many latents (F,).
        episodes: how many episodes.
        latent_dim: size of a latent.
        block_dim: size of a block.
    """

    latents: Tensor
    blocks: Tensor
    lengths: Tensor

    def __init__(self, frames: int, episodes: int, latent_dim: int, block_dim: int) -> None:
        super().__init__()
        self.register_buffer("latents", torch.zeros(frames, latent_dim, dtype=torch.float16))
        self.register_buffer("blocks", torch.zeros(frames, block_dim, dtype=torch.float16))
        self.register_buffer("lengths", torch.zeros(episodes, dtype=torch.int64))


class FarGoals(nn.Module):
    """All of it.

    Args:
        latent_dim: size of a latent.
        reach: most blocks to go that are told apart.
        stride: blocks from a frame to its waypoint.
        bank: recorded ways, if there are to be any.
    """

    stride: Tensor

    def __init__(self, latent_dim: int, reach: int, stride: int, bank: Bank | None = None) -> None:
        super().__init__()
        self.steps = StepsToGo(latent_dim, reach)
        self.subgoals = Subgoals(latent_dim, reach)
        self.bank = bank
        self.register_buffer("stride", torch.tensor(stride))

    @staticmethod
    def fitting(weights: Mapping[str, Tensor], latent_dim: int) -> FarGoals | None:
        """What the tensors among a model's ``weights`` fit into; None if there are none."""
        told = weights.get(f"{PART}steps.layers.{LAST}.bias")
        if told is None:
            return None
        parts = [weights.get(f"{PART}bank.{name}") for name in ("latents", "blocks", "lengths")]
        latents, blocks, lengths = parts
        bank = None
        if latents is not None and blocks is not None and lengths is not None:
            bank = Bank(len(latents), len(lengths), latent_dim, blocks.shape[-1])
        return FarGoals(latent_dim, told.numel() - 1, 0, bank)
