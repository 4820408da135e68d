"""What to aim at on the way to a far goal, and when to aim at something else.

A waypoint is kept until it is reached or given up: one that is drawn anew for every plan leads nowhere. It is given up
when twice the blocks that it should take are over, or when the agent is half a stride farther from it than it has been:
what it meant to do there did not work. The goal itself is aimed at as soon as it is near, and is kept as long.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from lewm_agent.models.far_goals import NOISE
from lewm_agent.models.learner import LatentModel
from lewm_agent.planning.episodes import EpisodeMemory
from lewm_agent.planning.recorded_ways import RecordedWays
from lewm_agent.planning.settings import PlannerConfig

DRAWN = 16
"""Latents that are drawn, of which one is aimed at."""
WAYS = 8
"""Recorded ways that are looked at, of which one is followed for a while."""
PATIENCE = 2
"""Strides after which a waypoint that was not reached is given up."""

NOT_FITTED = (
    "what planner.metric `steps` and planner.waypoints use is fitted when training ends, and this model's has not ended"
)


class Waypoints:
    """Chooses what each environment aims at.

    Args:
        world_model: with what is fitted for far goals.
        planner: where waypoints come from.

    Raises:
        ValueError: the model lacks it.
    """

    def __init__(self, world_model: LatentModel, planner: PlannerConfig) -> None:
        if world_model.far_goals is None:
            raise ValueError(NOT_FITTED)
        self.far, self.codec = world_model.far_goals, world_model.codec
        self.kind, self.horizon = planner.waypoints, planner.horizon
        self.stride = int(self.far.stride)
        self.ways: RecordedWays | None = None
        if self.kind == "recorded":
            if self.far.bank is None:
                raise ValueError(NOT_FITTED)
            self.ways = RecordedWays(self.far.bank, world_model.metric)

    def aimed(self, memory: EpisodeMemory) -> EpisodeMemory:
        """The memory before a plan, with what the plan is to aim at."""
        here, goal, target, steps = memory.latents[-1], memory.goal_latent, memory.target, self.far.steps
        if goal is None:
            raise ValueError("there is no goal to aim at")
        near = bool(steps(here, goal) <= steps.near)
        if memory.patience > 0 and target is not None:
            left = float(steps(here, target))
            under_way = steps.reached < left <= memory.nearest + float(steps.near) / 2
            if target is goal or (under_way and not near):
                return dataclasses.replace(memory, nearest=min(left, memory.nearest))
        target, recorded = (goal, None) if near else self._next(here, goal, memory)
        return dataclasses.replace(
            memory,
            target=target,
            patience=PATIENCE * self.stride,
            nearest=float(steps(here, target)),
            recorded=recorded,
            arrival=0,
        )

    def _next(self, here: Tensor, goal: Tensor, memory: EpisodeMemory) -> tuple[Tensor, Tensor | None]:
        """The waypoint (D,) to aim at from here, and recorded actions (K, T, action_dim) that may lead there."""
        recorded = None
        if self.ways is not None:
            candidates, blocks = self.ways.nearest(here, goal, WAYS, self.stride, self.stride + self.horizon)
            recorded = self.codec.split(blocks)
        else:
            candidates = self._imagined(here, goal, memory)
        return candidates[self._costs(here, goal, candidates).argmin()], recorded

    def _imagined(self, here: Tensor, goal: Tensor, memory: EpisodeMemory) -> Tensor:
        noise = here.new_zeros(1, 1, NOISE)
        if self.kind == "drawn":
            generator = torch.Generator(here.device).manual_seed(memory.seed * 1_000_003 + memory.plans)
            noise = torch.randn(1, DRAWN, NOISE, generator=generator, device=here.device)
        left = self.far.steps(here, goal).round().unsqueeze(0)
        found: Tensor = self.far.subgoals(here[None], goal[None], left, noise)[0]
        return found

    def _costs(self, here: Tensor, goal: Tensor, candidates: Tensor) -> Tensor:
        """Blocks there and on to the goal (K,); there is no hurry to be there in less than a stride."""
        there = self.far.steps(here, candidates).clamp(min=float(self.far.steps.near))
        costs: Tensor = there + self.far.steps(candidates, goal)
        return costs
