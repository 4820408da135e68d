"""The latent dynamics: a causal transformer conditioned on actions by AdaLN-zero.

Source: stable-worldmodel ``wm/lewm/module.py`` (released code). Its quirk is kept: attention and feed-forward each
begin with a LayerNorm of their own, so the modulated input is normalised twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_agent.models import whole_batch
from lewm_agent.models.encoder import EncoderConfig
from lewm_agent.tools.checks import require, require_one_of

Head = Callable[[Tensor], Tensor]
FEW = 4
"""Tokens that attention mixes one by one."""


PredictorName = Literal["autoregressive", "prefix", "residual"]
SymmetryName = Literal["none", "square"]


@dataclass(frozen=True)
class ModelConfig(EncoderConfig):
    """Sizes of the world model. The defaults are the released ones (18,034,478 parameters with 2-D actions)."""

    predictor: PredictorName = "autoregressive"
    """``autoregressive`` imagines one block after the other; ``prefix`` all at once, each from what the actions so far
    make of the real frames (:mod:`lewm_agent.models.prefix_predictor`); ``residual`` adds a change to the last latent
    (:mod:`lewm_agent.models.residual_predictor`)."""
    prefix_length: int = 5
    """Blocks that ``prefix`` imagines at once, and ``residual`` in training one after the other; clips are that much
    longer."""
    symmetry: SymmetryName = "none"
    """``square``: the world looks and behaves the same in mirrors of its picture, and ``residual`` makes use of it."""
    predictor_width: int = 192
    predictor_depth: int = 6
    predictor_heads: int = 16
    predictor_head_dim: int = 64
    predictor_mlp_width: int = 2048
    predictor_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.predictor_dropout < 1, f"predictor_dropout must be in [0, 1), got {self.predictor_dropout}")
        require_one_of("predictor", self.predictor, get_args(PredictorName))
        require(
            self.predictor != "residual" or self.history <= 2,
            f"history must be 1 or 2 with predictor `residual`, which sees one frame and the block before it, got "
            f"{self.history}",
        )
        require_one_of("symmetry", self.symmetry, get_args(SymmetryName))
        require(
            self.symmetry == "none" or (self.of_moments and self.predictor == "residual" and self.action_dim == 2),
            f"symmetry `square` needs encoder `moments`, predictor `residual` and two action components, "
            f"along x and y; got `{self.encoder}`, `{self.predictor}` and {self.action_dim}",
        )

    @property
    def clip_frames(self) -> int:
        """Frames of a training clip."""
        return self.history + (1 if self.predictor == "autoregressive" else self.prefix_length)


class KeyValueCache:
    """Keys and values of the tokens a predictor has already seen, one pair (B, heads, T, head_dim) per layer."""

    def __init__(self) -> None:
        self.length = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens of one layer and return all of them."""
        if layer in self._layers:
            old_keys, old_values = self._layers[layer]
            keys, values = torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)
        self._layers[layer] = (keys, values)
        return keys, values


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees its own frame and what came before.

    A frame has one token, or ``frame_tokens`` of them that see each other.
    """

    def __init__(self, width: int, heads: int, head_dim: int, dropout: float, frame_tokens: int = 1) -> None:
        super().__init__()
        self.frame_tokens = frame_tokens
        self.heads = heads
        self.head_dim = head_dim
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, layer: int, cache: KeyValueCache | None, last_only: bool) -> Tensor:
        """New tokens (B, T, width), placed after those in the cache; returns them all, or only the last frame's."""
        x = self.norm(x)
        query_weight, key_value_weight = self.to_qkv.weight.tensor_split([len(self.to_qkv.weight) // 3])
        asking = x[:, -self.frame_tokens :] if last_only else x
        few = self._is_few(x, cache)
        alone = few and asking.shape[1] == x.shape[1] and (cache is None or not cache.length)
        (queries,) = self._heads(asking[:, 1:] if alone else asking, query_weight)
        keys, values = self._heads(x, key_value_weight)
        if cache is not None:
            keys, values = cache.extend(layer, keys, values)
        if few:
            return self.to_out(_mixed_one_by_one(queries, keys, values, alone).flatten(2))
        new, total = queries.shape[2], keys.shape[2]
        mask = None if new == self.frame_tokens else self._mask(new, total, x.device)
        mixed = whole_batch.attention(queries, keys, values, mask, self.dropout if self.training else 0.0)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _is_few(self, x: Tensor, cache: KeyValueCache | None) -> bool:
        """Whether tokens are mixed one by one, which on a CPU is faster where a whole window has a few of them."""
        total = x.shape[1] + (cache.length if cache is not None else 0)
        return self.frame_tokens == 1 and total <= FEW and not self.training and x.device.type == "cpu"

    def _mask(self, new: int, total: int, device: torch.device) -> Tensor:
        """Which of all tokens the last ``new`` ones see, (new, total)."""
        frames = torch.arange(total, device=device) // self.frame_tokens
        return frames[total - new :, None] >= frames

    def _heads(self, x: Tensor, weight: Tensor) -> Tensor:
        """Project (B, T, width) to one or two stacks of (B, heads, T, head_dim)."""
        projected = functional.linear(x, weight).unflatten(-1, (-1, self.heads, self.head_dim))
        return projected.permute(2, 0, 3, 1, 4)


def _mixed_one_by_one(queries: Tensor, keys: Tensor, values: Tensor, alone: bool) -> Tensor:
    """What the last tokens see, (B, T, heads, head_dim), by queries, keys and values (B, heads, T, head_dim) each.

    ``alone``: there is one token more, the first of all, which sees nothing but itself, so that it needs no query.
    """
    keys_of, values_of = keys.unbind(dim=2), values.unbind(dim=2)
    mixed = [values_of[0]] if alone else []
    unseen = len(keys_of) - queries.shape[2]
    for last, query in enumerate(queries.unbind(dim=2), unseen):
        scores = torch.stack([(query * key).sum(-1, keepdim=True) for key in keys_of[: last + 1]])
        weights = (scores * query.shape[-1] ** -0.5).softmax(dim=0)
        total = weights[0] * values_of[0]
        for weight, value in zip(weights[1:], values_of[1 : last + 1], strict=True):
            total = total.addcmul_(weight, value)
        mixed.append(total)
    return torch.stack(mixed, dim=1)


def feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """LayerNorm, then two layers with GELU between them, both followed by dropout."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, width),
        nn.Dropout(dropout),
    )


class ConditionalBlock(nn.Module):
    """Transformer block whose two residual branches are shifted, scaled and gated by the action (AdaLN-zero)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, dropout = config.predictor_width, config.predictor_dropout
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = CausalAttention(width, config.predictor_heads, config.predictor_head_dim, dropout)
        self.mlp = feed_forward(width, config.predictor_mlp_width, dropout)
        modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)
        self.modulation = nn.Sequential(nn.SiLU(), modulation)

    def forward(
        self, x: Tensor, modulation: Tensor, layer: int, cache: KeyValueCache | None, last_only: bool
    ) -> Tensor:
        """Tokens (B, T, width) under modulation (B, T, 6 width); returns them all, or only the last."""
        kept = slice(-1 if last_only else None, None)
        shift, scale = modulation.chunk(6, dim=-1)[:2]
        _, _, gate1, shift2, scale2, gate2 = modulation[:, kept].chunk(6, dim=-1)
        mixed = self.attention(self.norm1(x) * (1 + scale) + shift, layer, cache, last_only)
        x = x[:, kept] + gate1 * mixed
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


def _projection(input_dim: int, output_dim: int) -> nn.Module:
    return nn.Identity() if input_dim == output_dim else nn.Linear(input_dim, output_dim)


class Predictor(nn.Module):
    """Latents and action embeddings, both (B, T, latent_dim), T <= history, to next latents (B, T, latent_dim).

    Args:
        config: sizes.
        length: tokens at most, the history by default.
    """

    def __init__(self, config: ModelConfig, length: int | None = None) -> None:
        super().__init__()
        self.history = config.history
        self.position = nn.Parameter(torch.randn(1, length or config.history, config.latent_dim))
        self.latent_projection = _projection(config.latent_dim, config.predictor_width)
        self.condition_projection = _projection(config.latent_dim, config.predictor_width)
        self.blocks = nn.ModuleList(ConditionalBlock(config) for _ in range(config.predictor_depth))
        self.norm = nn.LayerNorm(config.predictor_width)
        self.output_projection = _projection(config.predictor_width, config.latent_dim)

    def forward(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """Entry k of the result is predicted from the tokens 0..k; token k's condition is the block leaving frame k."""
        return self._run(latents, self.modulations(conditions), None, last_only=False)

    def predict_in_training(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """What training compares with the next latents, (B, T, latent_dim); here by teacher forcing."""
        return self(latents, conditions)

    def imagine(self, known: Tensor, modulations: list[Tensor], head: Head) -> Tensor:
        """Latents (B, P, latent_dim) after each of P blocks.

        While the history still grows, keys and values of earlier tokens are cached; once it is full the window slides,
        which moves every token to another position, and the window is computed anew. Only the last token goes through
        the end of the last layer and the head.

        Args:
            known: (B, H, latent_dim), the last H <= history real frames.
            modulations: of the H - 1 blocks between them and of the P blocks, as :meth:`modulations` gives them.
            head: from outputs (B, T, latent_dim) to latents.
        """
        sequence, cache = known, KeyValueCache()
        for end in range(known.shape[1], modulations[0].shape[1] + 1):
            if end <= self.history:
                tokens, seen = slice(cache.length, end), cache
            else:
                tokens, seen = slice(end - self.history, end), None
            output = self._run(sequence[:, tokens], [m[:, tokens] for m in modulations], seen, last_only=True)
            sequence = torch.cat([sequence, head(output)], dim=1)
        return sequence[:, known.shape[1] :]

    def modulations(self, conditions: Tensor) -> list[Tensor]:
        """What each layer makes of the actions, (B, T, 6 width): the same wherever a token stands in the window."""
        conditions = self.condition_projection(conditions)
        return [cast(ConditionalBlock, block).modulation(conditions) for block in self.blocks]

    def _run(self, latents: Tensor, modulations: list[Tensor], cache: KeyValueCache | None, last_only: bool) -> Tensor:
        """The results of all tokens, (B, T, latent_dim), or of the last alone.

        With a cache, ``latents`` and ``modulations`` are those of the new tokens only; the cache then holds them too.
        """
        start = cache.length if cache is not None else 0
        end = start + latents.shape[1]
        x = self.latent_projection(latents + self.position[:, start:end])
        for layer, (block, modulation) in enumerate(zip(self.blocks, modulations, strict=True)):
            x = block(x, modulation, layer, cache, last_only and layer == len(self.blocks) - 1)
        if cache is not None:
            cache.length = end
        return self.output_projection(self.norm(x))
