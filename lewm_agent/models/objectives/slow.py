"""Prediction alone, in the metric that one plans with, and robust: for an encoder of moments that is left as it is.

The mean square of plain latents is mostly of what cannot be foreseen or matters little: the shape of a disk, which is
noise, or a thing that is half out of the picture. Here errors are measured by how slowly each direction changes
(:mod:`lewm_agent.training.slow_metric`), and large ones count by their size instead of their square.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.models.objectives.base import EncodedClip, Objective, ObjectiveSettings, Terms
from lewm_agent.models.objectives.registry import register
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.tools.checks import require

USUAL_CHANGE = 3.0
"""Median change of a latent in one block, in the unit of errors; much larger ones count by size, smaller by square."""


@dataclass(frozen=True)
class SlowConfig(ObjectiveSettings):
    """The metric of prediction errors."""

    power: float = 1.5
    """How much more the slow counts than the fast; between 1 and 2 the agent is foreseen well enough to push."""

    def __post_init__(self) -> None:
        require(self.power > 0, f"power must be positive, got {self.power}")

    def check(self, model: ModelConfig, head: InverseDynamicsConfig | None) -> None:
        """Raise ``ValueError`` unless latents exist before training, from which the metric is taken."""
        require(model.of_moments, f"objective `slow` needs model.encoder `moments`, got `{model.encoder}`")


class SlowPrediction(Objective):
    """Pseudo-Huber loss of the predicted latents, in a metric that is taken from the data before training."""

    metric: Tensor
    """(latent_dim, latent_dim), zero until it has been taken."""

    def __init__(self, settings: SlowConfig, model: ModelConfig) -> None:
        super().__init__(settings, model)
        self.power = settings.power
        self.history = model.history
        self.register_buffer("metric", torch.zeros(model.latent_dim, model.latent_dim))

    def take(self, metric: Tensor, changes: Tensor) -> None:
        """Measure errors by this metric (D, D) from now on, in a unit that fits the changes (N, D) of latents."""
        usual = (changes @ metric).norm(dim=-1).median()
        self.metric.copy_(metric * (USUAL_CHANGE / usual))

    def forward(self, clip: EncodedClip) -> tuple[Tensor, Terms]:
        """The loss, and the plain mean square beside it."""
        first = self.history - 1  # of a clip's history nothing is predicted
        error = (clip.predicted - clip.latents[:, 1:])[:, first:]
        squares = (error @ self.metric).square().sum(dim=-1)
        loss = (torch.sqrt(1 + squares) - 1).mean()
        return loss, {"slow": loss, "prediction": error.square().mean()}


register("slow", SlowConfig, SlowPrediction)
