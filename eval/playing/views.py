"""Frames of held-out episodes, with what is known of each, and their latents."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from lewm_agent import LeWMAgent
from lewm_agent.eval.worlds.held_out import held_out_episodes
from lewm_agent.models.world_model import WorldModel
from lewm_agent.tools.progress import counted

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Views:
    """Frames of held-out episodes.

    Attributes:
        pixels: (N, H, W, 3) uint8.
        quantities: name -> values (N,), in the environment's units.
        episodes: (N,), which episode each frame is of.
        states: (N, S).
    """

    pixels: NDArray[np.uint8]
    quantities: dict[str, Matrix]
    episodes: NDArray[np.int64]
    states: Matrix


def gather(agent: LeWMAgent, environment: str, count: int, seed: int = 0) -> Views:
    """Every ``frame_skip``-th frame of held-out episodes, which depend on ``seed``, until there are ``count``."""
    kwargs = {**agent.description.environment_kwargs, "render_mode": "rgb_array"}
    env, skip = gym.make(environment, **kwargs).unwrapped, agent.config.model.frame_skip
    recorded = ((number, state) for number, e in held_out_episodes(environment, seed) for state in e["state"][::skip])
    pixels, physics, numbers, states = [], [], [], []
    shown = counted("frames", itertools.islice(recorded, count), count)
    for number, state in shown:
        _, info = env.reset(seed=0, options={"state": state})
        pixels.append(np.asarray(env.render()))
        physics.append(info["physics"])
        numbers.append(number)
        states.append(state)
    quantities = {name: np.array([one[name] for one in physics]) for name in physics[0]}
    return Views(np.stack(pixels), quantities, np.array(numbers), np.stack(states))


@torch.inference_mode()
def latents(model: WorldModel, pixels: NDArray[np.uint8], device: torch.device) -> Matrix:
    """Latents (N, latent_dim) of frames."""
    chunks = torch.as_tensor(pixels).split(128)
    return torch.cat([model.encode(chunk.to(device)).cpu() for chunk in chunks]).double().numpy()
