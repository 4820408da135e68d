"""What is remembered of an episode from one decision to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Frames = NDArray[np.uint8]
Actions = NDArray[np.float32]
Goal = NDArray[Any]
"""Pictures (..., H, W, 3) uint8, or numbers (..., S) float32."""


@dataclass(frozen=True)
class EpisodeMemory:
    """What a controller remembers of one environment between two decisions; never changed in place.

    Attributes:
        seed: of the planner's noise in this episode.
        plans: how many plans were made.
        goal: picture (H, W, 3) or numbers (S,), or None before the first decision.
        goal_latent: (latent_dim,), what it means.
        latents: real frames' latents, one per finished action block, at most ``history``; or the recurrent state that
            an agent carries.
        blocks: the normalised blocks (block_dim,) executed between them.
        executing: the normalised actions (k, action_dim) of the block under way.
        queue: actions (k, action_dim) still to be executed before the next plan, in the environment's units.
        rest: the last plan and its spares beyond what is executed (G, k, action_dim), normalised; where a warm start
            begins.
        target: (latent_dim,), the waypoint that plans aim at; the goal's latent itself when it is near; None: there are
            no waypoints.
        patience: blocks after which another target is looked for.
        nearest: least blocks to the target so far, as the head tells them.
        recorded: actions (K, k, action_dim), normalised, that led to something like the target, from now on; or None.
        arrival: blocks until the proposal that is being followed is meant to be at the target; 0 if none is.
    """

    seed: int
    plans: int = 0
    goal: Goal | None = None
    goal_latent: Tensor | None = None
    latents: tuple[Tensor, ...] = ()
    blocks: tuple[Tensor, ...] = ()
    executing: tuple[Tensor, ...] = ()
    queue: tuple[Actions, ...] = ()
    rest: Tensor | None = None
    target: Tensor | None = None
    patience: int = 0
    nearest: float = 0.0
    recorded: Tensor | None = None
    arrival: int = 0


Memories = list[EpisodeMemory]


def begin_episodes(seed: int, state: Memories | None, starts: NDArray[np.bool_] | None, count: int) -> Memories:
    """Memories of ``count`` environments before a decision: those of ``state``, or fresh ones where an episode begins.

    Args:
        seed: the agent's.
        state: what the last decision left; None if there was none.
        starts: (count,) true where an episode has just begun; None for nowhere.
        count: observations that are to be decided on.

    Raises:
        TypeError: ``state`` is nothing of the kind.
        ValueError: ``state`` or ``starts`` is of another number of environments.
    """
    if state is None:
        return [EpisodeMemory(episode_seed(seed, row, 0)) for row in range(count)]
    if not isinstance(state, list) or not all(isinstance(memory, EpisodeMemory) for memory in state):
        raise TypeError("state must be what predict or initial_memories returned, or None where episodes begin")
    if len(state) != count:
        raise ValueError(f"got {count} observations for the state of {len(state)} environments")
    fresh = np.zeros(count, bool) if starts is None else np.atleast_1d(starts)
    if fresh.shape != (count,):
        raise ValueError(f"episode_start must have one value for each of the {count} environments, got {fresh.shape}")
    return [
        EpisodeMemory(episode_seed(memory.seed, row, 1)) if new and memory.plans else memory
        for row, (memory, new) in enumerate(zip(state, fresh, strict=True))
    ]


def episode_seed(seed: int, row: int, episode: int) -> int:
    """Of the planner's noise in one episode of the environment in a row of the batch."""
    return int(np.random.SeedSequence([seed, row, episode]).generate_state(1)[0])
