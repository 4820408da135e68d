"""What the trainer trains, the controller plans with and checkpoints hold: the common base of all models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lewm_agent.models.action_codec import ActionCodec
from lewm_agent.models.clip import ClipConfig
from lewm_agent.models.encoder import Encoder
from lewm_agent.models.far_goals import FarGoals
from lewm_agent.models.goal_states import GoalStates
from lewm_agent.models.inverse_dynamics import InverseDynamics

STATISTICS = frozenset({"action_mean", "action_std"})
"""Tensors of every model; checkpoints of models that came without them lack both."""


@dataclass(frozen=True)
class Loss:
    """One training step: what is minimised, its terms (scalars by name), and the latents it was computed from.

    Latents (B, T, latent_dim) are watched for collapse; None where nothing is trained that could collapse.
    """

    total: Tensor
    terms: dict[str, Tensor]
    latents: Tensor | None = None


class Learner(nn.Module, ABC):
    """A model that is trained on clips and acts in blocks of actions.

    Actions outside are in the environment's units; the model works with z-scores, whose statistics are saved with the
    weights.

    Args:
        config: sizes of frames and action blocks.
    """

    encoder: nn.Module
    """Frames (B, H, W, 3) uint8 to latents (B, ...)."""
    action_mean: Tensor
    action_std: Tensor
    goal_states: GoalStates | None
    """Turns wanted numbers into latents to aim at; None where nothing was fitted to the data's."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.register_buffer("action_mean", torch.zeros(config.action_dim))
        self.register_buffer("action_std", torch.ones(config.action_dim))
        self.goal_states = None

    @property
    @abstractmethod
    def config(self) -> ClipConfig:
        """Sizes of frames and action blocks."""

    @property
    def trained_encoder(self) -> Encoder | None:
        """The encoder that learns, and whose pixel statistics are those of the data; None if it is frozen."""
        return None

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (..., H, W, 3) uint8 to latents (..., latent_dim)."""
        return self.encoder(frames.flatten(0, -4)).flatten(1).unflatten(0, frames.shape[:-3])

    @abstractmethod
    def loss(self, batch: Any) -> Loss:
        """The training objective on a batch of the kind it learns from (:mod:`lewm_agent.datasets.batch`)."""

    def before_training(self) -> None:
        """What is due when a training begins, with the statistics of its data; nothing by default."""

    def after_step(self, progress: float) -> None:
        """What is due after every optimisation step, a share ``progress`` of all; nothing by default."""

    def is_stored(self, name: str) -> bool:
        """Whether checkpoints hold the tensor called ``name``; weights that can be fetched anew need not be there."""
        return True

    def make_room(self, weights: Mapping[str, Tensor]) -> None:
        """Before ``weights`` are loaded: have those that a model may lack exactly if they are there."""
        if not STATISTICS & weights.keys():
            self.forget_actions()

    def fetch(self) -> None:
        """Fetch weights that are not trained, for a new model or where a checkpoint lacks them; by default none."""

    @property
    def codec(self) -> ActionCodec:
        """Between actions and blocks, with the present statistics."""
        return ActionCodec(self.action_mean, self.action_std, self.config.frame_skip)

    @property
    def knows_actions(self) -> bool:
        """Whether the statistics of actions are known: released models come without."""
        return bool(self.action_mean.isfinite().all())

    def forget_actions(self) -> None:
        """Mark the statistics of actions as not known."""
        self.action_mean.fill_(torch.nan)
        self.action_std.fill_(torch.nan)


class LatentModel(Learner):
    """A model that can be planned with."""

    metric: Tensor | None
    """Of :mod:`lewm_agent.training.slow_metric` (latent_dim, latent_dim); None until training has ended."""
    inverse_dynamics: InverseDynamics | None
    """Proposes plans, if there is one."""
    far_goals: FarGoals | None
    """Blocks to go and waypoints; None where nothing was fitted for far goals."""
    problems_at_once = 256
    """For how many environments plans are searched together on a GPU, whose memory holds all imagined latents."""

    @abstractmethod
    def rollout(self, latents: Tensor, past_blocks: Tensor, blocks: Tensor) -> Tensor:
        """Imagine S futures for each of N histories.

        Args:
            latents: (N, H, latent_dim), the last H <= history real frames.
            past_blocks: (N, H - 1, block_dim), the normalised blocks executed between them.
            blocks: (N, S, P, block_dim), the normalised candidates.

        Returns:
            (N, S, P, latent_dim): the latent after each block.
        """

    def propose(self, latents: Tensor, past_blocks: Tensor, goals: Tensor, arrivals: Tensor, horizon: int) -> Tensor:
        """Plans that the inverse-dynamics head makes by acting in imagination.

        Args:
            latents: (N, H, latent_dim), the last real frames, as for :meth:`rollout`.
            past_blocks: (N, H - 1, block_dim), executed between them.
            goals: (N, latent_dim).
            arrivals: (N, K), after how many blocks each plan is meant to be at the goal, from 1 to ``furthest``.
            horizon: length of a plan, in blocks; after its arrival it tries to be there with every block.

        Returns:
            (N, K, horizon, block_dim).

        Raises:
            ValueError: the model has no such head.
        """
        head = self.inverse_dynamics
        if head is None:
            raise ValueError("this model has no inverse-dynamics head to propose plans")
        count = arrivals.shape[1]
        latents, past_blocks, goals = (x.repeat_interleave(count, 0) for x in (latents, past_blocks, goals))
        left = arrivals.flatten()
        blocks = [head(latents[:, -1], goals, left)]
        for _ in range(1, horizon):
            imagined = self.rollout(latents, past_blocks, blocks[-1][:, None, None])[:, 0]
            latents = torch.cat([latents, imagined], dim=1)[:, -self.config.history :]
            past_blocks = torch.cat([past_blocks, blocks[-1][:, None]], dim=1)
            past_blocks = past_blocks[:, past_blocks.shape[1] + 1 - latents.shape[1] :]
            left = (left - 1).clamp(min=1)
            blocks.append(head(latents[:, -1], goals, left))
        return torch.stack(blocks, dim=1).unflatten(0, (-1, count))

    @abstractmethod
    def dynamics(self) -> tuple[nn.Module, ...]:
        """The parts that :meth:`rollout` goes through, which may be rounded to bfloat16."""
