"""The cross-entropy method over action sequences.

Released settings and details: stable-worldmodel ``planning/solver/cem.py`` (first candidate is the current mean, mean
and unbiased standard deviation of the elites, no momentum; the plan is the final mean, not the best sample).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lewm_agent.planning.search import CostFunction, Plan, Sampling, Search, cheapest, register
from lewm_agent.tools.checks import require


@dataclass(frozen=True)
class CEM(Search):
    """Sample, keep the cheapest, refit a diagonal Gaussian, repeat."""

    stop_std: float = 0.0
    """Stop before the last iteration when the mean standard deviation has fallen below this; 0 never."""

    def __post_init__(self) -> None:
        require(self.stop_std >= 0, f"stop_std must not be negative, got {self.stop_std}")

    def plan(
        self, cost: CostFunction, guesses: Tensor, generators: Sequence[torch.Generator], sampling: Sampling
    ) -> Plan:
        """The mean after the last refit; the other guesses are not used. See :meth:`Search.plan`."""
        mean = guesses[:, 0]
        return self.refined(cost, mean, torch.full_like(mean, sampling.initial_std), generators, sampling)

    def refined(
        self, cost: CostFunction, mean: Tensor, std: Tensor, generators: Sequence[torch.Generator], sampling: Sampling
    ) -> Plan:
        """The mean after the last refit of Gaussians with means and standard deviations (N, T, A)."""
        lowest = mean.new_zeros(len(mean))
        for _ in range(sampling.iterations):
            searching = std.mean(dim=(1, 2), keepdim=True) >= self.stop_std  # each problem is judged alone
            if self.stop_std and not searching.any():
                break
            noise = sampling.noise(mean, sampling.samples, generators)
            candidates = sampling.admitted(mean.unsqueeze(1) + std.unsqueeze(1) * noise)
            elites, costs = cheapest(candidates, cost(candidates), sampling.elites)
            mean = torch.where(searching, elites.mean(dim=1), mean)
            std = torch.where(searching, elites.std(dim=1), std)
            lowest = torch.where(searching[:, 0, 0], costs[:, 0], lowest)
        return Plan(mean, lowest)


register("cem", CEM)
