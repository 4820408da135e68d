"""LeWM's objective: next-latent prediction and SIGReg (arXiv 2603.19312), and three terms of ours, off by default."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from lewm_agent.config import ModelConfig, ObjectiveConfig
from lewm_agent.models.objectives.base import EncodedClip, Objective, Terms
from lewm_agent.models.objectives.registry import register
from lewm_agent.models.objectives.sigreg import SIGReg


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
        self.sigreg = SIGReg(
            settings.sigreg_projections,
            settings.sigreg_knots,
            latent_dim=model.latent_dim,
            subspaces=settings.sigreg_subspaces,
        )

    def forward(self, clip: EncodedClip) -> tuple[Tensor, Terms]:
        """The total and its terms; those that are switched off are 0, but straightness is always told."""
        # The order decides what a seed trains to: dropout and SIGReg draw random numbers, and gradients are added up.
        weights, nothing = self.weights, clip.encoded.new_zeros(())
        reconstruction = _reconstruction_error(clip) if self.needs_decoder else nothing
        inverse = _inverse_error(clip) if clip.blocks_to_goal is not None else nothing
        latents, prediction = clip.latents, clip.prediction_error
        sigreg = self.sigreg(latents.transpose(0, 1))
        straight = straightness(latents) if latents.shape[1] > 2 else nothing
        total = prediction + weights.sigreg_weight * sigreg - weights.straightening_weight * straight
        total = total + weights.inverse_weight * inverse + weights.reconstruction_weight * reconstruction
        terms = {"prediction": prediction, "sigreg": sigreg, "straightness": straight}
        terms |= {"inverse": inverse, "reconstruction": reconstruction}
        if weights.cross_time_weight:
            terms["cross_time"] = self.sigreg(latents.diff(dim=1).transpose(0, 1) / math.sqrt(2))
            total = total + weights.cross_time_weight * terms["cross_time"]
        return total, terms


def _reconstruction_error(clip: EncodedClip) -> Tensor:
    """Error of pictures decoded from the first and the last latent of every clip; the others cost too much."""
    decoder = clip.model.decoder
    if decoder is None:
        raise ValueError("objective.reconstruction_weight needs a model with a decoder")
    pixels = clip.model.encoder.normalize(clip.frames[:, [0, -1]].flatten(0, 1))
    return decoder.error(clip.encoded[:, [0, -1]].flatten(0, 1), pixels)


def _inverse_error(clip: EncodedClip) -> Tensor:
    """Error of the block proposed at each of the T - 1 frames that one leaves, towards the goal."""
    head = clip.model.inverse_dynamics
    if head is None or clip.blocks_to_goal is None:
        raise ValueError("objective.inverse_weight needs a model with an inverse-dynamics head, and clips with goals")
    steps = clip.blocks.shape[1]
    left = clip.blocks_to_goal[:, None] + torch.arange(steps, 0, -1, device=clip.blocks.device)
    goals = clip.encoded[:, -1:].expand(-1, steps, -1)
    error: Tensor = head(clip.encoded[:, :steps], goals, left) - clip.blocks
    return error.square().mean()


register("lewm", ObjectiveConfig, LeWM)
