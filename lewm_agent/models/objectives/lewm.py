"""LeWM's objective: next-latent prediction and SIGReg (arXiv 2603.19312), and three terms of ours, off by default."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.models.objectives.base import EncodedClip, Objective, ObjectiveSettings, Terms
from lewm_agent.models.objectives.registry import register
from lewm_agent.models.objectives.sigreg import SIGReg
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.tools.checks import require


@dataclass(frozen=True)
class ObjectiveConfig(ObjectiveSettings):
    """LeWM's loss: next-latent prediction + weighted SIGReg (arXiv 2603.19312, equation 3; released weights)."""

    sigreg_weight: float = 0.09
    """Lambda of the released code (the paper's text says 0.1)."""
    sigreg_projections: int = 1024
    """Random directions drawn afresh at every step."""
    sigreg_knots: int = 17
    """Quadrature nodes on [0, 3]."""
    straightening_weight: float = 0.0
    """Weight of minus the mean cosine between successive latent velocities; 0 leaves the paper's two terms."""
    inverse_weight: float = 0.0
    """Weight of the error of the inverse-dynamics head, whose gradient then also shapes the latents."""
    reconstruction_weight: float = 0.0
    """Weight of the error of small pictures decoded from the latents."""

    def __post_init__(self) -> None:
        for name in (name for name in dataclasses.asdict(self) if name.endswith("_weight")):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        require(self.sigreg_projections >= 1, f"sigreg_projections must be at least 1, got {self.sigreg_projections}")
        require(self.sigreg_knots >= 2, f"sigreg_knots must be at least 2, got {self.sigreg_knots}")

    def check(self, model: ModelConfig, head: InverseDynamicsConfig | None) -> None:
        """Raise ``ValueError`` unless there are the velocities and the head that the terms need."""
        require(
            model.clip_frames > 2 or not self.straightening_weight,
            "objective.straightening_weight needs a model.history of at least 2: it compares two successive velocities",
        )
        require(head is not None or not self.inverse_weight, "objective.inverse_weight needs inverse_dynamics")

    def goal_blocks(self, model: ModelConfig, head: InverseDynamicsConfig | None) -> int | None:
        """As far as the inverse-dynamics head looks, if it is trained with the rest."""
        return head.furthest - model.clip_frames + 1 if head and self.inverse_weight else None


def straightness(latents: Tensor) -> Tensor:
    """Mean cosine between successive latent velocities (arXiv 2603.19312, equation 9).

    Args:
        latents: (B, T, D) with T >= 3.
    """
    velocity = latents.diff(dim=1)
    return functional.cosine_similarity(velocity[:, 1:], velocity[:, :-1], dim=-1).mean()


class LeWM(Objective):
    """Prediction + weighted SIGReg (equations 1 to 3); straightening, inverse dynamics and reconstruction on demand."""

    def __init__(self, settings: ObjectiveConfig, model: ModelConfig) -> None:
        super().__init__(settings, model)
        self.weights = settings
        self.needs_decoder = settings.reconstruction_weight > 0
        self.sigreg = SIGReg(settings.sigreg_projections, settings.sigreg_knots)

    def forward(self, clip: EncodedClip) -> tuple[Tensor, Terms]:
        """The total and its terms; those that are switched off are 0, but straightness is always told."""
        weights, nothing = self.weights, clip.latents.new_zeros(())
        reconstruction = nothing if clip.reconstruction_error is None else clip.reconstruction_error
        inverse = nothing if clip.proposed is None else (clip.proposed - clip.blocks).square().mean()
        latents, prediction = clip.latents, clip.prediction_error
        sigreg = self.sigreg(latents.transpose(0, 1)) if latents.requires_grad or not self.training else nothing
        straight = straightness(latents) if latents.shape[1] > 2 else nothing
        total = prediction + weights.sigreg_weight * sigreg - weights.straightening_weight * straight
        total = total + weights.inverse_weight * inverse + weights.reconstruction_weight * reconstruction
        terms = {"prediction": prediction, "sigreg": sigreg, "straightness": straight}
        terms |= {"inverse": inverse, "reconstruction": reconstruction}
        return total, terms


register("lewm", ObjectiveConfig, LeWM)
