"""The JSON that a benchmark leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lewm_agent.envs import environment_id
from lewm_agent.evaluation.provenance import provenance
from lewm_agent.tools.replacing import write_json


def check_data(data: Path, environments: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``data`` holds a dataset for each environment, in a folder of its short name."""
    for name in environments:
        environment_id(name)
        if not (data / name).exists():
            raise ValueError(f"there is no dataset {data / name}; make it with lewm collect")


def write(output: Path, settings: dict[str, Any], results: Any) -> None:
    """Write what was asked for, by which command, on which hardware and versions, and what came out."""
    write_json(output, {"settings": settings, **provenance(), "results": results})
