"""Prediction of latents that are not to be moved: those of a teacher that follows the encoder, or a stopped gradient.

What keeps latents from collapsing here is neither SIGReg nor variance: the gradient does not go through what is to be
predicted, and that is made by an exponential moving average of the encoder (BYOL, arXiv 2006.07733; I-JEPA, arXiv
2301.08243; V-JEPA, arXiv 2404.08471). Encoder and teacher end in the same projection as with the other objectives; its
BatchNorm is that of the whole batch for both.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lewm_agent.models.objectives.base import EncodedClip, Objective, ObjectiveSettings, Terms
from lewm_agent.models.objectives.registry import register
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.tools.checks import require


@dataclass(frozen=True)
class EmaConfig(ObjectiveSettings):
    """How slowly the teacher follows; the momentum rises linearly over the training (I-JEPA, its configuration)."""

    momentum: float = 0.996
    """Share of the teacher that a step leaves, at the beginning; 0 without a teacher: the encoder's own latents, whose
    gradient is stopped."""
    final_momentum: float = 1.0
    """At the end."""

    def __post_init__(self) -> None:
        for name in ("momentum", "final_momentum"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be in [0, 1], got {getattr(self, name)}")
        require(
            self.final_momentum >= self.momentum,
            f"final_momentum ({self.final_momentum}) must be at least momentum ({self.momentum})",
        )

    def momentum_at(self, progress: float) -> float:
        """Momentum after a share ``progress`` of the training, 0 to 1."""
        return self.momentum + (self.final_momentum - self.momentum) * progress


class EmaPrediction(Objective):
    """Mean squared error of the predicted latents to the teacher's."""

    def __init__(self, settings: EmaConfig, model: ModelConfig) -> None:
        super().__init__(settings, model)
        self.teacher_momentum = settings.momentum_at if settings.momentum else None

    def forward(self, clip: EncodedClip) -> tuple[Tensor, Terms]:
        """The loss; it has no other term."""
        targets = clip.latents.detach() if clip.taught is None else clip.taught
        error = (clip.predicted - targets[:, 1:]).square().mean()
        return error, {"prediction": error}


register("ema", EmaConfig, EmaPrediction)
