"""What a plan expects: as latents, and as frames that a decoder draws of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lewm_agent import LeWMAgent
from lewm_agent.envs.goal_env import Vector
from lewm_agent.eval.watching.frame_decoder import FrameDecoder
from lewm_agent.planning.episodes import Actions, EpisodeMemory, Frames


class Expectations:
    """For every step of one episode, the frame that the plan of that step leads to; a watcher of ``Player``."""

    def __init__(self, agent: LeWMAgent, decoder: FrameDecoder) -> None:
        self._agent, self._decoder = agent, decoder
        self.frames: list[Frames] = []

    def __call__(self, memory: EpisodeMemory, planned: bool) -> None:
        """Take note of one decision."""
        self.frames.append(self._last_frame(memory) if planned else self.frames[-1])

    def _last_frame(self, memory: EpisodeMemory) -> Frames:
        return draw(self._decoder, imagine(self._agent, memory)[1][-1:])[0]


def draw(decoder: FrameDecoder, latents: Vector) -> Frames:
    """Frames (P, H, W, 3) of latents (P, D)."""
    return decoder.frames(torch.as_tensor(latents).float().to(decoder.pixel_mean.device)).cpu().numpy()


@torch.inference_mode()
def imagine(agent: LeWMAgent, memory: EpisodeMemory) -> tuple[Actions, Vector]:
    """The plan of which a memory has just begun to execute the first action, and what the model expects of it.

    Where the head acts without a search, the plan is what it would do in imagination, up to the planner's horizon.

    Returns:
        Actions (P, frame_skip, action_dim) in the environment's units, and latents (P, D) after each block. Where the
        planner counts the best block of a plan (cost ``best``), P ends with that block: what follows is arbitrary.
    """
    model, codec, planner = agent.world_model, agent.world_model.codec, agent.config.planner
    if memory.rest is None or memory.goal_latent is None:
        raise ValueError("there is no plan yet")
    queue = [codec.normalize(torch.as_tensor(action, device=agent.device)) for action in memory.queue]
    latents = torch.stack(memory.latents)[None]
    past = torch.stack(memory.blocks) if memory.blocks else latents.new_zeros(0, agent.config.model.block_dim)
    blocks = codec.joined(torch.cat([torch.stack([memory.executing[-1], *queue]), memory.rest[0]]))
    if planner.proposals == "follow":
        arrival = torch.tensor([[memory.arrival + planner.execute]], device=agent.device)
        proposed = model.propose(latents, past[None], memory.goal_latent[None], arrival, planner.horizon)[0, 0]
        blocks = torch.cat([blocks[: planner.execute], proposed[planner.execute :]])
    imagined = model.rollout(latents, past[None], blocks[None, None])[0, 0]
    best = int((imagined - memory.goal_latent).square().sum(dim=1).argmin())
    length = best + 1 if planner.cost == "best" else len(imagined)
    actions: NDArray[np.float32] = codec.actions(blocks[:length]).cpu().numpy()
    return actions, array(imagined[:length])


def array(values: torch.Tensor) -> Vector:
    """In double precision."""
    return values.double().cpu().numpy()
