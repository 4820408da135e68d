"""What every search over action sequences shares: its interface, and how candidates are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lewm_agent.tools.checks import require
from lewm_agent.tools.settings import OfSeveralKinds

CostFunction = Callable[[Tensor], Tensor]
"""Candidates (N, S, T, A) to their costs (N, S)."""


@dataclass(frozen=True)
class Plan:
    """What a search found for each of N problems.

    Attributes:
        actions: (N, T, A), the plan.
        cost: (N,), the lowest cost among the last candidates.
        spares: (N, K, T, A), further good candidates that the next search may begin with, or None.
    """

    actions: Tensor
    cost: Tensor
    spares: Tensor | None = None


class ActionSet(Protocol):
    """The actions that there are."""

    def project(self, candidates: Tensor) -> Tensor:
        """Candidates (..., A) made actions of the set."""


@dataclass(frozen=True)
class Bounds:
    """Vectors between the lowest and the highest action (A,), in the units of the candidates."""

    low: Tensor
    high: Tensor

    def project(self, candidates: Tensor) -> Tensor:
        """The nearest vectors within the bounds."""
        return candidates.clamp(self.low, self.high)


@dataclass(frozen=True)
class Choices:
    """One-hot vectors, z-scored by the mean and standard deviation (A,) of the data; only choices the data have."""

    mean: Tensor
    std: Tensor

    def project(self, candidates: Tensor) -> Tensor:
        """The vectors of the largest components."""
        preference = candidates * self.std + self.mean
        preference = preference.masked_fill(self.mean <= 0, -torch.inf)
        chosen = functional.one_hot(preference.argmax(dim=-1), candidates.shape[-1])
        return (chosen.to(candidates.dtype) - self.mean) / self.std


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How many candidates are drawn, and which; the same for every search.

    Raises:
        ValueError: numbers that cannot be.
    """

    samples: int
    """Candidates per iteration."""
    elites: int
    """Candidates that CEM, iCEM and the mixture refit to."""
    iterations: int
    """Times candidates are drawn and costed."""
    initial_std: float = 1.0
    """Standard deviation of the first candidates."""
    noise_correlation: float = 0.0
    """Of the noise between successive steps, in [0, 1); 0 is white noise."""
    allowed: ActionSet | None = None
    """Where every candidate is moved to; None leaves them as they are drawn."""

    def __post_init__(self) -> None:
        for name in ("samples", "elites", "iterations"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.initial_std > 0, f"initial_std must be positive, got {self.initial_std}")
        require(self.elites <= self.samples, f"elites ({self.elites}) must be at most samples ({self.samples})")
        require(self.elites >= 2, f"elites must be at least 2 (their standard deviation is used), got {self.elites}")
        require(0 <= self.noise_correlation < 1, f"noise_correlation must be in [0, 1), got {self.noise_correlation}")

    def noise(self, mean: Tensor, samples: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Noise (N, samples, T, A) of variance 1 for means (N, T, A); zero for the first sample."""
        shape = samples, *mean.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=g, device=mean.device, dtype=mean.dtype) for g in generators])
        noise[:, 0] = 0
        return self._coloring(mean) @ noise

    def _coloring(self, mean: Tensor) -> Tensor:
        """(T, T) matrix that turns white noise into a stationary first-order autoregressive process of variance 1."""
        steps = torch.arange(mean.shape[1], device=mean.device)
        lag = steps[:, None] - steps[None, :]
        correlation = torch.tensor(self.noise_correlation, device=mean.device, dtype=mean.dtype)
        coloring = torch.where(lag >= 0, correlation ** lag.clamp(min=0), 0.0)
        coloring[:, 1:] *= (1 - correlation.square()).sqrt()
        return coloring

    def admitted(self, candidates: Tensor) -> Tensor:
        """Candidates (..., A) moved to where they may be."""
        return candidates if self.allowed is None else self.allowed.project(candidates)


@dataclass(frozen=True)
class Search(OfSeveralKinds, ABC):
    """Finds cheap action sequences. Knows nothing of pixels or networks; its fields are the settings of it alone."""

    family: ClassVar[str] = "search"
    needs_gradient: ClassVar[bool] = False
    """Whether the cost must be differentiable."""

    @classmethod
    def kinds(cls) -> Mapping[str, type[Any]]:
        """Every registered search."""
        return _searches

    @property
    def fewest_elites(self) -> int:
        """Less it cannot work with."""
        return 2

    def check(self, sampling: Sampling) -> None:
        """Raise ``ValueError`` unless it can work with so many samples and elites."""

    @abstractmethod
    def plan(
        self, cost: CostFunction, guesses: Tensor, generators: Sequence[torch.Generator], sampling: Sampling
    ) -> Plan:
        """Minimise ``cost`` for N independent problems.

        Args:
            cost: called once per iteration on candidates (N, S, T, A); returns (N, S).
            guesses: (N, G, T, A), G >= 1: where the search starts, and the spares of an earlier plan.
            generators: one per problem, on the device of ``guesses``, so that a problem's noise does not depend on
                which others are solved beside it.
            sampling: how candidates are drawn, in the units of ``guesses``.
        """


_searches: dict[str, type[Search]] = {}


def register(name: str, search: type[Search]) -> None:
    """Make a search known: commands and files call it by this name.

    Registering a name again replaces what it stood for, so that a notebook's cell can be run twice.

    Args:
        name: by which it is called.
        search: frozen dataclass; all fields have defaults, and none is called ``kind``.
    """
    _searches[name] = search


def cheapest(candidates: Tensor, costs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` cheapest of candidates (N, S, T, A), cheapest first, and their costs (N, count)."""
    lowest, order = costs.topk(count, dim=1, largest=False)
    return candidates.gather(1, order[:, :, None, None].expand(-1, -1, *candidates.shape[2:])), lowest
