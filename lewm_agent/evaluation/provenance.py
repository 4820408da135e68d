"""Where a measured number comes from: the part that the JSON of every command has in common."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from lewm_agent.acting_agent import ActingAgent
from lewm_agent.tools.precision import chosen_precision

PACKAGES = ("lewm-agent", "torch", "timm", "gymnasium", "numpy")


def provenance(agent: ActingAgent[Any, Any] | None = None, name: str = "") -> dict[str, Any]:
    """Command, versions and hardware, and whose numbers these are, if an agent's; JSON-ready.

    Args:
        agent: who was measured.
        name: by which the agent was asked for.
    """
    found: dict[str, Any] = {}
    if agent is not None:
        found |= {"agent": agent.kind, "planner": _as_planned(agent), "model": model_record(agent, name)}
    device = torch.device("cpu") if agent is None else agent.device
    return {**found, "command": command_line(), "versions": versions(), "hardware": hardware(device)}


def _as_planned(agent: ActingAgent[Any, Any]) -> dict[str, Any] | None:
    """The planner's settings with the precision that `auto` came to."""
    planner = agent.planner_settings
    if planner is None or planner.get("precision") != "auto":
        return planner
    return {**planner, "precision": chosen_precision("auto", agent.device)}


def model_record(agent: ActingAgent[Any, Any], name: str) -> dict[str, Any]:
    """Which weights, how they were trained, and their whole configuration."""
    hashed = {"name": name, "weights_sha256": agent.weights_sha256()}
    return {**hashed, **agent.description.origin, "config": agent.config.to_dict()}


def command_line() -> str:
    """What was typed, as a shell takes it again."""
    program = Path(sys.argv[0])
    started = ["lewm"] if program.stem in ("lewm", "cli") else ["python", os.path.relpath(program)]
    return shlex.join([*started, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads and accelerator a number was measured on."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "accelerator": accelerator,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
