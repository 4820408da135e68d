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
    """Gaussians, which share samples and elites. They begin at the guesses, the others at draws around the first."""
    wide_std: float = 0.0
    """Standard deviation of the last of them, which then begins at doing nothing, so that a search near good guesses
    also looks far from them; 0: it begins as the others do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.components >= 1, f"components must be at least 1, got {self.components}")
        require(self.wide_std >= 0, f"wide_std must not be negative, got {self.wide_std}")

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
        """The mean of the cheapest component. See :meth:`Search.plan`."""
        count = self.components
        starts, stds = self._begin(guesses, generators, sampling)
        each = [generator for generator in generators for _ in range(count)]

        def cost_of_all(candidates: Tensor) -> Tensor:
            together = candidates.unflatten(0, (-1, count)).flatten(1, 2)
            return cost(together).unflatten(1, (count, -1)).flatten(0, 1)

        share = dataclasses.replace(sampling, samples=sampling.samples // count, elites=sampling.elites // count)
        found = self.refined(cost_of_all, starts.flatten(0, 1), stds.flatten(0, 1), each, share)
        lowest, best = found.cost.unflatten(0, (-1, count)).min(dim=1)
        rows = torch.arange(len(best), device=best.device)
        return Plan(found.actions.unflatten(0, (-1, count))[rows, best], lowest)

    def _begin(
        self, guesses: Tensor, generators: Sequence[torch.Generator], sampling: Sampling
    ) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (N, components, T, A) of the first candidates."""
        first, given = guesses[:, :1], guesses[:, : self.components]
        starts = first + sampling.initial_std * sampling.noise(first[:, 0], self.components, generators)
        starts[:, : given.shape[1]] = given
        stds = torch.full_like(starts, sampling.initial_std)
        if self.wide_std:
            starts[:, -1], stds[:, -1] = 0, self.wide_std
        return sampling.admitted(starts), stds


register("mixture", Mixture)
