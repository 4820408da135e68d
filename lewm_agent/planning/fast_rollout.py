"""Rollouts for planning: at full precision or in bfloat16, interpreted or compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from lewm_agent.models.learner import LatentModel
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.tools.freed_memory import keep_freed
from lewm_agent.tools.precision import chosen_precision

Rollout = Callable[[Tensor, Tensor, Tensor], Tensor]
"""As :meth:`LatentModel.rollout`: latents, past blocks and candidate blocks to imagined latents, all float32."""


def fast_rollout(world_model: LatentModel, planner: PlannerConfig) -> Rollout:
    """How ``planner`` imagines with the present weights; later changes of the weights may not reach it.

    ``torch.compile`` needs a C++ compiler on the CPU and takes a minute before the first plan, and again for every
    number of frames known so far. There it also packs the weights once for the matrix products to come; on a GPU it
    records CUDA graphs.
    """
    keep_freed()
    precision = chosen_precision(planner.precision, world_model.action_mean.device)
    rollout = world_model.rollout if precision == "float32" else _bfloat16_rollout(world_model)
    if not planner.compile:
        return rollout
    if world_model.action_mean.device.type == "cuda":
        return torch.compile(rollout, dynamic=False, mode="reduce-overhead")
    return torch.compile(rollout, dynamic=False, options={"freezing": True})


def _bfloat16_rollout(world_model: LatentModel) -> Rollout:
    model = copy.deepcopy(world_model)
    for part in model.dynamics():
        part.to(torch.bfloat16)

    def rollout(latents: Tensor, past_blocks: Tensor, blocks: Tensor) -> Tensor:
        return model.rollout(latents.bfloat16(), past_blocks.bfloat16(), blocks.bfloat16()).float()

    return rollout
