"""The improved cross-entropy method: fewer samples by remembering the good ones.

Source: Pinneri et al. 2020, arXiv 2008.06389, algorithm 1. Constants are those of its table S2. Noise is coloured by a
first-order autoregressive process, as in all our searches, where the paper uses a power law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lewm_agent.planning.search import CostFunction, Plan, Sampling, Search, cheapest, register
from lewm_agent.tools.checks import require

KEPT_ELITES = 0.3
"""Share of the elites that enter the next iteration, and the next plan, as candidates."""
MOMENTUM = 0.1
"""Weight of the old mean and standard deviation in the new."""
SAMPLE_DECAY = 1.25
"""The number of samples is divided by this after every iteration, down to twice the number of elites."""


@dataclass(frozen=True)
class ICEM(Search):
    """CEM with elites kept between iterations and plans, fewer samples each time, and the best candidate as the plan.

    It has no settings of its own.
    """

    def check(self, sampling: Sampling) -> None:
        """Raise ``ValueError`` unless there are two samples for each elite."""
        require(
            2 * sampling.elites <= sampling.samples,
            f"elites ({sampling.elites}) must be at most half the samples ({sampling.samples}) with search icem",
        )

    def plan(
        self, cost: CostFunction, guesses: Tensor, generators: Sequence[torch.Generator], sampling: Sampling
    ) -> Plan:
        """The best candidate of the last iteration, and the elites to keep. See :meth:`Search.plan`."""
        mean, kept = guesses[:, 0], guesses[:, 1:]
        std = torch.full_like(mean, sampling.initial_std)
        for iteration in range(sampling.iterations):
            samples = max(round(sampling.samples / SAMPLE_DECAY**iteration), 2 * sampling.elites)
            drawn = mean.unsqueeze(1) + std.unsqueeze(1) * sampling.noise(mean, samples, generators)
            candidates = sampling.admitted(torch.cat([drawn, kept], dim=1))
            elites, costs = cheapest(candidates, cost(candidates), sampling.elites)
            kept = elites[:, : max(1, round(KEPT_ELITES * sampling.elites))]
            mean = torch.lerp(elites.mean(dim=1), mean, MOMENTUM)
            std = torch.lerp(elites.std(dim=1), std, MOMENTUM)
        return Plan(kept[:, 0], costs[:, 0], kept)


register("icem", ICEM)
