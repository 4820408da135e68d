"""The JSON that a benchmark leaves behind."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from lewm_agent.datasets.metadata import software_versions
from lewm_agent.tools.replacing import write_atomically


def write(output: Path, settings: dict[str, Any], results: Any) -> None:
    """Write what was asked for, on which hardware and versions, and what came out."""
    hardware = {"machine": platform.machine(), "cpu_count": os.cpu_count()}
    versions = {**software_versions(), "torch": torch.__version__}
    content = {"settings": settings, "hardware": hardware, "versions": versions, "results": results}
    write_atomically(output, json.dumps(content, indent=2) + "\n")
