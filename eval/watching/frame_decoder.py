"""From one latent back to a whole frame: a decoder trained afterwards, to see what the latent holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import dacite
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lewm_agent.checkpoints.checkpoint import CheckpointError, check_model, tensors, weights_sha256
from lewm_agent.envs.goal_env import Vector
from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning.episodes import Frames
from lewm_agent.tools.replacing import write_atomically

FORMAT = "lewm-agent frame decoder"


@dataclass(frozen=True)
class FrameDecoderConfig:
    """Sizes. The defaults are the authors' (le-wm issue 26), who draw 224 x 224 pixels in 16 x 16 patches."""

    latent_dim: int
    image_size: int
    patch_size: int = 16
    width: int = 256
    heads: int = 8
    depth: int = 3


class _Layer(nn.Module):
    """Every patch looks at the latent, then thinks for itself; LayerNorm after each residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_norm = nn.LayerNorm(width)

    def forward(self, patches: Tensor, latent: Tensor) -> Tensor:
        """Patches (B, P, width) and the latent as a single token (B, 1, width) to patches."""
        looked, _ = self.attention(patches, latent, latent, need_weights=False)
        patches = self.attention_norm(patches + looked)
        return self.mlp_norm(patches + self.mlp(patches))


class FrameDecoder(nn.Module):
    """Cross-attention decoder from a single latent (arXiv 2603.19312, appendix D).

    A learned query for each patch attends to the latent, which is the only key and value. The latent is the one that
    the predictor predicts (le-wm issue 30), so imagined latents are decoded like real ones.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: FrameDecoderConfig) -> None:
        super().__init__()
        self.config = config
        if config.image_size % config.patch_size:
            raise ValueError(f"image_size ({config.image_size}) must be a multiple of patch_size ({config.patch_size})")
        self.side = config.image_size // config.patch_size
        self.spread = nn.Sequential(nn.Linear(config.latent_dim, config.width), nn.LayerNorm(config.width), nn.GELU())
        # Of variance 1, not the authors' 0.02 squared: beside the latent it took much longer to learn where a patch is.
        self.queries = nn.Parameter(torch.randn(1, self.side**2, config.width))
        self.layers = nn.ModuleList(_Layer(config.width, config.heads) for _ in range(config.depth))
        self.draw = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, 3 * config.patch_size**2))
        self.register_buffer("pixel_mean", torch.zeros(config.image_size, config.image_size, 3))
        self.register_buffer("pixel_std", torch.ones(3))

    @staticmethod
    def of(model: WorldModel) -> FrameDecoder:
        """An untrained decoder for the latents of ``model``, with its normalisation of pixels."""
        size = model.config.image_size
        patch = next(patch for patch in (16, 14, 8, model.config.patch_size) if size % patch == 0)
        decoder = FrameDecoder(FrameDecoderConfig(model.config.latent_dim, size, patch))
        decoder.pixel_mean.copy_(model.encoder.pixel_mean.expand_as(decoder.pixel_mean))
        decoder.pixel_std.copy_(model.encoder.pixel_std)
        return decoder

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (B, latent_dim) to frames (B, H, W, 3) in normalised pixels."""
        token = self.spread(latents).unsqueeze(1)
        patches = self.queries.expand(len(latents), -1, -1)
        for layer in self.layers:
            patches = layer(patches, token)
        size, patch = self.side, self.config.patch_size
        pixels = self.draw(patches).reshape(-1, size, size, patch, patch, 3)
        return pixels.transpose(2, 3).reshape(-1, size * patch, size * patch, 3)

    def normalize(self, frames: Tensor) -> Tensor:
        """Frames (B, H, W, 3) uint8 to what :meth:`forward` draws."""
        return (frames.float() - self.pixel_mean) / self.pixel_std

    @torch.inference_mode()
    def frames(self, latents: Tensor) -> Tensor:
        """Latents (..., latent_dim) to frames (..., H, W, 3) uint8."""
        normalized = self(latents.flatten(0, -2))
        pixels = (normalized * self.pixel_std + self.pixel_mean).round().clamp(0, 255).to(torch.uint8)
        return pixels.unflatten(0, latents.shape[:-1])

    def drawn(self, latents: Vector) -> Frames:
        """Latents (P, latent_dim) to frames (P, H, W, 3) uint8."""
        return self.frames(torch.as_tensor(latents).float().to(self.pixel_mean.device)).cpu().numpy()

    def save(self, path: Path, model: WorldModel) -> None:
        """Write a safetensors file that also says which model's latents it decodes, all or nothing."""
        about = {"format": FORMAT, "model_sha256": weights_sha256(model.state_dict())}
        about["config"] = json.dumps(dataclasses.asdict(self.config))
        about["sha256"] = _sha256(about, self.state_dict())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, safetensors.torch.save(self.state_dict(), about))

    @staticmethod
    def load(path: Path, model: WorldModel) -> FrameDecoder:
        """The decoder in a file, on the device of ``model``, whose latents it was trained on.

        Raises:
            CheckpointError: there is no such file, it is damaged or none of ours, or made for another model.
        """
        try:
            with safetensors.safe_open(path, "pt") as file:
                about = file.metadata() or {}
            weights = tensors(path.read_bytes(), path)
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read as a decoder: {error}") from error
        if about.get("format") != FORMAT:
            raise CheckpointError(f"{path} holds no decoder that eval/reconstruction.py made")
        if about.pop("sha256", None) != _sha256(about, weights):
            raise CheckpointError(f"{path} is damaged: it is not as eval/reconstruction.py wrote it; make it once more")
        if about["model_sha256"] != weights_sha256(model.state_dict()):
            raise CheckpointError(f"{path} decodes the latents of another model")
        config = dacite.from_dict(FrameDecoderConfig, json.loads(about["config"]))
        check_model(lambda: FrameDecoder(config).state_dict(), dataclasses.asdict(config), weights, path)
        decoder = FrameDecoder(config)
        decoder.load_state_dict(weights)
        return decoder.to(model.action_mean.device).eval()


def _sha256(about: dict[str, str], weights: dict[str, Tensor]) -> str:
    """Of all that a file of a decoder holds."""
    return hashlib.sha256((json.dumps(about, sort_keys=True) + weights_sha256(weights)).encode()).hexdigest()
