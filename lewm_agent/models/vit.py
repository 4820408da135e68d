"""The ViT of the paper, from timm."""

from __future__ import annotations

from functools import partial

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lewm_agent.models.encoder import EncoderConfig


class ViT(VisionTransformer):
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
