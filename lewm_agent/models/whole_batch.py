"""Statistics and random numbers of the whole batch, of which each rank has some rows.

A batch is the same set of clips however many ranks share it. What a row is compared with is the whole batch, and what
is drawn at random is drawn by every rank for the whole batch, from generators that stand alike on all of them; a rank
keeps its rows of that. So neither the loss nor a checkpoint depends on how many ranks there are.

Losses are means over equally many rows on each rank, and DistributedDataParallel takes the mean of their gradients.
Gradients here are such that this mean is the gradient of the whole batch's loss.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from lewm_agent.models import ranks

FEW_TOKENS = 64
"""Up to so many tokens attention is written out where a batch is shared, to have the dropout of the whole batch."""


class _Mean(torch.autograd.Function):
    """Mean over the ranks."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return ranks.mean(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return ranks.mean(gradients[0])


def mean(values: Tensor) -> Tensor:
    """Mean over the ranks, with a gradient."""
    if ranks.count() == 1:
        return values
    averaged: Tensor = _Mean.apply(values)
    return averaged


def variance(samples: Tensor) -> Tensor:
    """Unbiased variance of samples (..., N, D) over the N of all ranks, (..., D)."""
    if ranks.count() == 1:
        return samples.var(dim=-2)
    total = samples.shape[-2] * ranks.count()
    centred = samples - mean(samples.mean(dim=-2, keepdim=True))
    return mean(centred.square().mean(dim=-2)) * (total / (total - 1))


def randn(rows: int, *shape: int, device: torch.device) -> Tensor:
    """This rank's rows (rows, *shape) of the normal random numbers of the whole batch."""
    whole = rows * ranks.count()
    return torch.randn(whole, *shape, device=device)[ranks.share(whole)]


def uniform(rows: int, *shape: int, device: torch.device) -> Tensor:
    """This rank's rows (rows, *shape) of numbers of the whole batch that are uniform in [0, 1)."""
    whole = rows * ranks.count()
    return torch.rand(whole, *shape, device=device)[ranks.share(whole)]


def dropout(values: Tensor, probability: float) -> Tensor:
    """Dropout of values (B, ...), as that of the whole batch would be."""
    if ranks.count() == 1 or probability == 0:
        return functional.dropout(values, probability)
    whole = len(values) * ranks.count()
    kept = functional.dropout(values.new_ones(whole, *values.shape[1:]), probability)
    return values * kept[ranks.share(whole)]


def attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, probability: float) -> Tensor:
    """Scaled dot-product attention (B, heads, T, head_dim), with dropout of its weights.

    Over more than ``FEW_TOKENS`` tokens the whole batch's dropout would be too large to be drawn by every rank: each
    draws its own.
    """
    attend = functools.partial(functional.scaled_dot_product_attention, queries, keys, values, attn_mask=mask)
    if ranks.count() == 1 or probability == 0:
        return attend(dropout_p=probability)
    if keys.shape[-2] > FEW_TOKENS:
        with _own_random_numbers(queries.device):
            return attend(dropout_p=probability)
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return dropout(scores.softmax(dim=-1), probability) @ values


@contextlib.contextmanager
def seen_by(model: nn.Module) -> Iterator[None]:
    """Within the block, BatchNorm and dropout anywhere in a model are those of the whole batch."""
    changed: list[nn.Module] = []
    if ranks.count() > 1:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                vars(module)["forward"] = functools.partial(_normalized, module)
            elif isinstance(module, nn.Dropout):
                vars(module)["forward"] = functools.partial(_dropped, module)
            else:
                continue
            changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


def _dropped(module: nn.Dropout, values: Tensor) -> Tensor:
    return dropout(values, module.p) if module.training else values


def _normalized(module: _BatchNorm, values: Tensor) -> Tensor:
    """BatchNorm of values (B, C, ...); torch's own over several processes is for GPUs alone."""
    if not module.training or ranks.count() == 1:
        return type(module).forward(module, values)
    others = [axis for axis in range(values.ndim) if axis != 1]
    given, values = values.dtype, values if values.dtype == torch.float64 else values.float()
    own_variance, own_mean = (x.double() for x in torch.var_mean(values, dim=others, correction=0))
    centre, square = mean(torch.stack([own_mean, own_variance + own_mean.square()]))
    spread = square - centre.square()
    total = values.numel() // values.shape[1] * ranks.count()
    _remember(module, centre.detach(), spread.detach() * (total / (total - 1)))
    scale = (spread + module.eps).rsqrt()
    scale, shift = (scale * module.weight, module.bias) if module.affine else (scale, torch.zeros_like(scale))
    shape = [1, -1] + [1] * (values.ndim - 2)
    centre, scale, shift = (x.to(values.dtype).view(shape) for x in (centre, scale, shift))
    return torch.addcmul(shift, values - centre, scale).to(given)


@torch.no_grad()
def _remember(module: _BatchNorm, centre: Tensor, spread: Tensor) -> None:
    """Let the running statistics follow, as torch does."""
    if module.running_mean is None or module.running_var is None or module.num_batches_tracked is None:
        return
    module.num_batches_tracked.add_(1)
    share = 1 / float(module.num_batches_tracked) if module.momentum is None else module.momentum
    module.running_mean.lerp_(centre.to(module.running_mean.dtype), share)
    module.running_var.lerp_(spread.to(module.running_var.dtype), share)


@contextlib.contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Random numbers that differ from rank to rank; afterwards those of all go on alike."""
    seed = int(torch.randint(2**31, ())) + ranks.rank()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
