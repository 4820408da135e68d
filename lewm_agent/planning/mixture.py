"""CEM with a mixture of Gaussians: several ways to the goal are refined side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lewm_agent.planning.cem import CEM
from lewm_agent.planning.search import CostFunction, Plan, Sampling, register
from lewm_agent.tools.checks import require


@dataclass(frozen=True)
class Mixture(CEM):
    """Components of equal weight, each with its share of the samples and elites; the cheapest component wins.

    One mean in the middle of two good ways around an obstacle is a bad plan; components do not mix theirs.
    """

    components: int = 4
    """Gaussians, which share samples and elites. They begin at draws around the guess, the first at the guess."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.components >= 1, f"components must be at least 1, got {self.components}")

    @property
    def fewest_elites(self) -> int:
        """Two for each component."""
        return 2 * self.components

    def check(self, sampling: Sampling) -> None:
        """Raise ``ValueError`` unless there are two elites for each component."""
        require(
            sampling.elites >= self.fewest_elites,
            f"elites ({sampling.elites}) must be at least 2 for each of the {self.components} components of a "
            f"mixture: {self.fewest_elites} in all",
        )

    def plan(
        self, cost: CostFunction, guesses: Tensor, generators: Sequence[torch.Generator], sampling: Sampling
    ) -> Plan:
        """The mean of the cheapest component; the other guesses are not used. See :meth:`Search.plan`."""
        mean, count = guesses[:, 0], self.components
        starts = sampling.admitted(mean.unsqueeze(1) + sampling.initial_std * sampling.noise(mean, count, generators))
        each = [generator for generator in generators for _ in range(count)]

        def cost_of_all(candidates: Tensor) -> Tensor:
            together = candidates.unflatten(0, (-1, count)).flatten(1, 2)
            return cost(together).unflatten(1, (count, -1)).flatten(0, 1)

        share = dataclasses.replace(sampling, samples=sampling.samples // count, elites=sampling.elites // count)
        found = super().plan(cost_of_all, starts.flatten(0, 1).unsqueeze(1), each, share)
        lowest, best = found.cost.unflatten(0, (-1, count)).min(dim=1)
        rows = torch.arange(len(best), device=best.device)
        return Plan(found.actions.unflatten(0, (-1, count))[rows, best], lowest)


register("mixture", Mixture)
