"""The cross-entropy method over action sequences.

Released settings and details: stable-worldmodel ``planning/solver/cem.py`` (first candidate is the current mean, mean
and unbiased standard deviation of the elites, no momentum; the plan is the final mean, not the best sample).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CostFunction = Callable[[Tensor], Tensor]
"""Candidates (N, S, T, A) to their costs (N, S)."""


@dataclass(frozen=True)
class Plan:
    """Action sequences (N, T, A) and the lowest cost (N,) seen in the last iteration."""

    actions: Tensor
    cost: Tensor


class CEM:
    """Sample, keep the cheapest, refit a diagonal Gaussian, repeat. Knows nothing of pixels or networks.

    Args:
        samples: candidates per iteration.
        elites: how many of them the Gaussian is refitted to, 2 <= elites <= samples.
        iterations: refits.
        noise_correlation: correlation of the noise between successive steps, in [0, 1); 0 is white noise.
        initial_std: standard deviation of the first candidates.
        low: lower bounds (A,) in the units of the actions, or None.
        high: upper bounds (A,), or None.

    Raises:
        ValueError: more elites than samples, or fewer than 2.
    """

    def __init__(
        self,
        samples: int,
        elites: int,
        iterations: int,
        noise_correlation: float = 0.0,
        initial_std: float = 1.0,
        low: Tensor | None = None,
        high: Tensor | None = None,
    ) -> None:
        if not 2 <= elites <= samples:
            raise ValueError(f"elites ({elites}) must be at least 2 and at most samples ({samples})")
        self.samples = samples
        self.elites = elites
        self.iterations = iterations
        self.noise_correlation = noise_correlation
        self.initial_std = initial_std
        self.low = low
        self.high = high

    def plan(self, cost: CostFunction, mean: Tensor, generators: Sequence[torch.Generator]) -> Plan:
        """Minimise ``cost`` for N independent problems.

        Args:
            cost: called once per iteration on candidates (N, S, T, A); returns (N, S).
            mean: (N, T, A), where the search starts.
            generators: one per problem, on the device of ``mean``, so that a problem's noise does not depend on which
                others are solved beside it.
        """
        std = torch.full_like(mean, self.initial_std)
        coloring = self._coloring(mean)
        for _ in range(self.iterations):
            noise = torch.stack([self._white_noise(mean, generator) for generator in generators])
            noise[:, 0] = 0
            candidates = self._clip(mean.unsqueeze(1) + std.unsqueeze(1) * (coloring @ noise))
            costs = cost(candidates)
            lowest, order = costs.topk(self.elites, dim=1, largest=False)
            elites = candidates.gather(1, order[:, :, None, None].expand(-1, -1, *mean.shape[1:]))
            mean, std = elites.mean(dim=1), elites.std(dim=1)
        return Plan(mean, lowest[:, 0])

    def _white_noise(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(self.samples, *mean.shape[1:], generator=generator, device=mean.device, dtype=mean.dtype)

    def _coloring(self, mean: Tensor) -> Tensor:
        """(T, T) matrix that turns white noise into a stationary first-order autoregressive process of variance 1."""
        steps = torch.arange(mean.shape[1], device=mean.device)
        lag = steps[:, None] - steps[None, :]
        correlation = torch.tensor(self.noise_correlation, device=mean.device, dtype=mean.dtype)
        coloring = torch.where(lag >= 0, correlation ** lag.clamp(min=0), 0.0)
        coloring[:, 1:] *= (1 - correlation.square()).sqrt()
        return coloring

    def _clip(self, candidates: Tensor) -> Tensor:
        if self.low is None and self.high is None:
            return candidates
        return candidates.clamp(self.low, self.high)
