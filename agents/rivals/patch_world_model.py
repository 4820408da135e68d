"""DINO-WM's world model: tokens of a frozen ViT, and a predictor of all tokens of the next frame (arXiv 2411.04983).

From the released re-implementation (stable-worldmodel ``scripts/train/prejepa.py``) come the 10 numbers per action
block, appended to every token, the learned positions of standard deviation 1, the mask between frames, teacher forcing,
and the error over the visual part alone. Proprioception is left out: agents here see pixels only, as in the comparison
of arXiv 2603.19312.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lewm_agent.agents.rivals.frozen import PatchEncoder, TimmPatches, WorldModelPatches, is_timm_vit, read_encoder
from lewm_agent.datasets.batch import ClipBatch
from lewm_agent.models.clip import ClipConfig
from lewm_agent.models.encoder import EncoderConfig
from lewm_agent.models.learner import LatentModel, Loss
from lewm_agent.models.predictor import CausalAttention, feed_forward
from lewm_agent.tools.checks import require

ACTION_EMBEDDING = 10
"""Numbers per action block (``config/prejepa.yaml``)."""


@dataclass(frozen=True)
class PatchModelConfig(ClipConfig):
    """Which encoder, and sizes of the predictor. The defaults are the released ones."""

    backbone: str = "vit_small_patch14_dinov2.lvd142m"
    """A ViT of timm; or bundled name, folder or Hub id of a trained world model with a ViT."""
    weights: str = "pretrained"
    """Of a ViT of timm: ``pretrained`` (from the Hub), ``random``, or a ``.safetensors`` file in timm's names."""
    vit: EncoderConfig | None = None
    """Sizes of the world model's encoder; filled in from ``backbone``."""
    predictor_depth: int = 6
    predictor_heads: int = 16
    predictor_head_dim: int = 64
    predictor_mlp_width: int = 2048
    predictor_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.predictor_dropout < 1, f"predictor_dropout must be in [0, 1), got {self.predictor_dropout}")


class _Block(nn.Module):
    """Transformer block with LayerNorm before attention and before the feed-forward part."""

    def __init__(self, config: PatchModelConfig, width: int, tokens: int) -> None:
        super().__init__()
        sizes = config.predictor_heads, config.predictor_head_dim, config.predictor_dropout
        self.attention = CausalAttention(width, *sizes, frame_tokens=tokens)
        self.mlp = feed_forward(width, config.predictor_mlp_width, config.predictor_dropout)

    def forward(self, x: Tensor, last_only: bool) -> Tensor:
        """Tokens (B, T, width); returns them all, or only the last frame's."""
        kept = x[:, -self.attention.frame_tokens :] if last_only else x
        x = kept + self.attention(x, 0, None, last_only)
        return x + self.mlp(x)


class PatchPredictor(nn.Module):
    """Tokens with actions (B, T, K, width), T <= history, to the next frame's (B, T, K, width).

    A token sees all tokens of its own frame and of earlier ones, and none of later ones.
    """

    def __init__(self, config: PatchModelConfig, width: int, tokens: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, config.history, tokens, width))
        self.blocks = nn.ModuleList(_Block(config, width, tokens) for _ in range(config.predictor_depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, last_only: bool = False) -> Tensor:
        """Entry k of the result is predicted from frames 0..k; with ``last_only``, only the last entry, (B, 1, ...)."""
        x = (tokens + self.position[:, : tokens.shape[1]]).flatten(1, 2)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, last_only and number == len(self.blocks))
        return self.norm(x).unflatten(1, (-1, tokens.shape[2]))


class PatchWorldModel(LatentModel):
    """A latent is all visual tokens of a frame, side by side; only the predictor and the action embedding learn."""

    problems_at_once = 1  # 300 plans of 5 frames with 256 tokens of 384 numbers are 0.6 GB

    def __init__(self, config: PatchModelConfig) -> None:
        super().__init__(config)
        self._config = config
        self.encoder: PatchEncoder = (
            TimmPatches(config.backbone, config.image_size) if config.vit is None else WorldModelPatches(config.vit)
        )
        self.encoder.requires_grad_(False)
        self.action_encoder = nn.Linear(config.block_dim, ACTION_EMBEDDING)
        self.predictor = PatchPredictor(config, self.encoder.width + ACTION_EMBEDDING, self.encoder.tokens)
        self.inverse_dynamics = None
        self.metric = None
        self.far_goals = None

    @property
    def config(self) -> PatchModelConfig:
        """Encoder and sizes."""
        return self._config

    def train(self, mode: bool = True) -> PatchWorldModel:
        """Switch dropout of the predictor; the encoder always evaluates."""
        super().train(mode)
        self.encoder.eval()
        return self

    def is_stored(self, name: str) -> bool:
        """Pretrained weights of timm are named, not stored; all others are stored."""
        fetched = self.config.vit is None and self.config.weights == "pretrained"
        return not (fetched and name.startswith("encoder."))

    def fetch(self) -> None:
        """Fill the encoder with the weights that the configuration names. Raises ``CheckpointError``."""
        if isinstance(self.encoder, WorldModelPatches):
            self.encoder.encoder.load_state_dict(read_encoder(self.config.backbone)[1])
        elif isinstance(self.encoder, TimmPatches) and self.config.weights == "pretrained":
            self.encoder.load_pretrained()
        elif isinstance(self.encoder, TimmPatches) and self.config.weights != "random":
            self.encoder.load_file(Path(self.config.weights))

    def dynamics(self) -> tuple[nn.Module, ...]:
        """Action embedding and predictor."""
        return self.action_encoder, self.predictor

    def predict(self, latents: Tensor, blocks: Tensor, last_only: bool = False) -> Tensor:
        """Next latents by teacher forcing.

        Args:
            latents: (B, T, tokens * width), T <= history.
            blocks: (B, T, block_dim), normalised; block k leaves frame k.
            last_only: return the last entry alone, (B, 1, tokens * width).

        Returns:
            (B, T, tokens * width): entry k is the prediction of frame k + 1 from frames 0..k.
        """
        tokens = latents.unflatten(-1, (self.encoder.tokens, self.encoder.width))
        actions = self.action_encoder(blocks).unsqueeze(2).expand(-1, -1, self.encoder.tokens, -1)
        predicted = self.predictor(torch.cat([tokens, actions], dim=-1), last_only)
        return predicted[..., : self.encoder.width].flatten(-2)

    def rollout(self, latents: Tensor, past_blocks: Tensor, blocks: Tensor) -> Tensor:
        """Imagine S futures for each of N histories; see :meth:`LatentModel.rollout`."""
        count, samples, steps, _ = blocks.shape
        known, history = latents.shape[1], self.config.history
        sequence = latents.repeat_interleave(samples, dim=0)
        actions = torch.cat([past_blocks.repeat_interleave(samples, dim=0), blocks.flatten(0, 1)], dim=1)
        for end in range(known, known + steps):
            window = slice(max(0, end - history), end)
            imagined = self.predict(sequence[:, window], actions[:, window], last_only=True)
            sequence = torch.cat([sequence, imagined], dim=1)
        return sequence[:, known:].unflatten(0, (count, samples))

    def loss(self, batch: ClipBatch[Tensor]) -> Loss:
        """Mean squared error of the visual tokens predicted of clips of T = history + 1 frames; targets never learn."""
        latents = self.encode(batch.frames)
        predicted = self.predict(latents[:, :-1], self.codec.blocks(batch.actions))
        error = (predicted - latents[:, 1:]).square().mean()
        return Loss(error, {"prediction": error})


def completed(config: PatchModelConfig) -> PatchModelConfig:
    """The configuration with the sizes of the world model whose encoder it names, if it names one.

    Raises:
        CheckpointError: ``backbone`` is neither a ViT of timm nor a trained world model.
    """
    if is_timm_vit(config.backbone):
        return config
    vit, _ = read_encoder(config.backbone)
    return replace(config, vit=vit, image_size=vit.image_size)
