"""Pictures of latent distance in Two-Room: as a map around a goal, and against the distance to walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lewm_agent.eval.reporting.pictures import save_picture

Matrix = NDArray[np.float64]
BINS = 12
"""Of walking distance, in the curves."""


@dataclass(frozen=True)
class Distances:
    """Distances of one model in one metric, as shares of the usual one between two unrelated frames.

    Attributes:
        around_goal: (G, G), from places on a grid (rows are y) to the goal; NaN inside the wall.
        between_frames: (N,), between frames of held-out episodes.
    """

    around_goal: Matrix
    between_frames: Matrix


@dataclass(frozen=True)
class Picture:
    """What is drawn of one model.

    Attributes:
        title: its name.
        grid: coordinates of the places on both axes (G,), px.
        goal: xy, px.
        walked: (N,), px to walk between the frames.
        metrics: name of the metric -> distances.
    """

    title: str
    grid: Matrix
    goal: Matrix
    walked: Matrix
    metrics: dict[str, Distances]


def draw(pictures: Sequence[Picture], path: Path) -> None:
    """One row for each model: a map for each metric, and distances against the distance to walk."""
    columns = 1 + max(len(picture.metrics) for picture in pictures)
    figure = Figure(figsize=(4.2 * columns, 3.7 * len(pictures)), layout="constrained")
    panels = figure.subplots(len(pictures), columns, squeeze=False)
    for row, picture in zip(panels, pictures, strict=True):
        for panel, (name, distances) in zip(row, picture.metrics.items(), strict=False):
            _map(figure, panel, picture, distances.around_goal)
            panel.set_title(f"{picture.title}: {name} distance to the goal", fontsize=9)
        for panel in row[len(picture.metrics) : -1]:
            panel.set_axis_off()
        _curves(row[-1], picture)
    save_picture(figure, path, dpi=100)


def _map(figure: Figure, panel: Any, picture: Picture, distances: Matrix) -> None:
    shown = panel.contourf(picture.grid, picture.grid, distances, levels=np.linspace(0, 1.5, 16), extend="max")
    figure.colorbar(shown, ax=panel, shrink=0.85)
    panel.plot(*picture.goal, "*", color="white", markeredgecolor="black", markersize=12)
    panel.set(aspect="equal", xticks=[], yticks=[])
    panel.invert_yaxis()


def _curves(panel: Any, picture: Picture) -> None:
    edges = np.quantile(picture.walked, np.linspace(0, 1, BINS + 1))
    bins = np.digitize(picture.walked, edges[1:-1])
    centers = [np.median(picture.walked[bins == number]) for number in range(BINS)]
    for name, distances in picture.metrics.items():
        low, middle, high = np.array(
            [np.quantile(distances.between_frames[bins == number], (0.1, 0.5, 0.9)) for number in range(BINS)]
        ).T
        line = panel.plot(centers, middle, label=name)[0]
        panel.fill_between(centers, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    panel.axhline(1, color="gray", linewidth=0.8, linestyle=":")
    panel.set(ylim=(0, 1.6), xlabel="px to walk")
    panel.set_title(f"{picture.title}: distance between frames", fontsize=9)
    panel.legend(fontsize=8)
