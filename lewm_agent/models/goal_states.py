"""A goal in numbers instead of a picture: from what an environment tells of its situation to the latent to aim at."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

COLUMNS = ("state", "achieved_goal", "observation")
"""Columns of data that say where an environment is; a goal that is one vector is meant in the first that is there."""
PART = "goal_states."
"""Beginning of the names of the head's tensors in a model's."""
WIDTH, DEPTH = 256, 2
FURTHEST, ABSURD = 5.0, 20.0
"""Standard deviations of the data beyond which a number is taken for that many, and beyond which it is refused."""
SMALLEST = 1e-6
"""Standard deviation under which a number counts as one that never changes."""

GoalState = ArrayLike | Mapping[str, ArrayLike]
"""Numbers of the first column, or of all, one after the other, or by name; NaN where any will do."""


class _Column(nn.Module):
    """Mean and standard deviation (S,) of the numbers of one column."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))


class GoalStates(nn.Module):
    """Wanted numbers, some of which may be left open, to the mean latent of frames recorded where they were so.

    Args:
        columns: how many numbers each has, by name.
        latent_dim: size of a latent.

    Attributes:
        error: squared error on frames of held-out episodes, all numbers given, as a share of the latents' variance.
    """

    error: Tensor
    center: Tensor
    spread: Tensor

    def __init__(self, columns: Mapping[str, int], latent_dim: int) -> None:
        super().__init__()
        self.columns = nn.ModuleDict({name: _Column(columns[name]) for name in COLUMNS if name in columns})
        self.register_buffer("error", torch.tensor(torch.nan))
        self.register_buffer("center", torch.zeros(latent_dim))
        self.register_buffer("spread", torch.ones(()))
        sizes = [4 * self.size, *[WIDTH] * DEPTH]
        hidden = [
            layer
            for inputs, outputs in itertools.pairwise(sizes)
            for layer in (nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU())
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(WIDTH, latent_dim))

    @staticmethod
    def fitting(weights: Mapping[str, Tensor], latent_dim: int) -> GoalStates | None:
        """The head whose tensors are among a model's ``weights``; None if there are none."""
        sizes = {name: weights.get(f"{PART}columns.{name}.mean") for name in COLUMNS}
        columns = {name: tensor.numel() for name, tensor in sizes.items() if tensor is not None}
        return GoalStates(columns, latent_dim) if columns else None

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers each column has, by name."""
        return {name: column.mean.numel() for name, column in self._named()}

    @property
    def size(self) -> int:
        """Of a vector of all columns, one after the other."""
        return sum(self.sizes.values())

    def set_statistics(self, numbers: Tensor, latents: Tensor) -> None:
        """Take over mean and standard deviation of recorded numbers (N, size) and of their latents (N, latent_dim)."""
        self.center.copy_(latents.mean(0))
        self.spread.copy_(latents.var(0, correction=0).mean().sqrt().clamp(min=SMALLEST))
        parts = numbers.split(list(self.sizes.values()), dim=1)
        for (_, column), part in zip(self._named(), parts, strict=True):
            column.mean.copy_(part.mean(0))
            std = part.std(0, correction=0)
            column.std.copy_(torch.where(std > SMALLEST, std, torch.ones_like(std)))

    def vector(self, wanted: GoalState) -> NDArray[np.float32]:
        """What is wanted as numbers of all columns (size,) or (N, size), NaN where nothing is.

        Raises:
            ValueError: unknown columns, other sizes, numbers that are infinite or far from all that data had, or none.
        """
        sizes = self.sizes
        given: Mapping[str, Any] = wanted if isinstance(wanted, Mapping) else self._by_name(_as_numbers(wanted))
        told = {name: _as_numbers(values) for name, values in given.items()}
        expected = ", ".join(f"{name} of {size} numbers" for name, size in sizes.items())
        if not told or any(told[name].shape[-1:] != (sizes.get(name),) or told[name].ndim > 2 for name in told):
            shapes = ", ".join(f"{name} {values.shape}" for name, values in told.items())
            raise ValueError(f"goal_state is {expected}, NaN for any that do not matter; got {shapes or 'nothing'}")
        rows = np.broadcast_shapes(*(values.shape[:-1] for values in told.values()))
        parts = [np.broadcast_to(told.get(name, np.float32(np.nan)), (*rows, size)) for name, size in sizes.items()]
        found = np.concatenate(parts, axis=-1)
        if np.isinf(found).any() or np.isnan(found).all(axis=-1).any():
            raise ValueError("goal_state must have a finite number, and NaN for those that do not matter")
        self._check_range(found)
        return found

    def _check_range(self, wanted: NDArray[np.float32]) -> None:
        """Raise ``ValueError`` for numbers (..., size) that are far from all that the data had."""
        names = [f"{name}[{i}]" for name, size in self.sizes.items() for i in range(size)]
        mean, std = (numbers.cpu().numpy() for numbers in self._statistics())
        rows = np.abs((wanted - mean) / std).reshape(-1, self.size)
        absurd = np.argwhere(np.nan_to_num(rows, nan=0.0) > ABSURD)
        if len(absurd):
            row, i = absurd[0]
            told = wanted.reshape(-1, self.size)[row, i]
            raise ValueError(
                f"goal_state {names[i]} is {told:g}, and in the data it was {mean[i]:.3g}, give or take {std[i]:.3g}: "
                "tell it in the data's units"
            )

    def _statistics(self) -> list[Tensor]:
        """Mean and standard deviation (size,) of the data's numbers."""
        return [torch.cat([getattr(column, name) for _, column in self._named()]) for name in ("mean", "std")]

    def _by_name(self, numbers: NDArray[Any]) -> dict[str, NDArray[Any]]:
        sizes = self.sizes
        if numbers.ndim and numbers.shape[-1] == self.size:
            ends = np.cumsum(list(sizes.values()))[:-1]
            return dict(zip(sizes, np.split(numbers, ends, axis=-1), strict=True))
        return {next(iter(sizes)): numbers}

    def forward(self, wanted: Tensor) -> Tensor:
        """Numbers (N, size), NaN where any will do, to latents (N, latent_dim)."""
        mean, std = self._statistics()
        known = ~wanted.isnan()
        numbers = torch.where(known, wanted, mean)
        scaled = ((numbers - mean) / std).clamp(-FURTHEST, FURTHEST)
        turns = [known * wave(numbers) for wave in (torch.sin, torch.cos)]  # so that angles may wrap
        found: Tensor = self.layers(torch.cat([scaled, *turns, known.to(scaled.dtype)], dim=1))
        return self.center + self.spread * found

    def _named(self) -> list[tuple[str, _Column]]:
        return [(name, column) for name, column in self.columns.items() if isinstance(column, _Column)]


def _as_numbers(given: Any) -> NDArray[np.float32]:
    try:
        return np.asarray(given, np.float32)
    except (ValueError, TypeError):
        raise ValueError(f"goal_state must be numbers, got {given!r}") from None
