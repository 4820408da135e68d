"""The JSON that a benchmark leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lewm_agent.evaluation.provenance import provenance
from lewm_agent.tools.replacing import write_json


def write(output: Path, settings: dict[str, Any], results: Any) -> None:
    """Write what was asked for, by which command, on which hardware and versions, and what came out."""
    write_json(output, {"settings": settings, **provenance(), "results": results})
