"""Gradient descent on the actions, through the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lewm_agent.planning.search import CostFunction, Plan, Sampling, Search, cheapest, register
from lewm_agent.tools.checks import require


@dataclass(frozen=True)
class Gradient(Search):
    """Adam from several starts at once, the first of them at the guess itself."""

    needs_gradient: ClassVar[bool] = True

    learning_rate: float = 0.1
    """Of Adam, in standard deviations of the data's actions."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")

    def plan(
        self, cost: CostFunction, guesses: Tensor, generators: Sequence[torch.Generator], sampling: Sampling
    ) -> Plan:
        """The start that ends cheapest; the other guesses are not used. See :meth:`Search.plan`."""
        mean = guesses[:, 0]
        noise = sampling.noise(mean, sampling.samples, generators)
        candidates = sampling.admitted(mean.unsqueeze(1) + sampling.initial_std * noise).requires_grad_()
        adam = torch.optim.Adam([candidates], lr=self.learning_rate)
        for _ in range(sampling.iterations):
            with torch.enable_grad():
                (candidates.grad,) = torch.autograd.grad(cost(candidates).sum(), [candidates])
            adam.step()
            with torch.no_grad():
                candidates.copy_(sampling.admitted(candidates))
        best, lowest = cheapest(candidates.detach(), cost(candidates.detach()), 1)
        return Plan(best[:, 0], lowest[:, 0])


register("gradient", Gradient)
