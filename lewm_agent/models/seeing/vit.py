"""The ViT of the paper, from timm."""

from __future__ import annotations

from functools import partial

from timm.models.vision_transformer import VisionTransformer
from torch import nn


class ViT(VisionTransformer):
    """timm's ViT with its CLS token as output and Hugging Face's initialisation, which the released models have."""

    def __init__(self, image_size: int, patch_size: int, width: int, depth: int, heads: int) -> None:
        super().__init__(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
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
