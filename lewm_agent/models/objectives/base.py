"""What every objective is given, and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.models.objectives import registry
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.tools.settings import OfSeveralKinds

Terms = dict[str, Tensor]
"""Scalars by name; the trainer logs them."""


@dataclass(frozen=True)
class ObjectiveSettings(OfSeveralKinds):
    """What the settings of every objective derive from (:mod:`lewm_agent.models.objectives`)."""

    family: ClassVar[str] = "objective"

    @classmethod
    def kinds(cls) -> Mapping[str, type[Any]]:
        """Of every registered objective."""
        return {name: entry.settings for name, entry in registry.entries().items()}

    def check(self, model: ModelConfig, head: InverseDynamicsConfig | None) -> None:
        """Raise ``ValueError`` unless the rest of the configuration has what the objective needs."""

    def goal_blocks(self, model: ModelConfig, head: InverseDynamicsConfig | None) -> int | None:
        """Furthest goal that clips come with, in action blocks after the clip; None for clips without a goal."""
        return None


@dataclass(frozen=True)
class EncodedClip:
    """A batch of clips as the world model sees it: tensors alone, all but the actions with gradient.

    Attributes:
        latents: (B, T, latent_dim), of the clips' frames.
        blocks: (B, T - 1, block_dim), the normalised action blocks between them.
        predicted: (B, T - 1, latent_dim), the latents of frames 1 to T - 1 as predicted in training.
        taught: (B, T, latent_dim), the teacher's latents of the clips' frames, without gradient; None without one.
        goals: (B, latent_dim), of a later frame of each clip's episode; None without goals.
        blocks_to_goal: (B,), action blocks from frame T - 1 to the goal, at least 0; None likewise.
        proposed: (B, T - 1, block_dim), what the inverse-dynamics head proposes instead of ``blocks`` to get to the
            goal; None without goals or head.
        reconstruction_error: Of small pictures decoded from the latents of the first and the last frame shown (a
            scalar); None without a decoder.
    """

    latents: Tensor
    blocks: Tensor
    predicted: Tensor
    taught: Tensor | None = None
    goals: Tensor | None = None
    blocks_to_goal: Tensor | None = None
    proposed: Tensor | None = None
    reconstruction_error: Tensor | None = None

    @property
    def prediction_error(self) -> Tensor:
        """Mean squared error of :attr:`predicted` (a scalar); the latents to be predicted have a gradient too."""
        return (self.predicted - self.latents[:, 1:]).square().mean()


class Objective(nn.Module, ABC):
    """Turns an encoded batch into a loss; its own trainable parts, if any, are saved as ``objective.*``.

    Args:
        settings: its weights and sizes.
        model: sizes of the world model, for parts of its own.
    """

    teacher_momentum: Callable[[float], float] | None = None
    """Share of the teacher that a step leaves, after a share of the training; None: the world model gets no teacher, a
    copy of the encoder that follows it slowly."""
    needs_decoder = False
    """Whether the world model gets a decoder of small pictures for it (:mod:`lewm_agent.models.thumbnail_decoder`)."""

    def __init__(self, settings: Any, model: ModelConfig) -> None:
        super().__init__()
        self.settings = settings

    @abstractmethod
    def forward(self, clip: EncodedClip) -> tuple[Tensor, Terms]:
        """The total to be minimised (a scalar), and its terms as they are before weighting."""
