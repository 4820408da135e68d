"""The curve of rounds: success against environment steps and against minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm_agent.tools.replacing import replacing


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a PNG of rows of the table, with 95 % intervals, all or nothing."""
    from matplotlib.figure import Figure  # slow to import, and needed at the end alone

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    rates = np.array([row["success_rate"] for row in rows])
    bounds = np.array([row["success_rate_ci95"] for row in rows])
    along = {
        "environment steps of data and attempts": [row["data_steps"] + row["environment_steps"] for row in rows],
        "minutes of attempts and learning": [row["minutes"] for row in rows],
    }
    for panel, (name, places) in zip(figure.subplots(1, 2, sharey=True), along.items(), strict=True):
        errors = np.abs(bounds.T - rates)
        panel.errorbar(places, rates, yerr=errors, marker="o", capsize=3)
        for place, rate, row in zip(places, rates, rows, strict=True):
            panel.annotate(
                f"round {row['round']}", (place, rate), xytext=(4, 4), textcoords="offset points", fontsize=8
            )
        panel.set(xlabel=name, ylim=(0, 105))
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("success on validation pairs, %")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)
