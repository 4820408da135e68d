"""SIGReg, the Gaussian regulariser: Epps-Pulley tests of random one-dimensional projections of the latents.

Source: released code, stable-worldmodel ``wm/loss.py`` (17 knots on [0, 3], Gaussian window, statistic times batch
size), which differs from the paper's appendix A (nodes on [0.2, 4], no factor); released weights follow the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lewm_agent.models import ranks

LAST_KNOT = 3.0


class _EppsPulley(torch.autograd.Function):
    """Epps-Pulley statistic over dimension -2, with its gradient gathered in the same pass.

    cos(t h) and sin(t h) at the equidistant knots follow from those at the first by rotation, which avoids
    evaluating 2 x 17 transcendental functions per element and keeping them for the backward pass. Where the batch is
    shared by several ranks, a pass before it finds the characteristic function of the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, samples: Tensor, knots: int) -> Tensor:
        step = LAST_KNOT / (knots - 1)
        shared = _of_all_ranks(samples, knots) if ranks.count() > 1 else None
        statistic = samples.new_zeros(samples.shape[:-2] + samples.shape[-1:])
        gradient = torch.zeros_like(samples)
        for knot, (cos, sin) in enumerate(_turned(samples, knots)):
            t = torch.tensor(knot * step, dtype=torch.float64)
            target = torch.exp(-t.square() / 2).item()
            weight = target * step * (1 if knot in (0, knots - 1) else 2)
            mean_cos, mean_sin = (_characteristic(cos, sin) if shared is None else shared[knot]).unbind(0)
            cos_error, sin_error = mean_cos - target, mean_sin
            statistic += weight * (cos_error.square() + sin_error.square()).squeeze(-2)
            gradient += (2 * weight * t.item()) * (cos * sin_error - sin * cos_error)
        ctx.save_for_backward(gradient)
        return statistic * (samples.shape[-2] * ranks.count())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        upstream = ranks.mean(gradients[0]) * ranks.count()  # of which DistributedDataParallel takes the mean
        return gradient * upstream.unsqueeze(-2), None


def _turned(samples: Tensor, knots: int) -> Iterator[tuple[Tensor, Tensor]]:
    """cos(t h) and sin(t h) at one knot after the other."""
    step = LAST_KNOT / (knots - 1)
    cos_step, sin_step = torch.cos(samples * step), torch.sin(samples * step)
    cos, sin = torch.ones_like(samples), torch.zeros_like(samples)
    for _ in range(knots):
        yield cos, sin
        cos, sin = cos * cos_step - sin * sin_step, sin * cos_step + cos * sin_step


def _characteristic(cos: Tensor, sin: Tensor) -> Tensor:
    """Real and imaginary part of the empirical characteristic function at a knot, (2, ..., 1, M)."""
    return torch.stack([cos.mean(-2, keepdim=True), sin.mean(-2, keepdim=True)])


def _of_all_ranks(samples: Tensor, knots: int) -> Tensor:
    """That of the whole batch at every knot, (knots, 2, ..., 1, M)."""
    return ranks.mean(torch.stack([_characteristic(cos, sin) for cos, sin in _turned(samples, knots)]))


def epps_pulley(samples: Tensor, knots: int = 17) -> Tensor:
    """Distance of one-dimensional samples from the standard normal distribution.

    Args:
        samples: (..., B, M), tested over the B of all ranks for each of M columns.
        knots: equidistant quadrature nodes on [0, 3]; trapezoid rule, doubled because the integrand is even.

    Returns:
        (..., M): ``B * integral |phi_empirical(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt`` over [-3, 3].
    """
    return _EppsPulley.apply(samples, knots)


class SIGReg(nn.Module):
    """Mean Epps-Pulley statistic over random unit directions, fresh at every call.

    About 1.04 for samples that really are standard normal, whatever the batch size; large for collapsed latents.
    """

    def __init__(self, projections: int = 1024, knots: int = 17) -> None:
        super().__init__()
        self.projections = projections
        self.knots = knots

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (T, B, D), each time step tested on its own over the batch; returns a scalar."""
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            directions = self.directions(latents)
            return epps_pulley(latents @ (directions / directions.norm(dim=0)), self.knots).mean()

    def directions(self, latents: Tensor) -> Tensor:
        """(D, projections) random columns, not of unit length."""
        return torch.randn(latents.shape[-1], self.projections, device=latents.device)
