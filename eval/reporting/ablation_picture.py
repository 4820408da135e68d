"""Pictures of an ablation: outcomes against the values of a setting, and the training curves of each value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lewm_agent.eval.reporting.pictures import save_picture
from lewm_agent.evaluation.intervals import of_mean

Result = dict[str, Any]
OUTCOMES: dict[str, Callable[[Result], float]] = {
    "effective rank": lambda result: result["held_out"]["effective_rank"],
    "prediction error": lambda result: result["held_out"]["prediction"],
    "correlation with steps": lambda result: result["steps_correlation"],
}
CURVES = {
    "effective_rank": "effective rank",
    "latent_variance": "variance of the latents",
    "prediction": "prediction error",
    "straightness": "straightness",
}
LEGEND_LINE = 16
"""Room for two entries of the legend, side by side above the bars, in points of success."""
LOGARITHMIC = {"latent_variance", "prediction"}


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """One PNG for each set of settings that were varied together; returns their paths."""
    sets = dict.fromkeys(tuple(result["settings"]) for result in results)
    paths = []
    for names in sets:
        chosen = [result for result in results if tuple(result["settings"]) == names]
        path = folder / f"{'-'.join(names)}.png"
        _draw(chosen, names, path)
        paths.append(path)
    return paths


def _draw(results: list[Result], names: tuple[str, ...], path: Path) -> None:
    if len(names) == 1:
        results = sorted(results, key=lambda result: _order(result["settings"][names[0]]))
    of_value: dict[str, list[Result]] = {}
    for result in results:
        of_value.setdefault(", ".join(str(value) for value in result["settings"].values()), []).append(result)
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1)).tolist()
    panels = above.subplots(1, 1 + len(OUTCOMES), width_ratios=[2] + [1] * len(OUTCOMES))
    _draw_success(panels[0], list(of_value.values()))
    for panel, outcome in zip(panels[1:], OUTCOMES.values(), strict=True):
        _draw_outcomes(panel, [[outcome(result) for result in runs] for runs in of_value.values()])
    for panel, title in zip(panels, ("success in %", *OUTCOMES), strict=True):
        panel.set_xticks(range(len(of_value)), of_value, rotation=45, ha="right", fontsize=8)
        panel.set(title=title, xlabel=",\n".join(names))
    for panel, (curve, title) in zip(below.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        for color, (value, runs) in enumerate(of_value.items()):
            for number, run in enumerate(runs):
                steps, heights = run["curves"]["step"], run["curves"][curve]
                panel.plot(steps, heights, f"C{color}", lw=1, label="" if number else value)
        panel.set(title=f"{title} in training", xlabel="step", yscale="log" if curve in LOGARITHMIC else "linear")
        panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    save_picture(figure, path, dpi=110)


def _draw_success(panel: Any, runs: list[list[Result]]) -> None:
    """For each planner and protocol a bar with the 95 % interval of its mean, and a dot for each seed."""
    kinds = runs[0][0]["success"]
    width = 0.8 / len(kinds)
    for row, kind in enumerate(kinds):
        solved = [[run["success"][row]["solved"] for run in of_value] for of_value in runs]
        seeds = [[100 * np.mean(run) for run in of_value] for of_value in solved]
        means = np.array([np.mean(of_value) for of_value in seeds])
        bounds = np.transpose([of_mean(of_value) for of_value in solved])
        places = np.arange(len(runs)) + (row - (len(kinds) - 1) / 2) * width
        panel.bar(places, means, width, color=f"C{row}", alpha=0.5, label=f"{kind['planner']}, {kind['protocol']}")
        panel.errorbar(places, means, abs(bounds - means), fmt="none", ecolor="black", elinewidth=1, capsize=2)
        panel.scatter(np.repeat(places, [len(one) for one in seeds]), np.concatenate(seeds), color=f"C{row}", s=16)
    panel.set_ylim(0, 108 + LEGEND_LINE * math.ceil(len(kinds) / 2))
    panel.set_yticks(range(0, 101, 20))
    panel.grid(alpha=0.3, axis="y")
    panel.legend(fontsize=8, loc="upper center", ncols=2)


def _draw_outcomes(panel: Any, outcomes: list[list[float]]) -> None:
    """A dot for each seed and a line through the means."""
    panel.plot([np.mean(seeds) for seeds in outcomes], color="C0")
    for place, seeds in enumerate(outcomes):
        panel.scatter([place] * len(seeds), seeds, color="C0", s=16)
    panel.grid(alpha=0.3)


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by size, then the rest by name."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else str(value)
