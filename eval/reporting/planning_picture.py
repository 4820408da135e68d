"""The picture of success against time: one panel for each world, one line for each planner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lewm_agent.eval.reporting.pictures import save_picture


def draw(points: list[dict[str, Any]], protocol: str, path: Path) -> None:
    """Write the picture.

    Args:
        points: as ``planning_time.py`` measures them.
        protocol: for the title.
        path: of a PNG.
    """
    worlds = list(dict.fromkeys(point["env"] for point in points))
    figure = Figure(figsize=(4.5 * len(worlds), 4.2), layout="constrained")
    panels = figure.subplots(1, len(worlds), sharey=True, squeeze=False)[0]
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(point["planner"] for point in points))}
    for panel, world in zip(panels, worlds, strict=True):
        for name, color in colors.items():
            line = [point for point in points if (point["env"], point["planner"]) == (world, name)]
            _draw_line(panel, sorted(line, key=lambda point: point["milliseconds_per_step"]), name, color)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set(title=world, xlabel="milliseconds per environment step", ylim=(-2, 102))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"success in %, protocol {protocol}")
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(colors))
    save_picture(figure, path, dpi=120)


def _draw_line(panel: Any, points: list[dict[str, Any]], name: str, color: str) -> None:
    """One planner; without points, as where a model has no head, only its entry in the legend."""
    success = np.array([point["success_rate"] for point in points])
    bounds = np.array([point["success_rate_ci95"] for point in points]).reshape(-1, 2)
    times = [point["milliseconds_per_step"] for point in points]
    errors = abs(bounds.T - success)
    panel.errorbar(times, success, yerr=errors, label=name, color=color, marker="o", capsize=2, elinewidth=0.8)
