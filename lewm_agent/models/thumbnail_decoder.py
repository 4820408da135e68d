"""From latents back to small pictures: an optional term of the loss, for what the other terms leave out."""

from __future__ import annotations

from torch import Tensor, nn

from lewm_agent.models import whole_batch
from lewm_agent.models.predictor import ModelConfig

SIDE = 24
"""Height and width of the pictures, in pixels."""
_CHANNELS = 64
_SMALLEST = 6  # side of the map that the latent is spread over; doubled twice


class ThumbnailDecoder(nn.Sequential):
    """Latents (B, latent_dim) to pictures (B, 3, 24, 24) in normalised pixels.

    The paper's appendix has training with reconstruction too: 86 instead of 96 % on Push-T (arXiv 2603.19312).
    """

    def __init__(self, config: ModelConfig) -> None:
        spread = _CHANNELS * _SMALLEST**2
        super().__init__(
            nn.Linear(config.latent_dim, spread, bias=False),
            nn.BatchNorm1d(spread),
            nn.GELU(),
            nn.Unflatten(1, (_CHANNELS, _SMALLEST, _SMALLEST)),
            nn.ConvTranspose2d(_CHANNELS, _CHANNELS // 2, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(_CHANNELS // 2),
            nn.GELU(),
            nn.ConvTranspose2d(_CHANNELS // 2, 3, 4, stride=2, padding=1),
        )

    def error(self, latents: Tensor, target: Tensor) -> Tensor:
        """Squared error of the pictures as a share of what an always average picture would leave (a scalar).

        Args:
            latents: (B, latent_dim).
            target: (B, 3, 24, 24), normalised.
        """
        return (self(latents) - target).square().mean() / whole_batch.mean(target.square().mean())
