"""Everything that defines an agent, put together from the settings that its parts own.

The defaults are the released LeWorldModel recipe to the letter (lucas-maes/le-wm ``config/train`` and
stable-worldmodel ``planning/solver/cem.py``); where the text of arXiv 2603.19312 and the released code disagree, the
code is followed. Named configurations are in :mod:`lewm_agent.presets`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lewm_agent.models.far_goals import FarGoalsConfig
from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.models.objectives.base import ObjectiveSettings
from lewm_agent.models.objectives.lewm import ObjectiveConfig
from lewm_agent.models.objectives.slow import SlowConfig
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.tools.checks import require
from lewm_agent.tools.settings import require_finite, settings_from_dict, settings_to_dict
from lewm_agent.training.settings import TrainingConfig


@dataclass(frozen=True)
class AgentConfig:
    """A whole world-model agent: model, objective, training and planner."""

    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveSettings = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    inverse_dynamics: InverseDynamicsConfig | None = None
    """None: no such head, and no planner that uses one."""
    far_goals: FarGoalsConfig = field(default_factory=FarGoalsConfig)

    def __post_init__(self) -> None:
        require_finite(self)
        require(
            self.planner.history <= self.model.history,
            f"planner.history ({self.planner.history}) must be at most model.history ({self.model.history})",
        )
        has_head = self.inverse_dynamics is not None
        needed = self.planner.proposals != "none"
        require(has_head or not needed, "planner.proposals needs a model with inverse_dynamics")
        self._check_far_goals()
        self.objective.check(self.model, self.inverse_dynamics)
        self._check_frozen_encoder()
        if self.inverse_dynamics is not None:
            furthest, blocks = self.inverse_dynamics.furthest, self.model.clip_frames - 1
            require(
                furthest >= blocks,
                f"inverse_dynamics.furthest ({furthest}) must be at least {blocks}, the blocks of a training clip",
            )

    def _check_far_goals(self) -> None:
        planner, far = self.planner, self.far_goals
        require(
            far.fit_steps > 0 or (planner.metric != "steps" and planner.waypoints == "none"),
            "planner.metric `steps` and planner.waypoints need what is fitted for far goals: learn with "
            "far_goals.fit_steps, or, for a trained model, learn_far_goals(dataset) (lewm far-goals)",
        )
        require(
            far.bank_megabytes > 0 or planner.waypoints != "recorded",
            "planner.waypoints `recorded` needs far_goals.bank_megabytes, of which 8 are enough, when that is fitted",
        )

    def _check_frozen_encoder(self) -> None:
        if not self.training.frozen_encoder:
            require(
                not isinstance(self.objective, SlowConfig),
                "objective `slow` takes its metric from latents that do not change: set training.frozen_encoder",
            )
            return
        encoder = self.model.encoder
        require(
            self.model.of_moments,
            f"training.frozen_encoder needs model.encoder `moments`, for others begin at random; got `{encoder}`",
        )
        require(
            not isinstance(self.objective, ObjectiveConfig) or not self.objective.reconstruction_weight,
            "objective.reconstruction_weight must be 0 with training.frozen_encoder: there are no frames to decode to",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON; objective and search have their names under ``kind``."""
        return settings_to_dict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> AgentConfig:
        """Inverse of :meth:`to_dict`. Raises ``ValueError`` for unknown keys, wrong types and unknown names."""
        return settings_from_dict(AgentConfig, values)


def configured(config: AgentConfig, settings: Mapping[str, Any]) -> AgentConfig:
    """``config`` with other settings: ``{"model.latent_dim": 8}``, or ``{"latent_dim": 8}`` where one part has it.

    ``{"inverse_dynamics": None}`` leaves the head out; ``{"search": "mppi"}`` takes another search, with its defaults.

    Raises ``ValueError`` for unknown or ambiguous ones and for values that cannot be.
    """
    nested = config.to_dict()
    for name, value in settings.items():
        if name == "inverse_dynamics" and value is None:
            nested[name] = None
            continue
        part, _, setting = (name if "." in name else _full_name(name, nested)).rpartition(".")
        inside = _part(part, nested)
        if setting not in inside:
            known = ", ".join(known for known in inside if known != "kind")
            raise ValueError(f"there is no setting {name}; {part} has {known or 'none'}")
        inside[setting] = value
    return AgentConfig.from_dict(nested)


def _part(name: str, nested: dict[str, Any]) -> dict[str, Any]:
    """Settings in nested dictionaries: of ``planner``, or of ``planner.search``; none where there is no such part."""
    for step in name.split("."):
        found = nested.get(step)
        nested = found if isinstance(found, dict) else {}
    return nested


def _full_name(setting: str, nested: dict[str, Any]) -> str:
    """``part.setting`` of the only part of an agent's settings that has one of this name."""
    names = list(_names(nested))
    having = [name for name in names if name.rpartition(".")[2] == setting]
    if not having:
        known = sorted({name.rpartition(".")[2] for name in names})
        close = difflib.get_close_matches(setting, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
        raise ValueError(f"there is no setting {setting}; {hint}")
    if len(having) > 1:
        parts = " and ".join(name.rpartition(".")[0] for name in having)
        raise ValueError(f"{setting} is a setting of {parts}: say which, as {having[0]}")
    return having[0]


def _names(settings: dict[str, Any], part: str = "") -> Iterator[str]:
    """Full names of all settings in nested dictionaries; a part is none, but ``planner.search`` is one."""
    for name, value in settings.items():
        if part and name != "kind":
            yield f"{part}.{name}"
        if isinstance(value, dict):
            yield from _names(value, f"{part}.{name}" if part else name)
