"""CEM with a mixture of Gaussians: several ways to the goal are refined side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lewm_agent.planning.cem import CEM
from lewm_agent.planning.search import CostFunction, Plan


@dataclass(frozen=True, kw_only=True)
class Mixture(CEM):
    """Components of equal weight, each with its share of the samples and elites; the cheapest component wins.

    One mean in the middle of two good ways around an obstacle is a bad plan; components do not mix theirs.

    Raises:
        ValueError: a component would have more elites than samples, or fewer than 2.
    """

    components: int
    """Gaussians. They begin at draws around the guess, the first at the guess itself."""

    def __post_init__(self) -> None:
        if self.elites < 2 * self.components:
            raise ValueError(
                f"elites ({self.elites}) must be at least 2 for each of the {self.components} components of a mixture: "
                f"{2 * self.components} in all"
            )
        self._component()

    def _component(self) -> CEM:
        return CEM(
            samples=self.samples // self.components,
            iterations=self.iterations,
            noise_correlation=self.noise_correlation,
            initial_std=self.initial_std,
            allowed=self.allowed,
            elites=self.elites // self.components,
            stop_std=self.stop_std,
        )

    def plan(self, cost: CostFunction, guesses: Tensor, generators: Sequence[torch.Generator]) -> Plan:
        """The mean of the cheapest component; the other guesses are not used. See :meth:`Search.plan`."""
        mean, count = guesses[:, 0], self.components
        starts = self._admitted(mean.unsqueeze(1) + self.initial_std * self._noise(mean, count, generators))
        each = [generator for generator in generators for _ in range(count)]

        def cost_of_all(candidates: Tensor) -> Tensor:
            together = candidates.unflatten(0, (-1, count)).flatten(1, 2)
            return cost(together).unflatten(1, (count, -1)).flatten(0, 1)

        found = self._component().plan(cost_of_all, starts.flatten(0, 1).unsqueeze(1), each)
        lowest, best = found.cost.unflatten(0, (-1, count)).min(dim=1)
        rows = torch.arange(len(best), device=best.device)
        return Plan(found.actions.unflatten(0, (-1, count))[rows, best], lowest)
