"""Is the model surprised by what cannot happen? Violation of expectation (arXiv 2603.19312, section 5.2).

python eval/surprise.py --env push_t --output surprise.json --picture surprise.png
python eval/surprise.py --model runs/mine/model --dataset data/mine

In a world of this package something is recolored or teleported in the world itself. In recorded episodes of any other
the picture is: its colors change, or it jumps to another episode, which then goes on.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import t as student
from scipy.stats import ttest_rel

from lewm_agent import LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.eval import command
from lewm_agent.eval.options import Surprise as Options
from lewm_agent.eval.playing.recorded import Clip, clips, jumped, recolored
from lewm_agent.eval.reporting.pictures import save_picture
from lewm_agent.eval.worlds import world_of, world_played
from lewm_agent.eval.worlds.held_out import held_out_episodes
from lewm_agent.eval.worlds.world import World, make_environment
from lewm_agent.evaluation.provenance import provenance
from lewm_agent.tools.command import console
from lewm_agent.tools.progress import counted

BLOCKS, EVENT = 12, 6
"""Length of a trajectory in action blocks, and after which of them something happens."""
VARIANTS = ("unchanged", "recolored", "teleported")


@dataclass(frozen=True)
class Trajectory:
    """States (BLOCKS * skip + 1, S) and actions (BLOCKS * skip, A) of a held-out episode's beginning."""

    states: NDArray[np.float64]
    actions: NDArray[np.float32]


def trajectories(environment: str, skip: int) -> Iterator[Trajectory]:
    """The beginnings of held-out episodes that are long enough."""
    steps = BLOCKS * skip
    for _, episode in held_out_episodes(environment, 0):
        if len(episode["state"]) > steps:
            yield Trajectory(episode["state"][: steps + 1], episode["action"][:steps])


def filmed(env: Any, told: Trajectory, other: Trajectory, variant: str, skip: int) -> NDArray[np.uint8]:
    """Frames (BLOCKS + 1, H, W, 3), ``skip`` steps apart; the event comes just before frame ``EVENT``.

    What is teleported goes on under the same actions.
    """
    event = world_of(env.spec.id).event
    env.reset(seed=0, options={"state": told.states[0]})
    frames = [env.render()]
    for block in range(BLOCKS):
        for step in range(block * skip, (block + 1) * skip):
            env.step(told.actions[step])
        if block + 1 == EVENT and variant == "recolored":
            env.set_factors(**{event.color: event.changed_color})
        if block + 1 == EVENT and variant == "teleported":
            state = told.states[EVENT * skip].copy()
            state[event.moved] = other.states[EVENT * skip][event.moved]
            env.reset(seed=0, options={"state": state})
        frames.append(env.render())
    return np.stack(frames)


@torch.inference_mode()
def surprise(agent: LeWMAgent, frames: NDArray[np.uint8], actions: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared error per latent component (BLOCKS,) of each frame but the first, predicted from the real ones before."""
    model, history = agent.world_model, agent.config.model.history
    latents = model.encode(torch.as_tensor(frames).to(agent.device))
    blocks = model.codec.joined(model.codec.normalize(torch.as_tensor(actions).to(agent.device)))
    errors = []
    for end in range(1, BLOCKS + 1):
        start = max(0, end - history)
        predicted = model.predict(latents[None, start:end], blocks[None, start:end])[0, -1]
        errors.append(float((predicted - latents[end]).square().mean()))
    return np.array(errors)


def paired(changed: NDArray[np.float64], unchanged: NDArray[np.float64]) -> dict[str, float]:
    """Two-sided paired t-test of surprise at the event, with Cohen's d of the differences and their 95 % interval."""
    difference = changed - unchanged
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    margin = float(student.ppf(0.975, len(difference) - 1)) * error
    return {
        "mean_difference": float(difference.mean()),
        "ci95_low": float(difference.mean() - margin),
        "ci95_high": float(difference.mean() + margin),
        "p": float(ttest_rel(changed, unchanged).pvalue),
        "cohens_d": float(difference.mean() / difference.std(ddof=1)),
        "more_surprised_percent": float(100 * (difference > 0).mean()),
    }


Films = Iterator[dict[str, Clip]]
"""For each trajectory, its variants by their names."""


def films_of_a_world(agent: LeWMAgent, world: World, count: int) -> Films:
    """Held-out episodes that are played anew, where something happens in the world."""
    skip = agent.config.model.frame_skip
    env = make_environment(world.environment, agent.description.environment_kwargs).unwrapped
    told = list(itertools.islice(trajectories(world.environment, skip), count))
    for one, other in zip(told, told[1:] + told[:1], strict=True):
        yield {variant: Clip(filmed(env, one, other, variant, skip), one.actions) for variant in VARIANTS}


def films_of_data(agent: LeWMAgent, dataset: OfflineDataset, count: int) -> Films:
    """Recorded episodes, where the picture changes. Raises ``ValueError`` if fewer than two are long enough."""
    told = list(itertools.islice(clips(agent, dataset, BLOCKS), count))
    if len(told) < 2:
        raise ValueError(
            f"{len(told)} episodes of {dataset.path} that training did not see have {BLOCKS} action blocks, and two "
            f"are needed; record episodes of {BLOCKS * agent.config.model.frame_skip + 1} rows or more"
        )
    for one, other in zip(told, told[1:] + told[:1], strict=True):
        yield dict(zip(VARIANTS, (one, recolored(one, EVENT), jumped(one, other, EVENT)), strict=True))


def measure(options: Options) -> tuple[dict[str, Any], dict[str, NDArray[np.uint8]]]:
    """All figures, JSON-ready, and the frames of the first trajectory in every variant."""
    command.at_least(options, trajectories=2)
    agent, environment = command.load_subject(options)
    if options.dataset is None:
        world = world_played(environment)
        films = films_of_a_world(agent, world, options.trajectories)
        event = {**dataclasses.asdict(world.event), "moved": str(world.event.moved)}
    else:
        films = films_of_data(agent, OfflineDataset(options.dataset), options.trajectories)
        event = {"color": "of the whole picture", "moved": "to another episode", "dataset": str(options.dataset)}
    curves: dict[str, list[NDArray[np.float64]]] = {variant: [] for variant in VARIANTS}
    moment: dict[str, NDArray[np.uint8]] = {}
    shown = counted("trajectories", films, options.trajectories)
    for variant, clip in itertools.chain.from_iterable(film.items() for film in shown):
        moment.setdefault(variant, clip.frames[EVENT - 2 : EVENT + 2])
        curves[variant].append(surprise(agent, clip.frames, clip.actions))
    measured = {variant: np.stack(curve) for variant, curve in curves.items()}
    at_event = {variant: curve[:, EVENT - 1] for variant, curve in measured.items()}
    result = {
        "env": environment,
        **provenance(agent, command.model_name(options)),
        "trajectories": len(at_event["unchanged"]),
        "event": {**event, "block": EVENT},
        "mean_surprise": {variant: curve.mean(axis=0).tolist() for variant, curve in measured.items()},
        "standard_error": {
            variant: (curve.std(axis=0, ddof=1) / np.sqrt(len(curve))).tolist() for variant, curve in measured.items()
        },
        "tests": {variant: paired(at_event[variant], at_event["unchanged"]) for variant in VARIANTS[1:]},
    }
    return result, moment


def show(result: dict[str, Any]) -> None:
    """Print the tests."""
    title = f"{result['env']}: surprise at the event against the unchanged trajectory, n = {result['trajectories']}"
    table = Table(title=title)
    table.add_column("event", no_wrap=True)
    for head in ("surprise", "unchanged", "more by [95 %]", "p", "Cohen's d", "how often"):
        table.add_column(head)
    at_event = {variant: curve[EVENT - 1] for variant, curve in result["mean_surprise"].items()}
    for variant, test in result["tests"].items():
        table.add_row(
            variant,
            f"{at_event[variant]:.3f}",
            f"{at_event['unchanged']:.3f}",
            f"{test['mean_difference']:.3f} [{test['ci95_low']:.3f}, {test['ci95_high']:.3f}]",
            f"{test['p']:.1e}",
            f"{test['cohens_d']:.2f}",
            f"{test['more_surprised_percent']:.0f} %",
        )
    console().print(table)


def draw(result: dict[str, Any], moment: dict[str, NDArray[np.uint8]], path: Path) -> None:
    """The curves, and below them what one trajectory shows around the event."""
    figure = Figure(figsize=(8, 8), layout="constrained")
    curves, pictures = np.asarray(figure.subfigures(2, 1, height_ratios=(1, 1.2))).tolist()
    panel = curves.subplots()
    blocks = np.arange(1, BLOCKS + 1)
    for variant in VARIANTS:
        mean, error = (np.array(result[key][variant]) for key in ("mean_surprise", "standard_error"))
        panel.plot(blocks, mean, label=variant)
        panel.fill_between(blocks, mean - 1.96 * error, mean + 1.96 * error, alpha=0.2)
    panel.axvline(EVENT, color="gray", linewidth=0.8, linestyle=":")
    panel.set(xlabel="action block", ylabel="surprise: squared error per component", title=result["env"])
    panel.legend()
    shown = list(itertools.product(VARIANTS, range(EVENT - 2, EVENT + 2)))
    places = np.asarray(pictures.subplots(len(VARIANTS), 4)).flat
    for place, (variant, block) in zip(places, shown, strict=True):
        place.imshow(moment[variant][block - EVENT + 2])
        place.set(xticks=[], yticks=[])
        place.set_title(f"{variant}, block {block}", fontsize=8)
    save_picture(figure, path, dpi=120)


def main(arguments: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, writes=("output", "picture"), prog=prog)


def _work(options: Options) -> None:
    result, moment = measure(options)
    show(result)
    command.keep(options, result, lambda path: draw(result, moment, path))


if __name__ == "__main__":
    sys.exit(main())
