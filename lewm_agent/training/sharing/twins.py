"""The same agent in each of several processes that learn together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lewm_agent.models.learner import Learner
from lewm_agent.training.callbacks import Callback
from lewm_agent.training.metrics_log import Logger
from lewm_agent.training.record import TrainingRecord
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.sharing.placement import Placement


@dataclass(frozen=True)
class LearnOptions:
    """How an agent is to learn; picklable."""

    placement: Placement
    weights: tuple[float, ...] | None
    labels: float
    labels_by: str
    resume: bool
    seed: int
    checkpoint_every: int
    workers: int | None
    progress: bool
    callbacks: tuple[Callback, ...]
    loggers: tuple[Logger, ...]


@dataclass(frozen=True)
class Twin:
    """What it takes to have the same agent in another process, but for its environment; picklable."""

    kind: Callable[..., Any]
    description: Any
    seed: int
    weights: dict[str, Tensor]

    def made(self, device: torch.device) -> Any:
        """The agent."""
        agent = self.kind(None, self.description, device=str(device), seed=self.seed)
        take_over(self.weights, agent.model)
        return agent


def learn_as_rank(
    twin: Twin, paths: list[Path], folder: RunFolder, options: LearnOptions, local_rank: int
) -> tuple[dict[str, Tensor], TrainingRecord | None]:
    """Train as one of several processes; the first of a machine returns what was learned."""
    agent = twin.made(options.placement.device_of(local_rank))
    agent.learn_here(paths, folder, options)
    return (on_cpu(agent.model.state_dict()) if local_rank == 0 else {}), agent.description.training


def on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that can be handed to another process."""
    return {name: value.cpu() for name, value in weights.items()}


def take_over(weights: dict[str, Tensor], model: Learner) -> None:
    """Give a model weights, whatever was fitted to it before."""
    model.make_room(weights)
    model.load_state_dict(weights, strict=False)
