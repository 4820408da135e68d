"""Gradient descent on the actions, through the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lewm_agent.planning.search import CostFunction, Plan, Search, cheapest


@dataclass(frozen=True, kw_only=True)
class GradientDescent(Search):
    """Adam from several starts at once, the first of them at the guess itself; the cost must be differentiable.

    Raises:
        ValueError: the learning rate is not positive.
    """

    learning_rate: float
    """Of Adam, in the units of the candidates."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")

    def plan(self, cost: CostFunction, guesses: Tensor, generators: Sequence[torch.Generator]) -> Plan:
        """The start that ends cheapest; the other guesses are not used. See :meth:`Search.plan`."""
        mean = guesses[:, 0]
        noise = self._noise(mean, self.samples, generators)
        candidates = self._admitted(mean.unsqueeze(1) + self.initial_std * noise).requires_grad_()
        adam = torch.optim.Adam([candidates], lr=self.learning_rate)
        for _ in range(self.iterations):
            with torch.enable_grad():
                (candidates.grad,) = torch.autograd.grad(cost(candidates).sum(), [candidates])
            adam.step()
            with torch.no_grad():
                candidates.copy_(self._admitted(candidates))
        best, lowest = cheapest(candidates.detach(), cost(candidates.detach()), 1)
        return Plan(best[:, 0], lowest[:, 0])
