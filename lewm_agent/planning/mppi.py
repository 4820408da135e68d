"""Model-predictive path integral control.

Source: Williams et al. 2017, "Information theoretic MPC for model-based reinforcement learning", algorithm 2, without
its control cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lewm_agent.planning.search import CostFunction, Plan, Sampling, Search, register
from lewm_agent.tools.checks import require


@dataclass(frozen=True)
class MPPI(Search):
    """Average of all candidates, weighted by the exponential of minus their cost; the noise keeps its size."""

    temperature: float = 0.4
    """Of the weights, in standard deviations of the candidates' costs: no tuning to the scale of the costs."""

    def __post_init__(self) -> None:
        require(self.temperature > 0, f"temperature must be positive, got {self.temperature}")

    def plan(
        self, cost: CostFunction, guesses: Tensor, generators: Sequence[torch.Generator], sampling: Sampling
    ) -> Plan:
        """The mean after the last iteration; the other guesses are not used. See :meth:`Search.plan`."""
        mean = guesses[:, 0]
        for _ in range(sampling.iterations):
            noise = sampling.noise(mean, sampling.samples, generators)
            candidates = sampling.admitted(mean.unsqueeze(1) + sampling.initial_std * noise)
            costs = cost(candidates)
            scale = self.temperature * costs.std(dim=1, keepdim=True).clamp(min=torch.finfo(costs.dtype).tiny)
            weights = torch.softmax(-costs / scale, dim=1)
            mean = torch.einsum("ns,nsta->nta", weights, candidates)
        return Plan(mean, costs.amin(dim=1))


register("mppi", MPPI)
