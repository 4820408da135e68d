"""Is latent distance a distance one can walk down? Diagnosis of Two-Room models on held-out episodes.

python eval/latent_geometry.py --model two_room --output geometry.json --picture geometry.png
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import spearmanr

from lewm_agent import LeWMAgent
from lewm_agent.envs.two_room.geometry import WORLD_SIZE, Geometry, disk_is_clear, segment_is_clear
from lewm_agent.eval import command
from lewm_agent.eval.playing import views
from lewm_agent.eval.reporting.geometry_picture import Distances, Picture, draw
from lewm_agent.eval.worlds.held_out import held_out_episodes
from lewm_agent.evaluation.provenance import model_record, provenance
from lewm_agent.models.world_model import straightness
from lewm_agent.tools.command import console
from lewm_agent.tools.replacing import write_json

ENVIRONMENT = "lewm/TwoRoom-v0"
NEAR = 60.0
"""px: pairs closer than this are what a plan of five blocks has to tell apart."""
BLOCKS = 5
PAIRS = 4000
PLACES = 500
GOAL = (160.0, 175.0)
"""px; of the map: in the right room, away from the door, which is at (112, 49)."""
GRID = 48
"""Places of the map on each axis."""


@dataclass(frozen=True)
class Options:
    """How the latent spaces of Two-Room models relate to the two rooms, on held-out episodes."""

    model: tuple[str, ...] = ("two_room",)
    """Bundled names, folders or Hub ids."""
    episodes: int = 200
    """Held-out episodes."""
    seed: int = 0
    """Of the episodes and of the pairs of frames."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    output: Path | None = None
    """Where to write the JSON."""
    picture: Path | None = None
    """Where to draw the distances around a goal and against the distance to walk (PNG)."""


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
    skip = agent.config.model.frame_skip
    positions, actions = [], []
    for number, episode in held_out_episodes(ENVIRONMENT, seed):
        if number == episodes:
            break
        for start in range(0, len(episode["state"]) - BLOCKS * skip, BLOCKS * skip):
            positions.append(episode["state"][start : start + BLOCKS * skip + 1 : skip])
            actions.append(episode["action"][start : start + BLOCKS * skip])
    latents = encode_places(agent, np.concatenate(positions)).unflatten(0, (len(positions), -1))
    codec = agent.world_model.codec
    blocks = codec.joined(codec.normalize(torch.as_tensor(np.stack(actions)).to(agent.device)))
    return Walks(np.stack(positions), latents, blocks)


@torch.inference_mode()
def encode_places(agent: LeWMAgent, positions: NDArray[np.float64]) -> torch.Tensor:
    """Latents (N, D) of frames with the agent at these places (N, 2), px."""
    env = gym.make(ENVIRONMENT, render_mode="rgb_array", image_size=agent.config.model.image_size).unwrapped
    frames = []
    for position in positions:
        env.reset(seed=0, options={"state": position})
        frames.append(np.asarray(env.render()))
    return torch.as_tensor(views.latents(agent.world_model, np.stack(frames), agent.device)).float()


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


def some_pairs(walks: Walks, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.float64]]:
    """Latents (N, D) of frames drawn at random and of others, and the px to walk between them (N,)."""
    latents, positions = walks.latents.flatten(0, 1), walks.positions.reshape(-1, 2)
    first, second = rng.integers(len(latents), size=(2, PAIRS))
    walked = [walking_distance(a, b) for a, b in zip(positions[first], positions[second], strict=True)]
    return latents[first], latents[second], np.array(walked)


def rank_correlations(walks: Walks, rng: np.random.Generator) -> tuple[float, float]:
    """Spearman correlation of latent distance with walking distance: over all pairs of frames, and over near ones."""
    first, second, walked = some_pairs(walks, rng)
    latent = (first - second).norm(dim=1).numpy()
    every, close = (spearmanr(latent[chosen], walked[chosen]).statistic for chosen in (slice(None), walked < NEAR))
    return round(float(every), 3), round(float(close), 3)


def patch_repetition(agent: LeWMAgent, rng: np.random.Generator) -> float:
    """Mean latent distance between places one patch of the encoder apart, as a share of that of half a patch.

    Below 1, a step of a whole patch seems shorter than the half of it: the latent tells where in its patch the agent
    is better than in which patch.
    """
    geometry, config = Geometry(), agent.config.model
    patch = WORLD_SIZE * config.patch_size / config.image_size
    rooms = np.array([[geometry.lower_limit, geometry.wall_band[0]], [geometry.wall_band[1], geometry.upper_limit]])
    x = rng.uniform(*rooms[rng.integers(2, size=PLACES)].T)
    y = rng.uniform(geometry.lower_limit, geometry.upper_limit - patch, PLACES)
    here, half, whole = (encode_places(agent, np.stack([x, y + down], axis=1)) for down in (0, patch / 2, patch))
    return round(float((whole - here).norm(dim=1).mean() / (half - here).norm(dim=1).mean()), 3)


def diagnose(agent: LeWMAgent, name: str, walks: Walks, seed: int) -> dict[str, Any]:
    """All figures of one model."""
    flat = walks.latents.flatten(0, 1)
    steps = walks.latents.diff(dim=1).square().sum(-1).mean() / flat.var(0).sum()
    every, near = rank_correlations(walks, np.random.default_rng(seed))
    return {
        "model": name,
        "frames": len(flat),
        "linear_r2_x_y": linear_r2(flat.numpy(), walks.positions.reshape(-1, 2)),
        "rank_correlation_all": every,
        "rank_correlation_near": near,
        "patch_repetition": patch_repetition(agent, np.random.default_rng(seed)),
        "persistence": round(float(steps), 3),
        "straightness": round(float(straightness(walks.latents)), 3),
        "straightness_of_positions": round(float(straightness(torch.as_tensor(walks.positions))), 3),
        "open_loop_error": open_loop_error(agent, walks),
    }


def picture(agent: LeWMAgent, name: str, walks: Walks, seed: int) -> Picture:
    """Distances of one model, Euclidean and, where the model has it, in the slow metric."""
    geometry, model = Geometry(), agent.world_model
    grid = np.linspace(geometry.lower_limit, geometry.upper_limit, GRID)
    places = np.array([[x, y] for y in grid for x in grid])
    clear = np.array([disk_is_clear(place, geometry) for place in places])
    latents = encode_places(agent, np.concatenate([places[clear], [GOAL]]))
    first, second, walked = some_pairs(walks, np.random.default_rng(seed))
    metrics = {"Euclidean": torch.eye(latents.shape[1])}
    if model.metric is not None:
        metrics["slow"] = model.metric.cpu()
    distances = {}
    for metric, matrix in metrics.items():
        apart = ((first - second) @ matrix).norm(dim=1)
        around = np.full(len(places), np.nan)
        around[clear] = ((latents[:-1] - latents[-1]) @ matrix).norm(dim=1) / apart.mean()
        distances[metric] = Distances(around.reshape(GRID, GRID), (apart / apart.mean()).numpy())
    return Picture(Path(name).name, grid, np.array(GOAL), walked, distances)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, writes=("output", "picture"))


def _work(options: Options) -> None:
    command.at_least(options, episodes=2, seed=0)
    results, records, pictures = [], [], []
    for name in options.model:
        agent = command.load_model(name, ENVIRONMENT, options.device)
        walks = gather(agent, options.episodes, options.seed)
        results.append(diagnose(agent, name, walks, options.seed))
        records.append(model_record(agent, name))
        if options.picture is not None:
            pictures.append(picture(agent, name, walks, options.seed))
    table = Table("figure", *options.model, title="latent geometry")
    for figure in list(results[0])[1:]:
        table.add_row(figure.replace("_", " "), *(str(result[figure]) for result in results))
    console().print(table)
    if options.output is not None:
        content = {"env": ENVIRONMENT, "episodes": options.episodes, "seed": options.seed}
        content["models"] = [{**result, "model": of} for result, of in zip(results, records, strict=True)]
        write_json(options.output, {**content, **provenance()})
    if options.picture is not None:
        draw(pictures, options.picture)


if __name__ == "__main__":
    sys.exit(main())
