"""What whoever decides about actions shares: goals and frames that are seen, and actions that are due."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lewm_agent.models.learner import Learner
from lewm_agent.planning.episodes import Actions, EpisodeMemory, Frames, Goal, Memories
from lewm_agent.tools.precision import one_thread

NO_GOAL_STATES = (
    "this agent takes goal images alone: nothing was fitted to numbers of the situation; where data record `state`, "
    "learn_goal_states(dataset) (lewm goal-states) does"
)


SMALL = 5_000_000
"""Parameters of a model that decides with one thread of a processor. Several have little to share, and where others
keep the cores busy they wait for one another: a plan of the bundled Cube model then took 60 to 430 ms with two, and 31
with one. The released sizes, with 18 million, use all."""


def require_finite(values: Tensor, name: str) -> None:
    """Raise ``ValueError`` if NaN or infinity is among the values, which the message calls ``name``."""
    if not values.isfinite().all():
        raise ValueError(
            f"the agent cannot act: {name} is not finite (NaN or infinity), as after a training that diverged, with "
            "statistics of other data, or with a cost of one's own that divides by zero"
        )


class Decider(ABC):
    """Turns frames and goal frames into actions, for several environments at once.

    Args:
        model: trained, in evaluation mode.
        low: lower action bounds (action_dim,), in the environment's units.
        high: upper action bounds (action_dim,).

    Raises:
        ValueError: the model came without the statistics of actions.
    """

    problems_at_once = 1
    """Environments whose frames are encoded together. One at a time, an environment's actions do not depend, not even
    in the last bit, on how many others are decided on beside it."""
    with_gradient = False
    """Whether tensors of a decision become part of a gradient."""

    def __init__(self, model: Learner, low: Actions, high: Actions) -> None:
        if not model.knows_actions:
            raise ValueError(
                "this model came without the mean and standard deviation of its actions: give `dataset` to "
                "from_pretrained, or call set_action_statistics(mean, std)"
            )
        self._encode = model.encode
        self._goal_states = model.goal_states
        self.device = model.action_mean.device
        small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
        self._in_threads = one_thread if small and self.device.type == "cpu" else contextlib.nullcontext
        self.low, self.high = low, high

    @abstractmethod
    def needs_frame(self, memory: EpisodeMemory) -> bool:
        """Whether the next decision looks at the frame; within a block of actions it may not."""

    @abstractmethod
    def queued(self, memories: Memories, seen: dict[int, Tensor]) -> Memories:
        """Memories with a queue of actions each, for which frames were ``seen``: latents (latent_dim,) by number."""

    def goal_distance(self, memory: EpisodeMemory) -> float | None:
        """How far the frame that was looked at last is from the goal, as plans are judged; None where nothing says."""
        return None

    def advanced(self, memory: EpisodeMemory) -> EpisodeMemory:
        """What is remembered once the first action of the queue is executed."""
        return dataclasses.replace(memory, queue=memory.queue[1:])

    def instead(self, memory: EpisodeMemory, action: Actions) -> EpisodeMemory:
        """What is remembered after a decision, where another action (action_dim,) is executed than was decided on."""
        return memory

    def decide(self, memories: Sequence[EpisodeMemory], frames: Frames, goals: Goal) -> tuple[Actions, Memories]:
        """One action for each of N environments.

        Args:
            memories: what is remembered of each.
            frames: (N, H, W, 3), the present frames; only looked at where :meth:`needs_frame` says so.
            goals: pictures (N, H, W, 3), or numbers (N, S) float32 (:meth:`GoalStates.vector`); a changed goal starts a
                fresh episode.

        Returns:
            Actions (N, action_dim) inside the bounds, and the new memories.

        Raises:
            ValueError: a latent, a cost or an action is not finite.
        """
        # Inference mode is 8 % faster, but its tensors cannot be part of a gradient later.
        gradients = torch.no_grad() if self.with_gradient else torch.inference_mode()
        with gradients, self._in_threads():
            towards = self._see_goals(list(memories), goals)
            looking = [i for i, memory in enumerate(towards) if self.needs_frame(memory)]
            latents = self._encoded(frames[looking], "the latent of the frame")
            ready = self.queued(towards, dict(zip(looking, latents, strict=True)))
            return np.stack([memory.queue[0] for memory in ready]), [self.advanced(memory) for memory in ready]

    def _see_goals(self, memories: Memories, goals: Goal) -> Memories:
        in_numbers = goals.dtype.kind == "f"
        new = [i for i, m in enumerate(memories) if m.goal is None or not _same(m.goal, goals[i])]
        latents = self._aimed_at(goals[new]) if in_numbers else self._encoded(goals[new], "the latent of the goal")
        for i, latent in zip(new, latents, strict=True):
            seed, plans = memories[i].seed, memories[i].plans
            memories[i] = EpisodeMemory(seed, plans, goal=goals[i].copy(), goal_latent=latent)
        return memories

    def _aimed_at(self, goals: Goal) -> list[Tensor]:
        """Latents of goals in numbers, one at a time, as frames are."""
        if self._goal_states is None:
            raise ValueError(NO_GOAL_STATES)
        return [self._goal_states(row[None])[0] for row in torch.as_tensor(goals).to(self.device)]

    def _encoded(self, frames: Frames, name: str) -> list[Tensor]:
        chunks = torch.as_tensor(frames).to(self.device).split(self.problems_at_once)
        encoded = [self._encode(chunk) for chunk in chunks if len(chunk)]
        for latents in encoded:
            require_finite(latents, name)
        return [latent for latents in encoded for latent in latents]


def _same(goal: Goal, other: Goal) -> bool:
    return goal.dtype == other.dtype and np.array_equal(goal, other, equal_nan=goal.dtype.kind == "f")
