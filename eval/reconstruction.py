"""What a latent looks like: frames decoded from real and from imagined latents.

python eval/reconstruction.py --env push_t --picture reconstruction.png --save decoder.safetensors

The decoder is trained here, on frames of held-out episodes and the frozen latents of these frames; the world model
learns nothing from it. With --save, eval/watch.py --decoder shows what the agent imagines.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from lewm_agent import LeWMAgent
from lewm_agent.envs import environment_id
from lewm_agent.eval import command
from lewm_agent.eval.options import ModelOptions
from lewm_agent.eval.playing.views import gather, latents
from lewm_agent.eval.reporting.pictures import save_picture
from lewm_agent.eval.surprise import BLOCKS, Trajectory, filmed, trajectories
from lewm_agent.eval.watching.frame_decoder import FrameDecoder
from lewm_agent.eval.worlds.world import make_environment
from lewm_agent.evaluation.provenance import provenance
from lewm_agent.tools.command import console
from lewm_agent.tools.progress import counted

BATCH, PEAK, WARMUP, WEIGHT_DECAY = 64, 1e-3, 100, 1e-2
"""Of AdamW; the authors name none."""
EPISODES_SEED, TRAJECTORIES_SEED = 1, 0
"""The decoder's frames and the shown trajectories come from different episodes."""
SHOWN = 3
"""Trajectories in the picture."""


@dataclass(frozen=True)
class Options(ModelOptions):
    """Train a decoder on frozen latents, and compare real, decoded, and imagined and then decoded frames."""

    frames: int = 8000
    """Frames of held-out episodes to train on."""
    steps: int = 3000
    """Training steps, of 64 frames."""
    trajectories: int = 50
    """Other held-out trajectories, of 12 action blocks, on which it is judged."""
    save: Path | None = None
    """Where to write the decoder."""
    seed: int = 0
    """Of the decoder's weights and batches."""


def train(decoder: FrameDecoder, encoded: Tensor, frames: Tensor, steps: int, seed: int) -> FrameDecoder:
    """Least squares on pixels.

    Args:
        decoder: trained in place.
        encoded: latents (N, latent_dim).
        frames: (N, H, W, 3) uint8.
        steps: of ``BATCH`` frames each.
        seed: of the batches.
    """
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=PEAK, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK, total_steps=steps, pct_start=min(0.3, WARMUP / steps), cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in counted("decoder", range(steps)):
        rows = torch.randint(len(frames), (BATCH,), generator=generator)
        wanted = decoder.normalize(frames[rows].to(encoded.device))
        loss = (decoder(encoded[rows.to(encoded.device)]) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return decoder.eval()


@torch.inference_mode()
def imagined(agent: LeWMAgent, real: Tensor, actions: NDArray[np.float32]) -> Tensor:
    """Latents (BLOCKS + 1, D): real ones as far as the model's history goes, and from there what actions lead to.

    Args:
        agent: whose model imagines.
        real: latents (BLOCKS + 1, D) of the true frames.
        actions: (BLOCKS * frame_skip, action_dim).
    """
    model, known = agent.world_model, agent.config.model.history
    blocks = model.codec.joined(model.codec.normalize(torch.as_tensor(actions, device=agent.device)))
    future = model.rollout(real[None, :known], blocks[None, : known - 1], blocks[None, None, known - 1 :])[0, 0]
    return torch.cat([real[:known], future])


@dataclass(frozen=True)
class Strip:
    """A trajectory three times, (BLOCKS + 1, H, W, 3) uint8 each."""

    real: NDArray[np.uint8]
    decoded: NDArray[np.uint8]
    imagined: NDArray[np.uint8]


def strip(agent: LeWMAgent, decoder: FrameDecoder, env: Any, told: Trajectory) -> Strip:
    """Film a trajectory, decode its frames' latents, and decode what the model imagines instead."""
    frames = filmed(env, told, told, "unchanged", agent.config.model.frame_skip)
    with torch.inference_mode():
        real = agent.world_model.encode(torch.as_tensor(frames).to(agent.device))
    both = torch.stack([real, imagined(agent, real, told.actions)])
    decoded = decoder.frames(both).cpu().numpy()
    return Strip(frames, decoded[0], decoded[1])


def unexplained(pictures: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Squared error at each block as a share of what the mean frame would leave.

    Args:
        pictures: (N, BLOCKS + 1, H, W, 3).
        truth: likewise.

    Returns:
        (BLOCKS + 1,).
    """
    shown, wanted = pictures.astype(np.float32), truth.astype(np.float32)
    left = np.square(wanted - wanted.mean(axis=(0, 1))).mean()
    return np.asarray(np.square(shown - wanted).mean(axis=(0, 2, 3, 4)) / left, np.float64)


def measure(options: Options) -> tuple[dict[str, Any], list[Strip]]:
    """All figures, JSON-ready, and the strips."""
    command.at_least(options, frames=1, steps=1, trajectories=1, seed=0)
    environment = environment_id(options.env)
    agent = command.load_model(options.model or command.bundled(options.env), environment, options.device)
    views = gather(agent, environment, options.frames, EPISODES_SEED)
    encoded = torch.as_tensor(latents(agent.world_model, views.pixels, agent.device)).float().to(agent.device)
    torch.manual_seed(options.seed)
    decoder = FrameDecoder.of(agent.world_model).to(agent.device)
    train(decoder, encoded, torch.as_tensor(views.pixels), options.steps, options.seed)
    if options.save is not None:
        decoder.save(options.save, agent.world_model)
    env = make_environment(environment, agent.description.environment_kwargs).unwrapped
    told = itertools.islice(trajectories(environment, agent.config.model.frame_skip), options.trajectories)
    strips = [strip(agent, decoder, env, one) for one in told]
    real = np.stack([one.real for one in strips])
    return {
        "env": environment,
        **provenance(agent, options.model or options.env),
        "frames": options.frames,
        "steps": options.steps,
        "seed": options.seed,
        "trajectories": options.trajectories,
        "real_frames": agent.config.model.history,
        "decoded": unexplained(np.stack([one.decoded for one in strips]), real).tolist(),
        "imagined": unexplained(np.stack([one.imagined for one in strips]), real).tolist(),
    }, strips


def show(result: dict[str, Any]) -> None:
    """Print the errors."""
    table = Table("block", "decoded", "imagined, then decoded")
    table.title = f"{result['env']}: squared error of pixels, as a share of the mean frame's (0 is perfect)"
    for block, (decoded, dreamt) in enumerate(zip(result["decoded"], result["imagined"], strict=True)):
        table.add_row(str(block), f"{decoded:.3f}", f"{dreamt:.3f}" if block >= result["real_frames"] else "real frame")
    console().print(table)


def draw(result: dict[str, Any], strips: list[Strip], path: Path) -> None:
    """The first trajectories: real above decoded above imagined, every second block."""
    columns = list(range(0, BLOCKS + 1, 2))
    shown = strips[:SHOWN]
    figure = Figure(figsize=(1.1 * len(columns) + 0.8, 3.6 * len(shown)), layout="constrained")
    panels = figure.subplots(3 * len(shown), len(columns), squeeze=False)
    for row, (one, kind) in enumerate(itertools.product(shown, ("real", "decoded", "imagined"))):
        for panel, block in zip(panels[row], columns, strict=True):
            panel.imshow(getattr(one, kind)[block])
            panel.set(xticks=[], yticks=[])
            if row == 0:
                panel.set_title(f"block {block}", fontsize=8)
        panels[row, 0].set_ylabel(kind, fontsize=8)
    figure.suptitle(f"{result['env']}: the model sees {result['real_frames']} real frame(s), then imagines", fontsize=9)
    save_picture(figure, path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, writes=("output", "picture", "save"))


def _work(options: Options) -> None:
    result, strips = measure(options)
    show(result)
    command.keep(options, result, lambda path: draw(result, strips, path))


if __name__ == "__main__":
    sys.exit(main())
