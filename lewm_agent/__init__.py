"""Learn a latent world model from offline pixel episodes and reach goal images by planning in it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lewm_agent.agent import LeWMAgent as LeWMAgent
    from lewm_agent.checkpoints.checkpoint import CheckpointError as CheckpointError
    from lewm_agent.config import AgentConfig as AgentConfig
    from lewm_agent.models.objectives.lewm import ObjectiveConfig as ObjectiveConfig
    from lewm_agent.models.predictor import ModelConfig as ModelConfig
    from lewm_agent.planning.settings import PlannerConfig as PlannerConfig
    from lewm_agent.presets import preset as preset
    from lewm_agent.training.settings import TrainingConfig as TrainingConfig

_HOME = {
    "LeWMAgent": "agent",
    "CheckpointError": "checkpoints.checkpoint",
    "AgentConfig": "config",
    "ModelConfig": "models.predictor",
    "ObjectiveConfig": "models.objectives.lewm",
    "PlannerConfig": "planning.settings",
    "TrainingConfig": "training.settings",
    "preset": "presets",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Import on first use, so that processes which only gather data never load torch's models."""
    if name in _HOME:
        return getattr(importlib.import_module(f"lewm_agent.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lewm_agent' has no attribute {name!r}")
