"""The picture of success against distance: one panel for each world, one line for each planner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lewm_agent.eval.reporting.pictures import save_picture
from lewm_agent.eval.worlds.protocols import kind_and_offset


def place(protocol: str) -> tuple[bool, int]:
    """To sort distances by: offsets, then ``far``."""
    kind, offset = kind_and_offset(protocol)
    return kind == "far", offset


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Write the picture.

    Args:
        points: as ``horizon.py`` measures them.
        path: of a PNG.
    """
    worlds = list(dict.fromkeys(point["env"] for point in points))
    protocols = sorted({point["protocol"] for point in points}, key=place)
    lines = {point["line"]: point["agent"] is not None for point in points}
    colors = {name: f"C{i}" for i, name in enumerate(name for name, acts in lines.items() if acts)}
    figure = Figure(figsize=(4.2 * max(2, len(worlds)), 4.4), layout="constrained")
    panels = figure.subplots(1, len(worlds), sharey=True, squeeze=False)[0]
    for panel, world in zip(panels, worlds, strict=True):
        for name in lines:
            here = [point for point in points if (point["env"], point["line"]) == (world, name)]
            _draw_line(panel, here, protocols, name, colors.get(name))
        names = ["far" if protocol == "far" else str(kind_and_offset(protocol)[1]) for protocol in protocols]
        panel.set_xticks(range(len(protocols)), names)
        panel.set(title=world, xlabel="steps from start to goal", ylim=(-2, 102))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("success in %")
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)))
    save_picture(figure, path, dpi=120)


def _draw_line(panel: Any, points: list[dict[str, Any]], protocols: list[str], name: str, color: str | None) -> None:
    """One line with its intervals; floors and ceilings, which have no color, are grey."""
    ordered = sorted(points, key=lambda point: protocols.index(point["protocol"]))
    places = [protocols.index(point["protocol"]) for point in ordered]
    success = np.array([point["success_rate"] for point in ordered])
    bounds = np.array([point["success_rate_ci95"] for point in ordered]).reshape(-1, 2)
    style = {"color": color, "marker": "o"} if color else {"color": "grey", "linestyle": ":", "marker": "."}
    panel.errorbar(places, success, yerr=abs(bounds.T - success), label=name, capsize=2, elinewidth=0.8, **style)
