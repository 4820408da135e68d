"""From frames to latents: a ViT trained from scratch, its CLS token, and a projector with BatchNorm."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lewm_agent.config import Initialization, ModelConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def projection_head(input_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    """Linear, BatchNorm, GELU, Linear (stable-worldmodel ``wm/lewm/module.py``, class MLP).

    The BatchNorm makes the Gaussian target reachable: the LayerNorm that ends the ViT fixes the norm of its output.
    """
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.GELU(), nn.Linear(hidden_dim, output_dim)
    )


def _initialize(vit: VisionTransformer, initialization: Initialization) -> None:
    """Draw all weights of a ViT anew.

    ``released`` is Hugging Face's initialisation, which the released models start from. At a width of 64 its standard
    deviation of 0.02 leaves attention uniform and every branch near zero for hundreds of steps; ``scaled`` does not.
    """
    scaled = initialization == "scaled"
    for module in vit.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            std = module.weight[0].numel() ** -0.5 if scaled else 0.02
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in vit.named_parameters():
        if name in ("cls_token", "pos_embed"):
            std = 0.5 if scaled and name == "pos_embed" else 0.02
            nn.init.trunc_normal_(parameter, std=std)


def _convolutional_stem(patch_size: int, width: int) -> nn.Sequential:
    """Overlapping convolutions that together have the stride of a patch (after arXiv 2106.14881).

    One per prime factor of the patch size, the channels doubling up to the width of the ViT.
    """
    strides = _prime_factors(patch_size)
    channels = [3, *(max(1, width >> halvings) for halvings in range(len(strides) - 1, -1, -1))]
    layers: list[nn.Module] = []
    for stride, (inputs, outputs) in zip(strides, itertools.pairwise(channels), strict=True):
        kernel = max(3, stride)
        layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _prime_factors(number: int) -> list[int]:
    divisor = next((d for d in range(2, number) if number % d == 0), number)
    return [divisor, *_prime_factors(number // divisor)] if divisor < number else [number]


class Encoder(nn.Module):
    """Frames (B, H, W, 3) uint8 to latents (B, latent_dim)."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vit = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.encoder_width,
            depth=config.encoder_depth,
            num_heads=config.encoder_heads,
            num_classes=0,
            global_pool="token",
            norm_layer=partial(nn.LayerNorm, eps=1e-12),
        )
        if config.encoder_stem == "convolutional":
            self.vit.patch_embed.proj = _convolutional_stem(config.patch_size, config.encoder_width)
        _initialize(self.vit, config.encoder_initialization)
        self.projector = projection_head(config.encoder_width, config.projector_width, config.latent_dim)
        side, mean = config.image_size, torch.tensor(IMAGENET_MEAN) * 255
        whole_frame = config.pixel_normalization == "mean_frame"
        self.register_buffer("pixel_mean", mean.repeat(side, side, 1) if whole_frame else mean)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD) * 255)

    def set_pixel_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Normalise by these from now on: mean frame (H, W, 3) and standard deviation (3,), in 0 to 255."""
        self.pixel_mean.copy_(mean)
        self.pixel_std.copy_(std.clamp(min=1.0))

    def forward(self, frames: Tensor) -> Tensor:
        """The only place where pixels are normalised."""
        pixels = (frames.float() - self.pixel_mean) / self.pixel_std
        latents: Tensor = self.projector(self.vit(pixels.permute(0, 3, 1, 2)))
        return latents
