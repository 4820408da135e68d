"""From frames to latents: a ViT or a CNN trained from scratch, and a projector with BatchNorm."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lewm_agent.config import EncoderConfig
from lewm_agent.models.color_jitter import jittered

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def projection_head(input_dim: int, config: EncoderConfig) -> nn.Sequential:
    """Linear, BatchNorm, GELU, Linear to a latent (stable-worldmodel ``wm/lewm/module.py``, class MLP).

    The BatchNorm makes the Gaussian target reachable: the LayerNorm that ends the ViT fixes the norm of its output.
    """
    hidden = config.projector_width
    norm = nn.BatchNorm1d(hidden) if config.head_norm == "batch" else nn.LayerNorm(hidden)
    return nn.Sequential(nn.Linear(input_dim, hidden), norm, nn.GELU(), nn.Linear(hidden, config.latent_dim))


class _ViT(VisionTransformer):
    """timm's ViT with its CLS token as output and Hugging Face's initialisation, which the released models have."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.encoder_width,
            depth=config.encoder_depth,
            num_heads=config.encoder_heads,
            num_classes=0,
            global_pool="token",
            norm_layer=partial(nn.LayerNorm, eps=1e-12),
        )
        self.apply(self._initialize)
        for name, parameter in self.named_parameters():
            if name in ("cls_token", "pos_embed"):
                nn.init.trunc_normal_(parameter, std=0.02)

    @staticmethod
    def _initialize(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class _CNN(nn.Sequential):
    """Strided 3 x 3 convolutions with BatchNorm, then one linear layer over the whole map, so that places are kept."""

    def __init__(self, config: EncoderConfig, features: int) -> None:
        strides = _prime_factors(config.patch_size)
        width = config.encoder_width
        channels = [3, *(min(width, width * 2**i // 4) for i in range(len(strides) - 1)), width]
        layers: list[nn.Module] = []
        for stride, (inputs, outputs) in zip(strides, itertools.pairwise(channels), strict=True):
            kernel = max(3, stride)
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.GELU()]
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
        if config.encoder == "vit":
            self.vit = _ViT(config)
        else:
            self.cnn = _CNN(config, features)
        self.projector = projection_head(features, config)
        side, mean = config.image_size, torch.tensor(IMAGENET_MEAN) * 255
        whole_frame = config.pixel_normalization == "mean_frame"
        self.register_buffer("pixel_mean", mean.repeat(side, side, 1) if whole_frame else mean)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD) * 255)

    def set_pixel_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Normalise by these from now on: mean frame (H, W, 3) and standard deviation (3,), in 0 to 255."""
        self.pixel_mean.copy_(mean)
        self.pixel_std.copy_(std.clamp(min=1.0))

    def normalize(self, frames: Tensor) -> Tensor:
        """Frames (B, H, W, 3) of 0 to 255 to (B, 3, H, W); the only place where pixels are normalised."""
        return ((frames.float() - self.pixel_mean) / self.pixel_std).permute(0, 3, 1, 2)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, H, W, 3) uint8 to latents (B, latent_dim); in training, of frames in changed colors."""
        if self.training and self.config.color_jitter:
            frames = jittered(frames, self.config.color_jitter)
        backbone = self.vit if self.backbone == "vit" else self.cnn
        latents: Tensor = self.projector(backbone(self.normalize(frames)))
        return latents
