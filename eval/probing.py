"""What can be read off one latent: probes for every physical quantity of a world.

python eval/probing.py --env push_t --output probing.json --picture probing.png
python eval/probing.py --model runs/mine/model --dataset data/mine --columns state --angles "state[2]"
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from lewm_agent import LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.eval import command
from lewm_agent.eval.options import Probing as Options
from lewm_agent.eval.playing.recorded import views as recorded_views
from lewm_agent.eval.playing.views import Matrix, Views, gather, latents
from lewm_agent.eval.reporting.pictures import save_picture
from lewm_agent.eval.worlds import world_played
from lewm_agent.evaluation.provenance import provenance
from lewm_agent.models.world_model import WorldModel
from lewm_agent.tools.checks import named
from lewm_agent.tools.command import console
from lewm_agent.tools.progress import counted

ANGLES = ("_angle", "_yaw")
"""Endings of quantities in rad, which are also probed for their sine and cosine."""
TEST_SHARE = 0.25
"""Of the episodes."""
NEVER_CHANGES = 1e-6
"""Standard deviation under which a quantity is left out."""
PROBES: dict[str, Callable[[int], Any]] = {
    "linear": lambda seed: Ridge(1.0),
    "mlp": lambda seed: MLPRegressor(
        hidden_layer_sizes=(256, 256), early_stopping=True, max_iter=200, random_state=seed
    ),
}
"""The paper does not say how its probes were made; these are scikit-learn's."""


def targets(quantities: dict[str, Matrix], turns: Mapping[str, int], angles: Sequence[str] = ()) -> dict[str, Matrix]:
    """What is probed for: all quantities that change, angles also as sine and cosine.

    Args:
        quantities: name -> values (N,).
        turns: of a world's record; sine and cosine are of the angle times this, all that a frame can show.
        angles: quantities in rad, beside those whose names end like one.

    Raises:
        ValueError: there is no quantity of that name, or none that changes.
    """
    for name in angles:
        named(name, quantities, "number")
    found = {name: values for name, values in quantities.items() if values.std() > NEVER_CHANGES}
    if not found:
        raise ValueError(f"nothing to probe for: {', '.join(quantities)} never change")
    for name in [name for name in found if name.endswith(ANGLES) or name in angles]:
        times = turns.get(name, 1)
        label = f"{times} {name}" if times > 1 else name
        found[f"sin {label}"], found[f"cos {label}"] = np.sin(times * found[name]), np.cos(times * found[name])
    return found


def encoded(agent: LeWMAgent, pixels: NDArray[np.uint8]) -> dict[str, Matrix]:
    """The model's latents of frames, and those of an untrained model."""
    torch.manual_seed(0)
    untrained = WorldModel(agent.config.model).to(agent.device)
    trained = agent.world_model
    untrained.encoder.set_pixel_statistics(trained.encoder.pixel_mean, trained.encoder.pixel_std)
    untrained.train()
    latents(untrained, pixels[:128], agent.device)  # gives its BatchNorm some statistics
    return {
        "LeWM": latents(trained, pixels, agent.device),
        "untrained": latents(untrained.eval(), pixels, agent.device),
    }


def principal_components(pixels: NDArray[np.uint8], count: int, is_test: NDArray[np.bool_]) -> Matrix:
    """Pixels (N, ...) in the first ``count`` principal components of those that are not for testing: (N, count)."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    components = PCA(count, svd_solver="randomized", random_state=0).fit(flat[~is_test])
    return np.asarray(components.transform(flat), np.float64)


def test_frames(episodes: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Which frames are for testing: all those of a share of the episodes."""
    numbers = np.random.default_rng(seed).permutation(np.unique(episodes))
    return np.isin(episodes, numbers[: max(1, round(TEST_SHARE * len(numbers)))])


def probe(features: Matrix, wanted: Matrix, is_test: NDArray[np.bool_], kind: str, seed: int) -> tuple[Matrix, Matrix]:
    """Predictions and truth (M, Q) of the frames for testing, both standardised by the others."""
    scale, target = StandardScaler().fit(features[~is_test]), StandardScaler().fit(wanted[~is_test])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        truth = target.transform(wanted[~is_test])
        fitted = PROBES[kind](seed).fit(scale.transform(features[~is_test]), truth.squeeze())
    predicted = fitted.predict(scale.transform(features[is_test])).reshape(is_test.sum(), -1)
    return predicted, target.transform(wanted[is_test])


def scores(predicted: Matrix, truth: Matrix) -> tuple[Matrix, Matrix]:
    """Mean squared error (Q,) and Pearson correlation (Q,)."""
    error = np.square(predicted - truth).mean(axis=0)
    correlation = [_pearson(a, b) for a, b in zip(predicted.T, truth.T, strict=True)]
    return error, np.array(correlation)


def _pearson(first: Matrix, second: Matrix) -> float:
    return float(np.corrcoef(first, second)[0, 1]) if first.std() > 0 and second.std() > 0 else 0.0


def measure(options: Options) -> dict[str, Any]:
    """All figures; JSON-ready."""
    command.at_least(options, frames=1, seeds=1)
    agent, environment = command.load_subject(options)
    views, wanted, subsets = _looked_at(options, agent, environment)
    if (count := len(np.unique(views.episodes))) < 4:
        raise ValueError(
            "probing needs frames of at least 4 episodes that training has not seen, and these "
            f"{len(views.pixels)} are of {count}: give more --frames, or record more episodes"
        )
    return {
        "env": environment,
        **provenance(agent, command.model_name(options)),
        **({} if options.dataset is None else {"dataset": str(options.dataset)}),
        "frames": len(views.pixels),
        "episodes": count,
        "seeds": options.seeds,
        "rows": rows(agent, views, wanted, subsets, options.seeds),
    }


Subsets = dict[str, NDArray[np.bool_]]


def _looked_at(options: Options, agent: LeWMAgent, environment: str) -> tuple[Views, dict[str, Matrix], Subsets]:
    """Frames, what to probe them for, and which of them are also looked at apart."""
    if options.dataset is not None:
        recorded = recorded_views(agent, OfflineDataset(options.dataset), options.frames, options.columns)
        wanted = targets(recorded.quantities, {}, options.angles)
        return recorded, wanted, {"all frames": np.ones(len(recorded.pixels), bool)}
    if options.columns or options.angles:
        raise ValueError("--columns and --angles are of recorded episodes: give them with --dataset")
    world = world_played(environment)
    views = gather(agent, environment, options.frames)
    subsets = {"all frames": np.ones(len(views.pixels), bool)}
    for name, belongs in world.starts.items():
        subsets[name.replace("starts_", "").replace("_", " ")] = np.array([belongs(state) for state in views.states])
    return views, targets(views.quantities, world.turns), subsets


def rows(
    agent: LeWMAgent, views: Views, wanted: dict[str, Matrix], subsets: dict[str, NDArray[np.bool_]], seeds: int
) -> list[dict[str, Any]]:
    """One row for each wanted quantity, representation, probe and subset of the frames."""
    values = np.stack(list(wanted.values()), axis=1)
    found = defaultdict(list)
    representations = encoded(agent, views.pixels)
    for seed in counted("probes", range(seeds)):
        is_test = test_frames(views.episodes, seed)
        representations["pixel PCA"] = principal_components(views.pixels, agent.config.model.latent_dim, is_test)
        for what, kind, (subset, chosen) in itertools.product(representations, PROBES, subsets.items()):
            result = probe(representations[what][chosen], values[chosen], is_test[chosen], kind, seed)
            found[what, kind, subset].append(scores(*result))
    return [
        {"quantity": name, "representation": what, "probe": kind, "frames": subset, **_row(*errors_and_r[:, :, i].T)}
        for (what, kind, subset), runs in found.items()
        for errors_and_r in [np.array(runs)]
        for i, name in enumerate(wanted)
    ]


def _row(error: Matrix, correlation: Matrix) -> dict[str, float]:
    figures = {"mse": error.mean(), "mse_std": error.std(), "r": correlation.mean(), "r_std": correlation.std()}
    return {name: round(float(value), 4) for name, value in figures.items()}


def show(result: dict[str, Any]) -> None:
    """Print one table for each subset of frames: MSE and r of every probe."""
    rows = result["rows"]
    columns = list(dict.fromkeys((row["representation"], row["probe"]) for row in rows))
    for subset in dict.fromkeys(row["frames"] for row in rows):
        heads = [f"{what}\n{kind}" for what, kind in columns]
        table = Table(title=f"{result['env']}, {subset}: MSE of standardised targets, Pearson r")
        table.add_column("quantity", no_wrap=True)
        for head in heads:
            table.add_column(head)
        for name in dict.fromkeys(row["quantity"] for row in rows):
            cells = {
                (row["representation"], row["probe"]): f"{row['mse']:.3f} {row['r']:.3f}"
                for row in rows
                if (row["quantity"], row["frames"]) == (name, subset)
            }
            table.add_row(name, *(cells[column] for column in columns))
        console().print(table)


def draw(result: dict[str, Any], path: Path) -> None:
    """Bars of Pearson's r over all frames, one group for each quantity."""
    rows = [row for row in result["rows"] if row["frames"] == "all frames"]
    names = list(dict.fromkeys(row["quantity"] for row in rows))
    columns = list(dict.fromkeys((row["representation"], row["probe"]) for row in rows))
    figure = Figure(figsize=(7, 0.5 + 0.55 * len(names)), layout="constrained")
    panel = figure.subplots()
    for i, (what, kind) in enumerate(columns):
        mine = [row for row in rows if (row["representation"], row["probe"]) == (what, kind)]
        places = np.arange(len(names)) + (i - len(columns) / 2 + 0.5) * 0.8 / len(columns)
        panel.barh(
            places,
            [row["r"] for row in mine],
            0.8 / len(columns),
            xerr=[row["r_std"] for row in mine],
            color=f"C{i // len(PROBES)}",
            alpha=1.0 if kind == "mlp" else 0.5,
            label=f"{what}, {kind}",
        )
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set(xlabel="Pearson r on held-out episodes", xlim=(0, 1))
    figure.legend(loc="outside lower center", ncols=3)
    save_picture(figure, path, dpi=120)


def main(arguments: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, writes=("output", "picture"), prog=prog)


def _work(options: Options) -> None:
    result = measure(options)
    show(result)
    command.keep(options, result, lambda path: draw(result, path))


if __name__ == "__main__":
    sys.exit(main())
