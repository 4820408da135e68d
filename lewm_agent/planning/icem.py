"""The improved cross-entropy method: fewer samples by remembering the good ones.

Source: Pinneri et al. 2020, arXiv 2008.06389, algorithm 1. Constants are those of its table S2. Noise is coloured by a
first-order autoregressive process, as in all our searches, where the paper uses a power law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lewm_agent.planning.search import CostFunction, Plan, Search, cheapest

KEPT_ELITES = 0.3
"""Share of the elites that enter the next iteration, and the next plan, as candidates."""
MOMENTUM = 0.1
"""Weight of the old mean and standard deviation in the new."""
SAMPLE_DECAY = 1.25
"""The number of samples is divided by this after every iteration, down to twice the number of elites."""


@dataclass(frozen=True, kw_only=True)
class ICEM(Search):
    """CEM with elites kept between iterations and plans, fewer samples each time, and the best candidate as the plan.

    Raises:
        ValueError: fewer than 2 elites, or fewer than two samples for each.
    """

    elites: int
    """How many candidates the Gaussian is refitted to."""

    def __post_init__(self) -> None:
        if not 2 <= self.elites <= self.samples / 2:
            raise ValueError(f"elites ({self.elites}) must be at least 2 and at most half the samples ({self.samples})")

    def plan(self, cost: CostFunction, guesses: Tensor, generators: Sequence[torch.Generator]) -> Plan:
        """The best candidate of the last iteration, and the elites to keep. See :meth:`Search.plan`."""
        mean, kept = guesses[:, 0], guesses[:, 1:]
        std = torch.full_like(mean, self.initial_std)
        for iteration in range(self.iterations):
            samples = max(round(self.samples / SAMPLE_DECAY**iteration), 2 * self.elites)
            drawn = mean.unsqueeze(1) + std.unsqueeze(1) * self._noise(mean, samples, generators)
            candidates = self._admitted(torch.cat([drawn, kept], dim=1))
            elites, costs = cheapest(candidates, cost(candidates), self.elites)
            kept = elites[:, : max(1, round(KEPT_ELITES * self.elites))]
            mean = torch.lerp(elites.mean(dim=1), mean, MOMENTUM)
            std = torch.lerp(elites.std(dim=1), std, MOMENTUM)
        return Plan(kept[:, 0], costs[:, 0], kept)
