"""What every objective is given, and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor, nn

from lewm_agent.models.encoder import Encoder
from lewm_agent.models.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.models.thumbnail_decoder import ThumbnailDecoder

Terms = dict[str, Tensor]
"""Scalars by name; the trainer logs them."""


@dataclass(frozen=True)
class ObjectiveSettings:
    """What the settings of every objective derive from (:mod:`lewm_agent.models.objectives`)."""

    def check(self, model: ModelConfig, head: InverseDynamicsConfig | None) -> None:
        """Raise ``ValueError`` unless the rest of the configuration has what the objective needs."""

    def goal_blocks(self, model: ModelConfig, head: InverseDynamicsConfig | None) -> int | None:
        """Furthest goal that clips come with, in action blocks after the clip; None for clips without a goal."""
        return None


class Predictive(Protocol):
    """What objectives use of a world model."""

    encoder: Encoder
    inverse_dynamics: InverseDynamics | None
    decoder: ThumbnailDecoder | None

    def taught(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Next latents (B, T, latent_dim) from latents and normalised blocks (B, T, block_dim), as in training."""


@dataclass(frozen=True)
class EncodedClip:
    """A batch of clips and what the world model makes of them.

    Attributes:
        model: The world model, for its heads and for its normalisation of pixels.
        frames: (B, T, H, W, 3) uint8; with goals, one more frame, the goal.
        encoded: (B, T or T + 1, latent_dim), the latents of all frames, with gradient.
        blocks: (B, T - 1, block_dim), the normalised action blocks between the T frames.
        blocks_to_goal: (B,), action blocks from frame T - 1 to the goal, at least 0; None without goals.
    """

    model: Predictive
    frames: Tensor
    encoded: Tensor
    blocks: Tensor
    blocks_to_goal: Tensor | None = None

    @cached_property
    def latents(self) -> Tensor:
        """(B, T, latent_dim), without the goals."""
        return self.encoded if self.blocks_to_goal is None else self.encoded[:, :-1]

    @cached_property
    def predicted(self) -> Tensor:
        """The latents (B, T - 1, latent_dim) of frames 1 to T - 1 as predicted in training, with gradient."""
        return self.model.taught(self.latents[:, :-1], self.blocks)

    @cached_property
    def prediction_error(self) -> Tensor:
        """Mean squared error of :attr:`predicted` (a scalar); the latents to be predicted have a gradient too."""
        return (self.predicted - self.latents[:, 1:]).square().mean()


class Objective(nn.Module, ABC):
    """Turns an encoded batch into a loss; its own trainable parts, if any, are saved as ``objective.*``.

    Args:
        settings: its weights and sizes.
        model: sizes of the world model, for parts of its own.
    """

    needs_decoder = False
    """Whether the world model gets a decoder of small pictures for it (:mod:`lewm_agent.models.thumbnail_decoder`)."""

    def __init__(self, settings: Any, model: ModelConfig) -> None:
        super().__init__()
        self.settings = settings

    @abstractmethod
    def forward(self, clip: EncodedClip) -> tuple[Tensor, Terms]:
        """The total to be minimised (a scalar), and its terms as they are before weighting."""
