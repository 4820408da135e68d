"""From frames to latents: a ViT or a CNN trained from scratch and a projector with BatchNorm, or moments of masks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_agent.models.clip import ClipConfig
from lewm_agent.models.seeing.augmentations import Augmentations
from lewm_agent.models.seeing.learned_masks import COARSEST, LearnedMasks
from lewm_agent.models.seeing.moments import NUMBERS, Moments
from lewm_agent.tools.checks import require, require_one_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


PixelNormalization = Literal["imagenet", "mean_frame"]
Backbone = Literal["vit", "cnn", "moments", "learned_masks"]
Activation = Literal["gelu", "relu"]


@dataclass(frozen=True)
class EncoderConfig(ClipConfig):
    """Sizes of an encoder that is trained from scratch. The defaults are LeWM's."""

    encoder: Backbone = "vit"
    """``vit`` reads the CLS token of a ViT; ``cnn`` is a few strided convolutions: shapes take it fewer steps; the
    latents of ``moments`` say where the things of each color are and how they lie
    (:mod:`lewm_agent.models.seeing.moments`); ``learned_masks`` is what ``lewm adapt`` makes of it: the same, and a
    network where the colors are others (:mod:`lewm_agent.models.seeing.learned_masks`).
    """
    masks: int = 2
    """Colors, and so many things, that ``moments`` follows; ``latent_dim`` is ten times that."""
    patch_size: int = 14
    """Side of a ViT patch, or stride of all convolutions together, in pixels; must divide ``image_size``."""
    encoder_width: int = 192
    """Size of a ViT token; channels after the last convolution."""
    encoder_depth: int = 12
    """Layers of the ViT; a CNN has one for each prime factor of ``patch_size``."""
    encoder_heads: int = 3
    activation: Activation = "gelu"
    """After each convolution of a CNN; ``relu`` costs a fifth of it on a CPU (``docs/findings/speed.md``)."""
    first_share: int = 4
    """A CNN begins with one in so many of the channels of ``encoder_width`` and doubles them in each convolution."""
    latent_dim: int = 192
    """Size of the latent vector of one frame."""
    projector_width: int = 2048
    """Hidden width of the projector and of the prediction head (Linear, BatchNorm, GELU, Linear)."""
    pixel_normalization: PixelNormalization = "imagenet"
    """Subtract ImageNet's mean colour, or the mean frame of the training data, and divide by the standard deviation of
    each colour around it."""
    augmentations: str = ""
    """In training, how the look of every frame is changed at random: ``look``, or parts with their strengths,
    ``colors=0.2,noise=0.01`` (:mod:`lewm_agent.models.seeing.augmentations`); empty for not at all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "augmentations", str(Augmentations.of(self.augmentations)))  # sets by their parts
        require(
            self.image_size % self.patch_size == 0,
            f"patch_size ({self.patch_size}) must divide image_size ({self.image_size})",
        )
        require(
            self.encoder_width % self.encoder_heads == 0,
            f"encoder_heads ({self.encoder_heads}) must divide encoder_width ({self.encoder_width})",
        )
        require(
            self.encoder_width >= self.first_share,
            f"first_share ({self.first_share}) must be at most encoder_width ({self.encoder_width})",
        )
        require_one_of("pixel_normalization", self.pixel_normalization, get_args(PixelNormalization))
        require_one_of("encoder", self.encoder, get_args(Backbone))
        require_one_of("activation", self.activation, get_args(Activation))
        if self.of_moments:
            self._check_moments()

    @property
    def of_moments(self) -> bool:
        """Whether latents are moments of masks, in whatever way these are found."""
        return self.encoder in ("moments", "learned_masks")

    def _check_moments(self) -> None:
        numbers = NUMBERS * self.masks
        require(
            self.latent_dim == numbers,
            f"latent_dim must be {numbers} with encoder `{self.encoder}` and {self.masks} masks, got {self.latent_dim}",
        )
        require(
            self.encoder != "moments" or not self.augmentations,
            f"augmentations must be empty with encoder `moments`, which knows things by their colors, got "
            f"{self.augmentations!r}: train without, and then adapt the model (lewm adapt)",
        )
        require(
            self.encoder != "learned_masks" or self.image_size % COARSEST == 0,
            f"image_size must be a multiple of {COARSEST} with encoder `learned_masks`, got {self.image_size}",
        )


def projection_head(input_dim: int, config: EncoderConfig) -> nn.Sequential:
    """Linear, BatchNorm, GELU, Linear to a latent (stable-worldmodel ``wm/lewm/module.py``, class MLP).

    The BatchNorm makes the Gaussian target reachable: the LayerNorm that ends the ViT fixes the norm of its output.
    """
    hidden = config.projector_width
    layers = nn.Linear(input_dim, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, config.latent_dim)
    return nn.Sequential(*layers)


class _CNN(nn.Sequential):
    """Strided 3 x 3 convolutions with BatchNorm, then one linear layer over the whole map, so that places are kept."""

    def __init__(self, config: EncoderConfig, features: int) -> None:
        strides = _prime_factors(config.patch_size)
        width = config.encoder_width
        channels = [3, *(min(width, width * 2**i // config.first_share) for i in range(len(strides) - 1)), width]
        layers: list[nn.Module] = []
        for stride, (inputs, outputs) in zip(strides, itertools.pairwise(channels), strict=True):
            kernel = max(3, stride)
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias=False)
            activation = nn.ReLU(inplace=True) if config.activation == "relu" else nn.GELU()
            layers += [convolution, nn.BatchNorm2d(outputs), activation]
        pixels = (config.image_size // config.patch_size) ** 2
        super().__init__(*layers, nn.Flatten(), nn.Linear(width * pixels, features))


def _prime_factors(number: int) -> list[int]:
    divisor = next((d for d in range(2, number) if number % d == 0), number)
    return [divisor, *_prime_factors(number // divisor)] if divisor < number else [number]


class Encoder(nn.Module):
    """Frames (B, H, W, 3) uint8 to latents (B, latent_dim)."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder_width
        features = width if config.encoder == "vit" else 4 * width
        self.backbone = config.encoder
        self.look = Augmentations.of(config.augmentations)
        if config.of_moments:
            self.moments = Moments(config.masks, config.image_size)
        if config.encoder == "learned_masks":
            self.learned_masks = LearnedMasks(config.masks, config.image_size, width)
        if config.encoder == "vit":
            from lewm_agent.models.seeing.vit import ViT  # timm is slow to import, and a CNN needs none of it

            depth, heads = config.encoder_depth, config.encoder_heads
            self.vit = ViT(config.image_size, config.patch_size, width, depth, heads)
        if config.encoder == "cnn":
            self.cnn = _CNN(config, features)
        self.projector = nn.Identity() if config.of_moments else projection_head(features, config)
        side, mean = config.image_size, torch.tensor(IMAGENET_MEAN) * 255
        whole_frame = config.pixel_normalization == "mean_frame"
        self.register_buffer("pixel_mean", mean.repeat(side, side, 1) if whole_frame else mean)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD) * 255)

    def set_pixel_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Normalise by these from now on: mean frame (H, W, 3) and standard deviation (3,), in 0 to 255."""
        self.pixel_mean.copy_(mean)
        self.pixel_std.copy_(std.clamp(min=1.0))

    @property
    def starts_from_frames(self) -> bool:
        """Whether :meth:`start_from` is due before training."""
        return self.backbone == "moments"

    def start_from(self, frames: Tensor) -> None:
        """Take what an encoder of moments begins with from frames (N, H, W, 3) uint8 of the training data."""
        self.moments.start_from(frames)

    def normalize(self, frames: Tensor) -> Tensor:
        """Frames (B, H, W, 3) of 0 to 255 to (B, 3, H, W); the only place where pixels are normalised."""
        return frames.to(torch.float32, copy=True).sub_(self.pixel_mean).div_(self.pixel_std).permute(0, 3, 1, 2)

    def thumbnails(self, frames: Tensor, side: int) -> Tensor:
        """Frames (B, H, W, 3) of 0 to 255 averaged down to normalised pictures (B, 3, side, side).

        The averages are two matrix products over columns and rows, and what is left is normalised.
        """
        whole = self.config.image_size
        average = functional.adaptive_avg_pool1d(torch.eye(whole, device=frames.device)[None], side)[0]

        def averaged(pictures: Tensor) -> Tensor:
            rows = (average.T @ pictures.flatten(2)).unflatten(2, (whole, 3))
            across = torch.kron(average, torch.eye(3, device=frames.device))
            return (rows.flatten(2) @ across).unflatten(2, (side, 3))

        with torch.autocast(frames.device.type, enabled=False):  # bfloat16 would round 255 grey levels
            mean = averaged(self.pixel_mean.expand(1, whole, whole, 3))
            return ((averaged(frames.float()) - mean) / self.pixel_std).permute(0, 3, 1, 2)

    def as_pixels(self, pictures: Tensor) -> Tensor:
        """Normalised square pictures (B, 3, side, side) of any size as 0 to 255; inverse of :meth:`thumbnails`."""
        mean = self.pixel_mean.expand(self.config.image_size, self.config.image_size, 3).permute(2, 0, 1)
        return pictures * self.pixel_std[:, None, None] + functional.adaptive_avg_pool2d(mean, pictures.shape[-1])

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, H, W, 3) uint8 to latents (B, latent_dim); in training, of frames in another look."""
        return self.see(self.look(frames) if self.training and self.look else frames)

    def see(self, frames: Tensor) -> Tensor:
        """Latents (B, latent_dim) of frames (B, H, W, 3), 0 to 255, as they are."""
        if self.backbone == "moments":
            moments: Tensor = self.moments(frames)
            return moments
        if self.backbone == "learned_masks":
            return self._in_any_look(frames)
        backbone = self.vit if self.backbone == "vit" else self.cnn
        latents: Tensor = self.projector(backbone(self.normalize(frames)))
        return latents

    def _in_any_look(self, frames: Tensor) -> Tensor:
        """Moments of exact masks, or of the network's where the known colors do not explain a frame."""
        latents, left = self.moments.explained(frames)
        strange = left > self.learned_masks.strange_above
        if strange.any():
            latents = latents.clone()
            latents[strange] = self.learned_masks(self.normalize(frames[strange])).to(latents.dtype)
        return latents
