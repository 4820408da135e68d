"""Is latent distance a distance one can walk down? Diagnosis of a Two-Room model on held-out episodes.

python eval/latent_geometry.py --model two_room --output geometry.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from lewm_agent import LeWMAgent
from lewm_agent.datasets.metadata import write_atomically
from lewm_agent.envs.two_room import TwoRoomEnv
from lewm_agent.envs.two_room_geometry import Geometry, segment_is_clear
from lewm_agent.eval import command
from lewm_agent.eval.protocols import held_out_episodes
from lewm_agent.world_model import straightness

ENVIRONMENT = "lewm/TwoRoom-v0"
NEAR = 60.0
"""px: pairs closer than this are what a plan of five blocks has to tell apart."""
BLOCKS = 5
PAIRS = 4000


@dataclass(frozen=True)
class Options:
    """How the latent space of a Two-Room model relates to the two rooms, on held-out episodes."""

    model: str = "two_room"
    """Bundled name, folder or Hub id."""
    episodes: int = 200
    """Held-out episodes."""
    seed: int = 0
    """Of the episodes and of the pairs of frames."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    output: Path | None = None
    """Where to write the JSON."""


@dataclass(frozen=True)
class Walks:
    """Pieces of held-out episodes: positions (N, T, 2) px, latents (N, T, D), normalised blocks (N, T - 1, block_dim).

    Neighbours in T are one action block apart, T = 6.
    """

    positions: NDArray[np.float64]
    latents: torch.Tensor
    blocks: torch.Tensor


def walking_distance(start: NDArray[np.float64], end: NDArray[np.float64]) -> float:
    """px; straight where nothing is in the way, else by way of the door's centre."""
    geometry = Geometry()
    if geometry.room(start) == geometry.room(end) or segment_is_clear(start, end, geometry):
        return float(np.linalg.norm(start - end))
    door = geometry.door_center
    return float(np.linalg.norm(start - door) + np.linalg.norm(door - end))


@torch.inference_mode()
def gather(agent: LeWMAgent, episodes: int, seed: int) -> Walks:
    """Cut held-out episodes into pieces of five blocks and encode them."""
    env = gym.make(ENVIRONMENT, render_mode="rgb_array", image_size=agent.config.model.image_size).unwrapped
    skip = agent.config.model.frame_skip
    positions, actions = [], []
    for number, episode in held_out_episodes(ENVIRONMENT, seed):
        if number == episodes:
            break
        for start in range(0, len(episode["state"]) - BLOCKS * skip, BLOCKS * skip):
            positions.append(episode["state"][start : start + BLOCKS * skip + 1 : skip])
            actions.append(episode["action"][start : start + BLOCKS * skip].reshape(BLOCKS, skip, -1))
    frames = torch.as_tensor(np.stack([[_frame(env, position) for position in walk] for walk in positions]))
    latents = torch.cat([agent.world_model.encode(chunk.to(agent.device)).cpu() for chunk in frames.split(64)])
    blocks = agent.world_model.normalize_actions(torch.as_tensor(np.stack(actions)).to(agent.device)).flatten(-2)
    return Walks(np.stack(positions), latents, blocks)


def _frame(env: Any, position: NDArray[np.float64]) -> NDArray[np.uint8]:
    if not isinstance(env, TwoRoomEnv):
        raise TypeError(f"this diagnosis is of the two-room world, not of {env}")
    env.reset(seed=0, options={"state": position})
    return env.render()


def linear_r2(latents: NDArray[np.float32], positions: NDArray[np.float64]) -> list[float]:
    """R^2 of x and y by least squares, fitted on one half of the walks and tested on the other."""
    half = len(latents) // 2
    design = np.concatenate([latents, np.ones((len(latents), 1), np.float32)], axis=1)
    weights, *_ = np.linalg.lstsq(design[:half], positions[:half], rcond=None)
    residual = positions[half:] - design[half:] @ weights
    return [round(float(r2), 3) for r2 in 1 - residual.var(0) / positions[half:].var(0)]


@torch.inference_mode()
def open_loop_error(agent: LeWMAgent, walks: Walks) -> list[float]:
    """Squared error after 1 to 5 imagined blocks from one real frame, as a share of the latents' variance."""
    model = agent.world_model
    latents = walks.latents.to(agent.device)
    past = torch.zeros(len(latents), 0, agent.config.model.block_dim, device=agent.device)
    imagined = model.rollout(latents[:, :1], past, walks.blocks.unsqueeze(1))[:, 0]
    variance = latents.flatten(0, 1).var(0).sum()
    errors = (imagined - latents[:, 1:]).square().sum(-1).mean(0) / variance
    return [round(float(error), 4) for error in errors]


def rank_correlations(walks: Walks, rng: np.random.Generator) -> tuple[float, float]:
    """Spearman correlation of latent distance with walking distance: over all pairs of frames, and over near ones."""
    latents, positions = walks.latents.flatten(0, 1).numpy(), walks.positions.reshape(-1, 2)
    first, second = rng.integers(len(latents), size=(2, PAIRS))
    walked = np.array([walking_distance(a, b) for a, b in zip(positions[first], positions[second], strict=True)])
    latent = np.linalg.norm(latents[first] - latents[second], axis=1)
    near = walked < NEAR
    every, close = (spearmanr(latent[chosen], walked[chosen]).statistic for chosen in (slice(None), near))
    return round(float(every), 3), round(float(close), 3)


def diagnose(options: Options) -> dict[str, Any]:
    """All figures of one model."""
    agent = LeWMAgent.from_pretrained(options.model, device=options.device)
    walks = gather(agent, options.episodes, options.seed)
    flat = walks.latents.flatten(0, 1)
    steps = walks.latents.diff(dim=1).square().sum(-1).mean() / flat.var(0).sum()
    every, near = rank_correlations(walks, np.random.default_rng(options.seed))
    return {
        "model": options.model,
        "episodes": options.episodes,
        "seed": options.seed,
        "frames": len(flat),
        "linear_r2_x_y": linear_r2(flat.numpy(), walks.positions.reshape(-1, 2)),
        "rank_correlation_all": every,
        "rank_correlation_near": near,
        "persistence": round(float(steps), 3),
        "straightness": round(float(straightness(walks.latents)), 3),
        "straightness_of_positions": round(float(straightness(torch.as_tensor(walks.positions))), 3),
        "open_loop_error": open_loop_error(agent, walks),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments)


def _work(options: Options) -> None:
    result = diagnose(options)
    table = Table("figure", "value", title=f"latent geometry of {options.model}")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)
    if options.output is not None:
        write_atomically(options.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
