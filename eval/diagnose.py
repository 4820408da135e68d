"""Is my model good enough, and why does it fail? Figures of any model on held-out episodes of any dataset.

python eval/diagnose.py runs/mine/model --dataset data/mine --page diagnosis.html

Every error is a squared distance of latents, as a share of their variance; every length is told in action blocks.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor

from lewm_agent import LeWMAgent
from lewm_agent.agents.registry import load_agent
from lewm_agent.datasets import Clips, OfflineDataset
from lewm_agent.eval import command
from lewm_agent.eval.options import Diagnosis as Options
from lewm_agent.eval.playing.recorded import check_fits
from lewm_agent.eval.reporting.diagnosis import Line, Verdict, judge, write_page
from lewm_agent.eval.reporting.failures import Failure, nearest_failures, read_evaluation, solved_level
from lewm_agent.evaluation.provenance import provenance
from lewm_agent.models.world_model import WorldModel
from lewm_agent.tools.command import console
from lewm_agent.tools.frames import as_rgb, resized
from lewm_agent.tools.replacing import write_json
from lewm_agent.training.encoding import encode_rows
from lewm_agent.training.metrics_log import effective_rank

FAILURES = 5
"""How many are shown."""
BLOCKS = 5
"""How far a plan looks ahead."""
SPANS = ((1, 5), (6, 20), (1, 20))
"""Blocks between two frames whose distance is compared with the steps between them."""
REFERENCE = 4000
"""Training frames among which goals are looked up, at most."""
FAR, USUAL = 0.9, 0.99
"""Quantiles: of the goals, by which they are judged, and of unseen frames, to which they are compared. Where little
moves in the picture, goals that nobody came to may be less than a block away."""


@dataclass(frozen=True)
class Paths:
    """Episodes at the boundaries of their action blocks.

    Attributes:
        latents: of each episode (T, D).
        blocks: of each (T - 1, block_dim), normalised.
    """

    latents: list[Tensor]
    blocks: list[Tensor]


def gather(agent: LeWMAgent, dataset: OfflineDataset, episodes: NDArray[np.int64], *, progress: bool = True) -> Paths:
    """Encode the frames between the action blocks of episodes."""
    model, skip = agent.world_model, agent.config.model.frame_skip
    starts, lengths = dataset.episode_starts[episodes], (dataset.episode_lengths[episodes] - 1) // skip
    rows = [start + np.arange(length + 1) * skip for start, length in zip(starts, lengths, strict=True)]
    latents = encode_rows(model, dataset, np.concatenate(rows), progress)
    shape = (skip, dataset.action_dim)
    taken = [dataset.actions[row[0] : row[-1]].reshape(-1, *shape) for row in rows]
    blocks = [model.codec.blocks(torch.as_tensor(actions, device=agent.device)) for actions in taken]
    return Paths(list(latents.split([len(row) for row in rows])), blocks)


def errors(model: WorldModel, paths: Paths, rng: np.random.Generator) -> dict[str, list[float]]:
    """Errors after 1 to ``BLOCKS`` blocks, or as many as episodes are long.

    Of what the model imagines (``model``), of the belief that nothing changes (``nothing_changes``), and of what the
    model imagines with the actions of other episodes and times (``other_actions``).
    """
    history = model.config.history
    ahead = min(BLOCKS, max(map(len, paths.blocks)) + 1 - history)
    if ahead < 1:
        raise ValueError(f"no held-out episode is longer than {history} action blocks: record longer ones")
    size = history + ahead
    windows = [(e, i) for e, path in enumerate(paths.latents) for i in range(len(path) - size + 1)]
    seen = torch.stack([paths.latents[e][i : i + size] for e, i in windows])
    blocks = torch.stack([paths.blocks[e][i : i + size - 1] for e, i in windows])
    past, future = blocks[:, : history - 1], blocks[:, history - 1 :]
    others = future[torch.as_tensor(rng.permutation(len(future)), device=future.device)]
    variance = torch.cat(paths.latents).var(0).sum().clamp(min=1e-9)

    def error(believed: Tensor) -> list[float]:
        shares: list[float] = ((believed - seen[:, history:]).square().sum(-1).mean(0) / variance).tolist()
        return [round(share, 4) for share in shares]

    def imagined(actions: Tensor) -> Tensor:
        return model.rollout(seen[:, :history], past, actions[:, None])[:, 0]

    still = seen[:, history - 1 : history]
    return {"model": error(imagined(future)), "nothing_changes": error(still), "other_actions": error(imagined(others))}


def rank_correlations(paths: Paths, metric: Tensor | None) -> dict[str, float | None]:
    """Spearman's, of the distance of two frames of an episode with the steps between them; None without such frames.

    Args:
        paths: the episodes.
        metric: that the planner measures distances in (D, D); None for Euclidean ones.
    """
    from scipy.stats import spearmanr

    apart, distance = [], []
    for latents in paths.latents:
        measured = latents if metric is None else latents @ metric
        first, second = torch.triu_indices(len(latents), len(latents), 1)
        apart.append((second - first).numpy())
        distance.append((measured[first] - measured[second]).norm(dim=1).cpu().numpy())
    steps, lengths = np.concatenate(apart), np.concatenate(distance)
    found: dict[str, float | None] = {}
    for low, high in SPANS:
        chosen = (steps >= low) & (steps <= high)
        enough = len(np.unique(steps[chosen])) > 1 and np.ptp(lengths[chosen]) > 0
        value = float(spearmanr(lengths[chosen], steps[chosen]).statistic) if enough else None
        found[f"{low} to {high} blocks"] = None if value is None else round(value, 3)
    return found


def nearest(goals: Tensor, shown: Tensor, block: float, own: Tensor | None = None) -> list[float]:
    """Distances of goals (G, D) from the nearest of what the data show (N, D), in changes of one block.

    Args:
        goals: latents.
        shown: latents.
        block: mean distance of two frames one action block apart.
        own: (G, N), true for frames of the goal's own episode, which do not count.
    """
    distance = torch.cdist(goals, shown)
    if own is not None:
        distance = distance.masked_fill(own, torch.inf)
    return [round(float(least) / block, 3) for least in distance.amin(1)]


def goal_distances(agent: LeWMAgent, options: Options, dataset: OfflineDataset, paths: Paths) -> dict[str, Any]:
    """How far goals are from the frames that the model was trained on or, if they are not here, from other episodes."""
    rng = np.random.default_rng(options.seed)
    trained = np.setdiff1d(np.arange(dataset.num_episodes), agent.unseen_episodes(dataset))
    block = float(torch.cat([latents.diff(dim=0).norm(dim=1) for latents in paths.latents]).mean().clamp(min=1e-9))
    if options.goals:
        frames = [resized(as_rgb(imageio.imread(path)), agent.config.model.image_size) for path in options.goals]
        goals = agent.world_model.encode(torch.as_tensor(np.stack(frames), device=agent.device))
    else:
        goals = torch.stack([latents[-1] for latents in paths.latents])
    if len(trained):
        rows = dataset.frame_rows(trained)
        chosen = np.sort(rng.choice(rows, min(len(rows), REFERENCE), replace=False))
        shown = encode_rows(agent.world_model, dataset, chosen, progress=True)
        found, usual = nearest(goals, shown, block), nearest(torch.cat(paths.latents), shown, block)
        return {"in_blocks": found, "usual": _usual(usual), "frames": len(chosen), "of": "training episodes"}
    owner = torch.cat([torch.full((len(latents),), number) for number, latents in enumerate(paths.latents)])
    own = None if options.goals else (owner[None] == torch.arange(len(goals))[:, None]).to(agent.device)
    latents, same = torch.cat(paths.latents), (owner[None] == owner[:, None]).to(agent.device)
    found, usual = nearest(goals, latents, block, own), nearest(latents, latents, block, same)
    return {"in_blocks": found, "usual": _usual(usual), "frames": len(owner), "of": "other episodes"}


def _usual(distances: list[float]) -> float:
    return round(float(np.quantile(distances, USUAL)), 3)


@torch.inference_mode()
def diagnose(agent: LeWMAgent, options: Options) -> dict[str, Any]:
    """All figures of a model. Raises ``ValueError`` if the dataset is of another kind, or too short."""
    dataset, model = OfflineDataset(options.dataset), agent.config.model
    check_fits(agent, dataset)
    rng = np.random.default_rng(options.seed)
    usable = Clips(dataset, agent.unseen_episodes(dataset), model.history + 1, model.frame_skip).episodes
    chosen = np.sort(rng.choice(usable, min(len(usable), options.episodes), replace=False))
    paths = gather(agent, dataset, chosen)
    slow = agent.config.planner.metric == "slow"
    latents = torch.cat(paths.latents)
    return {
        "env": agent.description.environment,
        "dataset": str(options.dataset),
        "episodes": len(chosen),
        "frames": len(latents),
        "seed": options.seed,
        "errors": errors(agent.world_model, paths, rng),
        "rank_correlation": rank_correlations(paths, agent.world_model.metric if slow else None),
        "effective_rank": round(float(effective_rank(latents)), 2),
        "latent_dim": model.latent_dim,
        "goals": goal_distances(agent, options, dataset, paths),
    }


def lines(result: dict[str, Any]) -> list[Line]:
    """The table: each figure with a verdict and what to do."""
    model, still, others = (result["errors"][name] for name in ("model", "nothing_changes", "other_actions"))
    correlation, goals = result["rank_correlation"], result["goals"]
    far = float(np.quantile(goals["in_blocks"], FAR))
    near, wide = (correlation[f"{low} to {high} blocks"] for low, high in (SPANS[0], SPANS[-1]))
    told = "; ".join(f"{span}: {'-' if value is None else value}" for span, value in correlation.items())
    last = len(model)
    path = ", ".join(f"{error:.3g}" for error in model)
    return [
        judge("one_block", _ratio(model[0], still[0]), f"{model[0]:.3g} (nothing changes: {still[0]:.3g})"),
        judge("open_loop", model[-1], f"{path} (nothing changes: {still[-1]:.3g} after {last})"),
        judge(
            "actions", _ratio(others[-1], model[-1]), f"{others[-1]:.3g} after {last} (with theirs: {model[-1]:.3g})"
        ),
        judge("near", near, told),
        judge("far", wide, told),
        judge("rank", result["effective_rank"], f"{result['effective_rank']:.1f} of {result['latent_dim']}"),
        judge(
            "goals",
            far,
            f"{far:.2f} blocks, among {goals['frames']:,} frames of {goals['of']} (unseen frames: up to "
            f"{goals['usual']:.2f})",
            most=goals["usual"],
        ),
    ]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _table(title: str, *heads: str) -> Table:
    """One that breaks long names of settings in a narrow window; by default they would be cut off."""
    columns = [Column(head, overflow="fold") for head in heads]
    return Table(*columns, title=title, show_lines=True)


def show(result: dict[str, Any], rows: list[Line]) -> None:
    """Print the table."""
    title = f"{result['env']}: {result['episodes']} held-out episodes, {result['frames']} frames"
    table = _table(title, "figure", "measured", "verdict", "what it says, and what to do")
    colors = {Verdict.GOOD: "green", Verdict.FAIR: "yellow", Verdict.POOR: "red", Verdict.UNKNOWN: "dim"}
    for line in rows:
        table.add_row(line.name, line.measured, Text(line.verdict.value, colors[line.verdict]), line.advice)
    console().print(table)


def show_failures(failures: list[Failure], level: float | None) -> None:
    """Print the nearest failures."""
    solved = "" if level is None else f" (solved pairs come to {level:.3g})"
    title = f"nearest failures: distance of latents from the goal, frame by frame{solved}"
    table = _table(title, "pair", "least distance", "of latents", "", "what it says, and what to do")
    for one in failures:
        told = "-" if one.least_distance is None else f"{one.least_distance:.3g}"
        first, least, last = one.latent_distances[0], min(one.latent_distances), one.latent_distances[-1]
        table.add_row(str(one.pair), told, f"{first:.3g}, least {least:.3g}, {last:.3g}", one.bars, one.reading)
    console().print(table if failures else "no failures")


def main(arguments: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, writes=("output", "page"), prog=prog)


def _work(options: Options) -> None:
    command.at_least(options, episodes=1, seed=0)
    agent = load_agent(options.model, device=options.device)
    if not isinstance(agent, LeWMAgent):
        raise ValueError(f"a {agent.kind} agent has no latents of its own to imagine in; diagnose lewm or pldm models")
    found = None if options.evaluation is None else read_evaluation(options.evaluation, agent.weights_sha256())
    result = diagnose(agent, options)
    rows = lines(result)
    show(result, rows)
    told: dict[str, Any] = {"lines": [line.to_dict() for line in rows], "failures": None}
    if found is not None:
        failures = nearest_failures(found["records"], FAILURES)
        show_failures(failures, solved_level(found["records"]))
        told |= {
            "failures": [failure.to_dict() for failure in failures],
            "evaluation": str(options.evaluation),
            "solved_latent_distance": solved_level(found["records"]),
        }
    kept = {**result, **told, **provenance(agent, options.model)}
    if options.output is not None:
        write_json(options.output, kept)
    if options.page is not None:
        write_page(options.page, kept)


if __name__ == "__main__":
    sys.exit(main())
