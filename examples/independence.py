"""Two controls on SIGReg, as an objective of their own: latents that are normal also in time, or only in subspaces.

``eval/ablation.py --register examples/independence.py --objective independence`` trains on it
(docs/findings/analysis.md#ablations).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.models.objectives.base import EncodedClip, Terms
from lewm_agent.models.objectives.lewm import LeWM, ObjectiveConfig
from lewm_agent.models.objectives.registry import register
from lewm_agent.models.objectives.sigreg import SIGReg
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.tools.checks import require


@dataclass(frozen=True)
class IndependenceConfig(ObjectiveConfig):
    """LeWM's terms, and these."""

    sigreg_projections: int = 256
    """As in the presets for two CPU cores."""
    cross_time_weight: float = 0.0
    """Weight of SIGReg on the change from one latent to the next, divided by the root of 2: standard normal only where
    successive latents are independent. A control, against the paper's idea that freedom in time straightens latents."""
    subspaces: int = 1
    """Fixed random subspaces of latent_dim / this many dimensions that the directions lie in: LeWM 1, Sub-JEPA 32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        most = self.sigreg_projections
        require(1 <= self.subspaces <= most, f"subspaces must be 1 to sigreg_projections, got {self.subspaces}")

    def check(self, model: ModelConfig, head: InverseDynamicsConfig | None) -> None:
        """Raise ``ValueError`` unless the latent can be divided into the subspaces."""
        super().check(model, head)
        size = model.latent_dim
        require(size % self.subspaces == 0, f"objective.subspaces ({self.subspaces}) must divide latent_dim ({size})")


class SubspaceSIGReg(SIGReg):
    """SIGReg whose directions lie in K fixed random subspaces of D / K dimensions.

    Within each, latents are asked to be standard normal, and nothing is asked of how the subspaces relate (Sub-JEPA, 32
    subspaces of 6 dimensions, arXiv 2605.09241).
    """

    bases: Tensor
    """(K, D, D / K), orthonormal columns."""

    def __init__(self, projections: int, knots: int, latent_dim: int, subspaces: int) -> None:
        super().__init__(projections, knots)
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(subspaces, latent_dim, latent_dim // subspaces, generator=generator)
        self.register_buffer("bases", torch.linalg.qr(random).Q, persistent=False)

    def directions(self, latents: Tensor) -> Tensor:
        """(D, projections) columns, not of unit length."""
        subspaces, _, size = self.bases.shape
        within = torch.randn(subspaces, size, self.projections // subspaces, device=latents.device)
        return (self.bases @ within).transpose(0, 1).flatten(1)


class Independence(LeWM):
    """LeWM's objective with SIGReg in subspaces, and SIGReg on changes."""

    def __init__(self, settings: IndependenceConfig, model: ModelConfig) -> None:
        super().__init__(settings, model)
        self.cross_time_weight = settings.cross_time_weight
        if settings.subspaces > 1:
            sizes = settings.sigreg_projections, settings.sigreg_knots
            self.sigreg = SubspaceSIGReg(*sizes, model.latent_dim, settings.subspaces)

    def forward(self, clip: EncodedClip) -> tuple[Tensor, Terms]:
        """The total and its terms."""
        total, terms = super().forward(clip)
        terms["cross_time"] = self.sigreg(clip.latents.diff(dim=1).transpose(0, 1) / math.sqrt(2))
        return total + self.cross_time_weight * terms["cross_time"], terms


register("independence", IndependenceConfig, Independence)
