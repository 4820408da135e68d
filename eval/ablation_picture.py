"""Pictures of an ablation: outcomes against the values of a setting, and the training curves of each value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Result = dict[str, Any]
OUTCOMES = {
    "success in %": lambda result: result["success_rate"],
    "effective rank": lambda result: result["held_out"]["effective_rank"],
    "prediction error": lambda result: result["held_out"]["prediction"],
    "correlation with steps": lambda result: result["steps_correlation"],
}
CURVES = {"effective_rank": "effective rank", "prediction": "prediction error", "straightness": "straightness"}


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
    label = {str(list(r["settings"].values())): ", ".join(str(v) for v in r["settings"].values()) for r in results}
    if len(names) == 1:
        results = sorted(results, key=lambda r: _order(r["settings"][names[0]]))
    values = list(dict.fromkeys(str(list(r["settings"].values())) for r in results))
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1)).tolist()
    for panel, (title, outcome) in zip(above.subplots(1, len(OUTCOMES)), OUTCOMES.items(), strict=True):
        of_value = [[outcome(r) for r in results if str(list(r["settings"].values())) == value] for value in values]
        panel.plot([np.mean(of) for of in of_value], color="C0")
        for place, of in enumerate(of_value):
            panel.scatter([place] * len(of), of, color="C0", s=16)
        panel.set_xticks(range(len(values)), [label[value] for value in values], rotation=45, ha="right", fontsize=8)
        panel.set(title=title, xlabel=", ".join(names))
        panel.grid(alpha=0.3)
    for panel, (curve, title) in zip(below.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        for color, value in enumerate(values):
            runs = [r["curves"] for r in results if str(list(r["settings"].values())) == value]
            for number, run in enumerate(runs):
                panel.plot(run["step"], run[curve], f"C{color}", lw=1, label="" if number else label[value])
        panel.set(title=f"{title} in training", xlabel="step", yscale="log" if curve == "prediction" else "linear")
        panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by size, then the rest by name."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else str(value)
