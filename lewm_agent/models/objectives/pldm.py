"""PLDM's objective: prediction, and VICReg's variance and covariance terms against collapse (arXiv 2502.14819).

The preset is the one that LeWM was compared with (arXiv 2603.19312, table 2, and stable-worldmodel
``scripts/train/pldm.py``): 18 x variance, 12 x covariance, 0.7 x variance in time, 0.2 x smoothness; covariance in time
and inverse dynamics are off. It was found by a grid search on Push-T. The original PLDM differs in more than
coefficients: its variance term looks at the first frame of a clip only, and its encoder, its recurrent or convolutional
predictor and its MPPI planner are others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from lewm_agent.models import ranks, whole_batch
from lewm_agent.models.objectives.base import EncodedClip, Objective, ObjectiveSettings, Terms
from lewm_agent.models.objectives.registry import register
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.tools.checks import require

INVERSE_WIDTH = 512
"""Hidden width of the inverse-dynamics term's network (stable-worldmodel ``config/pldm.yaml``)."""


@dataclass(frozen=True)
class PLDMConfig(ObjectiveSettings):
    """Weights of the terms beside prediction (arXiv 2603.19312, table 2)."""

    variance_weight: float = 18.0
    """Of the standard deviations over the batch that are below 1."""
    covariance_weight: float = 12.0
    """Of the squared covariances over the batch."""
    temporal_variance_weight: float = 0.7
    """Of the standard deviations over a clip's frames that are below 1."""
    temporal_covariance_weight: float = 0.0
    """Of the squared covariances over a clip's frames."""
    smoothness_weight: float = 0.2
    """Of the squared change from one frame to the next."""
    inverse_weight: float = 0.0
    """Of the error of the action block that a network of its own reads off two successive latents; 0 makes none."""

    def __post_init__(self) -> None:
        for field in fields(self):
            require(getattr(self, field.name) >= 0, f"{field.name} must not be negative")


def variance_hinge(samples: Tensor, *, whole: bool = False) -> Tensor:
    """How far standard deviations fall short of 1 (VICReg, arXiv 2105.04906, equation 1), averaged over all.

    Args:
        samples: (..., N, D); unbiased variance over N, plus 1e-4 under the root.
        whole: over the N of all ranks.
    """
    variances = whole_batch.variance(samples) if whole else samples.var(dim=-2)
    deviations = (variances + 1e-4).sqrt()
    return (1 - deviations).relu().mean()


def covariance_energy(centred: Tensor, *, whole: bool = False) -> Tensor:
    """Mean square of the covariances between different components (VICReg, equation 4, but divided by D^2 - D).

    Args:
        centred: (..., N, D), N samples; the covariance is the sum of products over N - 1.
        whole: over the N of all ranks.
    """
    count, size = centred.shape[-2:]
    products = centred.transpose(-1, -2) @ centred
    if whole:
        products, count = whole_batch.mean(products) * ranks.count(), count * ranks.count()
    covariance = products / (count - 1)
    between = covariance.square().sum((-1, -2)) - covariance.diagonal(dim1=-2, dim2=-1).square().sum(-1)
    return (between / (size**2 - size)).mean()


def collapse_terms(latents: Tensor) -> Terms:
    """Variance, covariance and smoothness of latents (B, T, D), over the batch and over time, in float32.

    As in the released code, the mean over the batch is taken off before those over time too.
    """
    with torch.autocast(latents.device.type, enabled=False):
        latents = latents.float()
        centred = latents - whole_batch.mean(latents.mean(dim=0))
        over_batch = centred.transpose(0, 1)
        return {
            "variance": variance_hinge(over_batch, whole=True),
            "covariance": covariance_energy(over_batch, whole=True),
            "temporal_variance": variance_hinge(centred),
            "temporal_covariance": covariance_energy(centred),
            "smoothness": latents.diff(dim=1).square().mean(),
        }


class PLDM(Objective):
    """Prediction + VICReg over the batch and over time + smoothness + inverse dynamics."""

    def __init__(self, settings: PLDMConfig, model: ModelConfig) -> None:
        super().__init__(settings, model)
        self.weights = settings
        self.inverse = _inverse_network(model) if settings.inverse_weight else None

    def forward(self, clip: EncodedClip) -> tuple[Tensor, Terms]:
        """The total and its terms; what has weight 0 is told all the same, but for inverse dynamics."""
        terms = {"prediction": clip.prediction_error, **collapse_terms(clip.latents)}
        if self.inverse is not None:
            pairs = torch.cat([clip.latents[:, 1:], clip.latents[:, :-1]], dim=-1)
            terms["inverse"] = (self.inverse(pairs) - clip.blocks).square().mean()
        weighted = [
            getattr(self.weights, f"{name}_weight") * term for name, term in terms.items() if name != "prediction"
        ]
        return terms["prediction"] + torch.stack(weighted).sum(), terms


def _inverse_network(model: ModelConfig) -> nn.Module:
    return nn.Sequential(
        nn.Linear(2 * model.latent_dim, INVERSE_WIDTH),
        nn.LayerNorm(INVERSE_WIDTH),
        nn.GELU(),
        nn.Linear(INVERSE_WIDTH, model.block_dim),
    )


register("pldm", PLDMConfig, PLDM)
