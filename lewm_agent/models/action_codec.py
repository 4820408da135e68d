"""Actions to the blocks that models work with, and back: the only place where either happens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ActionCodec:
    """Between an environment's actions, their z-scores, and blocks: the z-scores of ``frame_skip`` actions in a row.

    Attributes:
        mean: of the data's actions (action_dim,), in the environment's units.
        std: their standard deviation (action_dim,).
        frame_skip: actions in a block.
    """

    mean: Tensor
    std: Tensor
    frame_skip: int

    def normalize(self, actions: Tensor) -> Tensor:
        """Actions (..., action_dim) in the environment's units to z-scores."""
        return (actions - self.mean) / self.std

    def denormalize(self, scores: Tensor) -> Tensor:
        """Inverse of :meth:`normalize`."""
        return scores * self.std + self.mean

    def blocks(self, actions: Tensor) -> Tensor:
        """Actions (..., frame_skip, action_dim) in the environment's units to a block (..., block_dim) each."""
        return self.normalize(actions).flatten(-2)

    def actions(self, blocks: Tensor) -> Tensor:
        """Inverse of :meth:`blocks`."""
        return self.denormalize(blocks.unflatten(-1, (self.frame_skip, -1)))

    def joined(self, scores: Tensor) -> Tensor:
        """Z-scores of actions in a row (..., P * frame_skip, action_dim) to blocks (..., P, block_dim)."""
        return scores.unflatten(-2, (-1, self.frame_skip)).flatten(-2)

    def split(self, blocks: Tensor) -> Tensor:
        """Inverse of :meth:`joined`."""
        return blocks.unflatten(-1, (self.frame_skip, -1)).flatten(-3, -2)
