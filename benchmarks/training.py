"""Processor seconds of a training step of every preset and of its parts, beside the matrix products of this process.

Run ``python benchmarks/training.py``. Episodes of Two-Room are collected into a temporary folder, for only the size of
the frames matters. The peak is that of a product of two matrices of 1,024 x 1,024 numbers, measured in every turn, and
shares of it are medians over the turns: the speed of a shared machine wanders. Operations are those of matrix products,
convolutions and attention, as torch counts them.

The parts are timed on their own, forwards and backwards, on inputs of the right sizes. They need not add up to the
step: in it they find other things in the processor's cache.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from clip_reading import collected
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lewm_agent.config import AgentConfig
from lewm_agent.datasets import Clips, OfflineDataset, clip_batches
from lewm_agent.eval import command
from lewm_agent.models.encoder import Encoder
from lewm_agent.models.world_model import WorldModel
from lewm_agent.presets import PRESETS, preset
from lewm_agent.tools.command import console
from lewm_agent.tools.freed_memory import keep_freed
from lewm_agent.training.encoding import encode_all

STEP = "whole step"
PEAK_SIDE = 1024
Part = Callable[[], Any]


@dataclass(frozen=True)
class Arguments:
    """Processor seconds of a training step of every preset and of its parts, beside the peak of this process."""

    preset: tuple[str, ...] = tuple(PRESETS)
    """Whose steps."""
    batch_size: int | None = None
    """Clips per step; by default the preset's, of which `paper` takes a minute a step."""
    episodes: int = 20
    """Episodes to read from."""
    repeats: int = 5
    """Turns; medians are shown."""
    threads: int = 1
    """Threads of torch."""
    output: Path | None = None
    """JSON file for the results."""


def parts(config: AgentConfig, dataset: OfflineDataset, batch_size: int) -> dict[str, Part]:
    """The step, and what it consists of, by name; the model is new."""
    torch.manual_seed(0)
    model = WorldModel(config.model, config.objective, config.inverse_dynamics)
    clips = Clips(dataset, None, config.model.clip_frames, config.model.frame_skip, _goal_blocks(config))
    if model.encoder.starts_from_frames:
        model.encoder.start_from(torch.as_tensor(dataset.sample_frames([0, 1])))
    if config.training.frozen_encoder:
        clips.stand_ins = encode_all(model, dataset)
    numbers = np.random.default_rng(0).permutation(len(clips))[:batch_size].tolist()
    batch = next(clip_batches(clips, len(numbers), 0, 0, 1))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-6, fused=True)

    def step() -> None:
        loss = model.loss(batch).total
        optimizer.zero_grad()
        loss.backward()
        optimize()

    def optimize() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.after_step(1.0)

    step()  # so that there are gradients to take a step with
    goals = [] if batch.goals is None else [batch.goals[:, None]]
    frames = torch.cat([batch.frames, *goals], dim=1)
    found: dict[str, Part] = {STEP: step, "reading": lambda: clips.fetch(numbers)}
    if not frames.is_floating_point():
        found |= _encoding(model.encoder, frames.flatten(0, 1))
    return found | _the_rest(model, frames, batch.actions) | {"optimiser": optimize}


def _goal_blocks(config: AgentConfig) -> int | None:
    return config.objective.goal_blocks(config.model, config.inverse_dynamics)


def _encoding(encoder: Encoder, frames: Tensor) -> dict[str, Part]:
    """Pixels, the stages of the backbone and the projector."""
    found: dict[str, Part] = {"pixels": lambda: encoder.normalize(frames)}
    inputs = encoder.normalize(frames)
    for name, stage in _stages(encoder):
        found[name] = _there_and_back(stage, inputs)
        with torch.no_grad():
            inputs = stage(inputs)
    return found


def _stages(encoder: Encoder) -> list[tuple[str, nn.Module]]:
    if encoder.backbone == "vit":
        return [("ViT", encoder.vit), ("projector", encoder.projector)]
    layers = list(encoder.cnn)
    first = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d | nn.Flatten)]
    stages = [nn.Sequential(*layers[a:b]) for a, b in itertools.pairwise([*first, len(layers)])]
    named: list[tuple[str, nn.Module]] = [(f"stage {i}", stage) for i, stage in enumerate(stages, 1)]
    return [*named, ("projector", encoder.projector)]


def _the_rest(model: WorldModel, frames: Tensor, actions: Tensor) -> dict[str, Part]:
    """What is done with latents."""
    count, length = frames.shape[:2]
    steps = actions.shape[1]
    latents = torch.randn(count, length, model.config.latent_dim)
    blocks = model.codec.blocks(actions)
    found = {"predictor": _there_and_back(lambda x: model.predict_in_training(x, blocks), latents[:, :steps])}
    if model.decoder is not None:
        found["decoder"] = _there_and_back(model.decoder, latents[:, [0, -1]].flatten(0, 1))
        found["small pictures"] = lambda: model.encoder.thumbnails(frames[:, [0, -1]].flatten(0, 1), 24)
    sigreg = getattr(model.objective, "sigreg", None)
    if sigreg is not None:
        found["SIGReg"] = _there_and_back(sigreg, latents[:, : steps + 1].transpose(0, 1))
    return found


def _there_and_back(module: Callable[[Tensor], Tensor], inputs: Tensor) -> Part:
    """Forwards and backwards through a part that has gradients; not into frames, which need none."""
    is_pixels = inputs.dim() == 4 and inputs.shape[1] == 3
    inputs = inputs.detach().requires_grad_(not is_pixels)

    def run() -> None:
        outputs = module(inputs)
        outputs.backward(torch.ones_like(outputs))
        inputs.grad = None

    return run


def measure(found: dict[str, Part], repeats: int) -> dict[str, Any]:
    """Processor seconds of every part, billions of operations, and its share of the peak of the same turn."""
    operations = {name: _operations(part) for name, part in found.items()}
    seconds: dict[str, list[float]] = {name: [] for name in found}
    peaks = []
    for _ in track(range(repeats), "turns", console=console(stderr=True), transient=True):
        peaks.append(peak())
        for name, part in found.items():
            seconds[name].append(_processor_seconds(part))
    return {
        name: {
            "processor_seconds": round(statistics.median(times), 6),
            "all_repeats": [round(value, 6) for value in times],
            "giga_operations": round(operations[name] / 1e9, 4),
            "share_of_peak": round(
                statistics.median(operations[name] / (a * b) for a, b in zip(times, peaks, strict=True)), 4
            ),
            "giga_operations_per_second_at_peak": round(statistics.median(peaks) / 1e9, 1),
        }
        for name, times in seconds.items()
    }


def peak() -> float:
    """Operations per processor second of a large product of matrices; the best of three."""
    matrix = torch.randn(PEAK_SIDE, PEAK_SIDE)
    return 2 * PEAK_SIDE**3 / min(_processor_seconds(lambda: matrix @ matrix) for _ in range(3))


def _operations(part: Part) -> int:
    with FlopCounterMode(display=False) as counter:
        part()
    return int(counter.get_total_flops())


def _processor_seconds(part: Part) -> float:
    began = time.process_time()
    part()
    return time.process_time() - began


def show(name: str, results: dict[str, Any]) -> None:
    """Print the table of a preset."""
    rate = results[STEP]["giga_operations_per_second_at_peak"]
    table = Table("part", "ms", "% of the step", "operations, billion", "% of the peak", title=f"{name}, {rate} / s")
    for part, row in results.items():
        share = row["processor_seconds"] / results[STEP]["processor_seconds"]
        operations = row["giga_operations"]
        told = (f"{operations:.2f}", f"{100 * row['share_of_peak']:.0f}") if operations else ("", "")
        table.add_row(part, f"{1000 * row['processor_seconds']:.1f}", f"{100 * share:.1f}", *told)
    console().print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Arguments, _work, arguments, writes=("output",))


def _work(arguments: Arguments) -> None:
    """Measure, show and save."""
    command.at_least(arguments, episodes=2, repeats=1, threads=1)
    configs = {name: preset(name) for name in arguments.preset}
    if not configs:
        raise ValueError("give at least one preset")
    torch.set_num_threads(arguments.threads)
    keep_freed()  # as training does
    results = {}
    for name, config in configs.items():
        with tempfile.TemporaryDirectory() as folder:
            dataset = OfflineDataset(collected(Path(folder), config.model.image_size, arguments.episodes))
            found = parts(config, dataset, arguments.batch_size or config.training.batch_size)
            results[name] = measure(found, arguments.repeats)
            dataset.close()
        show(name, results[name])
    if arguments.output is not None:
        asked = {name: value for name, value in vars(arguments).items() if name != "output"}
        record.write(arguments.output, asked, results)


if __name__ == "__main__":
    sys.exit(main())
