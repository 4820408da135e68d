"""Model-predictive path integral control.

Source: Williams et al. 2017, "Information theoretic MPC for model-based reinforcement learning", algorithm 2, without
its control cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lewm_agent.planning.search import CostFunction, Plan, Search


@dataclass(frozen=True, kw_only=True)
class MPPI(Search):
    """Average of all candidates, weighted by the exponential of minus their cost; the noise keeps its size.

    Raises:
        ValueError: the temperature is not positive.
    """

    temperature: float
    """Of the weights, in standard deviations of the candidates' costs: no tuning to the scale of the costs."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def plan(self, cost: CostFunction, guesses: Tensor, generators: Sequence[torch.Generator]) -> Plan:
        """The mean after the last iteration; the other guesses are not used. See :meth:`Search.plan`."""
        mean = guesses[:, 0]
        for _ in range(self.iterations):
            noise = self._noise(mean, self.samples, generators)
            candidates = self._admitted(mean.unsqueeze(1) + self.initial_std * noise)
            costs = cost(candidates)
            scale = self.temperature * costs.std(dim=1, keepdim=True).clamp(min=torch.finfo(costs.dtype).tiny)
            weights = torch.softmax(-costs / scale, dim=1)
            mean = torch.einsum("ns,nsta->nta", weights, candidates)
        return Plan(mean, costs.amin(dim=1))
