"""Encoders that are not trained any more: of a world model, or a ViT that timm has."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_agent.checkpoints import checkpoint, hub
from lewm_agent.checkpoints.checkpoint import CheckpointError
from lewm_agent.config import AgentConfig
from lewm_agent.models.clip import ClipConfig
from lewm_agent.models.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, EncoderConfig
from lewm_agent.models.objectives import registry
from lewm_agent.training.settings import AgentSettings


@dataclass(frozen=True)
class SeeingConfig(ClipConfig):
    """Sizes of what sees by convolutions of its own, or by an encoder that does not learn any more."""

    frame_skip: int = 2
    """Environment steps that an action is repeated for."""
    seen: EncoderConfig | None = None
    """Sizes of a frozen encoder; filled in from ``frozen``."""


class SeeingSettings(AgentSettings, Protocol):
    """What the configurations of agents have that may take over an encoder."""

    @property
    def model(self) -> SeeingConfig:
        """Sizes."""

    @property
    def frozen(self) -> str | None:
        """Bundled name, folder or Hub id of a world model whose encoder sees, and does not learn."""


def with_encoder(config: Any) -> Any:
    """:class:`SeeingSettings` with the sizes of the encoder that is to be taken over, if there is one.

    Raises:
        CheckpointError: the world model cannot be had.
    """
    if config.frozen is None:
        return config
    seen, _ = read_encoder(config.frozen)
    model = dataclasses.replace(config.model, seen=seen, image_size=seen.image_size)
    return dataclasses.replace(config, model=model)


def encoder_part(model: EncoderConfig, **changes: Any) -> EncoderConfig:
    """The encoder's sizes alone, without those of a predictor."""
    return EncoderConfig(**{field.name: getattr(model, field.name) for field in fields(EncoderConfig)} | changes)


def read_encoder(name: str) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Sizes and weights of the encoder of a trained world model.

    Args:
        name: bundled model, folder or Hub id.

    Raises:
        CheckpointError: no such model, or an agent of another kind.
    """
    folder = hub.locate(name)
    kind = checkpoint.agent_kind(folder)
    if kind not in registry.entries():
        raise CheckpointError(f"{folder} holds a `{kind}` agent, which has no encoder of its own to take over")
    description, weights = checkpoint.read(folder, AgentConfig.from_dict)
    if not isinstance(description.agent, AgentConfig):
        raise CheckpointError(f"{folder} describes no world model")
    prefix = "encoder."
    found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return encoder_part(description.agent.model), found


class PatchEncoder(nn.Module, ABC):
    """Frames (B, H, W, 3) uint8 to the tokens (B, tokens, width) of a ViT's patches, without gradient.

    Attributes:
        tokens: Patches of a frame.
        width: Size of a token.
    """

    tokens: int
    width: int

    @abstractmethod
    def features(self, frames: Tensor) -> Tensor:
        """The tokens."""

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """The tokens."""
        return self.features(frames)


class WorldModelPatches(PatchEncoder):
    """The patches that a world model's ViT sees; its CLS token, which LeWM plans with, is left out."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if config.encoder != "vit":
            raise ValueError(
                f"patches come from a ViT, and this world model's encoder is a `{config.encoder}`: learn one with "
                "--model.encoder vit"
            )
        self.encoder = Encoder(config)
        self.tokens, self.width = (config.image_size // config.patch_size) ** 2, config.encoder_width

    def features(self, frames: Tensor) -> Tensor:
        """The tokens."""
        vit = self.encoder.vit
        return vit.forward_features(self.encoder.normalize(frames))[:, vit.num_prefix_tokens :]


class TimmPatches(PatchEncoder):
    """The patches of one of timm's ViTs, for frames resized to the nearest multiple of its patch.

    Args:
        name: of the model, such as ``vit_small_patch14_dinov2.lvd142m``.
        image_size: side of the frames that are given, in pixels.

    Raises:
        CheckpointError: timm has no such ViT.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, image_size: int) -> None:
        super().__init__()
        # timm would also take "hf-hub:user/model", and fetch from there what a file names.
        if not is_timm_vit(name):
            raise CheckpointError(f"timm has no plain ViT `{name}`")
        self.name = name
        patch = _without_weights(name).patch_embed.patch_size[0]
        self.side = patch * max(1, round(image_size / patch))
        self.vit: Any = self._vit(pretrained=False)
        self.tokens, self.width = self.vit.patch_embed.num_patches, self.vit.embed_dim
        for buffer, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            values = torch.tensor(self.vit.pretrained_cfg.get(buffer, usual))
            self.register_buffer(buffer, 255 * values.view(3, 1, 1), persistent=False)

    def _vit(self, **settings: Any) -> Any:
        return _create(self.name, num_classes=0, img_size=self.side, **settings)

    def features(self, frames: Tensor) -> Tensor:
        """The tokens."""
        pixels = frames.permute(0, 3, 1, 2).float()
        if pixels.shape[-1] != self.side:
            pixels = functional.interpolate(pixels, self.side, mode="bilinear", antialias=True)
        return self.vit.forward_features((pixels - self.mean) / self.std)[:, self.vit.num_prefix_tokens :]

    def load_pretrained(self) -> None:
        """Weights from the Hub, or from where the Hub's client keeps them. Raises :class:`CheckpointError`."""
        try:
            model = self._vit(pretrained=True)
        except Exception as error:  # timm hands on whatever the Hub's client or a download raises
            raise CheckpointError(
                f"the pretrained weights of {self.name} could not be had from the Hub ({type(error).__name__}): go "
                "online once, or give a file of weights"
            ) from error
        self.vit.load_state_dict(model.state_dict())

    def load_file(self, path: Path) -> None:
        """Weights from a ``.safetensors`` file in timm's names. Raises :class:`CheckpointError`."""
        try:
            weights = checkpoint.tensors(path.read_bytes(), path)
        except OSError as error:
            raise CheckpointError(f"{path} is no file of weights that can be read ({error})") from error
        try:
            model = self._vit(pretrained=True, pretrained_cfg_overlay={"file": str(path)})
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(f"{path} holds {len(weights)} tensors, but not the weights of {self.name}") from error
        self.vit.load_state_dict(model.state_dict())


def is_timm_vit(name: str) -> bool:
    """Whether timm has a plain ViT of that name."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    return timm.is_model(name) and isinstance(_without_weights(name), VisionTransformer)


def _without_weights(name: str) -> Any:
    with torch.device("meta"):
        return _create(name, pretrained=False)


def _create(name: str, **settings: Any) -> Any:
    import timm  # takes longer to import than all the rest, and most agents need none of it

    return timm.create_model(name, **settings)
