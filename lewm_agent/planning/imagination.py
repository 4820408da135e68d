"""What a model expects of the plan that is being executed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning.episodes import Actions, EpisodeMemory
from lewm_agent.planning.settings import PlannerConfig


@torch.inference_mode()
def imagine(model: WorldModel, planner: PlannerConfig, memory: EpisodeMemory) -> tuple[Actions, NDArray[np.float64]]:
    """The plan of which a memory has just begun to execute the first action, and what the model expects of it.

    Where the head acts without a search, the plan is what it would do in imagination, up to the planner's horizon.

    Args:
        model: that imagines.
        planner: that plans with it.
        memory: of an episode, just after a plan was made.

    Returns:
        Actions (P, frame_skip, action_dim) in the environment's units, and latents (P, D) after each block. Where the
        planner counts the best block of a plan (cost ``best``), P ends with that block: what follows is arbitrary.

    Raises:
        ValueError: there is no plan yet.
    """
    if memory.rest is None or memory.goal_latent is None:
        raise ValueError("there is no plan yet")
    codec, device = model.codec, memory.goal_latent.device
    queue = [codec.normalize(torch.as_tensor(action, device=device)) for action in memory.queue]
    latents = torch.stack(memory.latents)[None]
    past = torch.stack(memory.blocks) if memory.blocks else latents.new_zeros(0, model.config.block_dim)
    blocks = codec.joined(torch.cat([torch.stack([memory.executing[-1], *queue]), memory.rest[0]]))
    if planner.proposals == "follow":
        arrival = torch.tensor([[memory.arrival + planner.execute]], device=device)
        proposed = model.propose(latents, past[None], memory.goal_latent[None], arrival, planner.horizon)[0, 0]
        blocks = torch.cat([blocks[: planner.execute], proposed[planner.execute :]])
    imagined = model.rollout(latents, past[None], blocks[None, None])[0, 0]
    best = int((imagined - memory.goal_latent).square().sum(dim=1).argmin())
    length = best + 1 if planner.cost == "best" else len(imagined)
    actions: NDArray[np.float32] = codec.actions(blocks[:length]).cpu().numpy()
    return actions, array(imagined[:length])


def array(values: torch.Tensor) -> NDArray[np.float64]:
    """In double precision."""
    doubled: NDArray[np.float64] = values.double().cpu().numpy()
    return doubled
