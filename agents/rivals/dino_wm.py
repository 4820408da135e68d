"""DINO-WM as an agent: plan in the patch tokens of a frozen ViT (arXiv 2411.04983)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from lewm_agent.agents.rivals.patch_world_model import PatchModelConfig, PatchWorldModel, completed
from lewm_agent.checkpoints.checkpoint import Description
from lewm_agent.checkpoints.model_card import About, search_summary
from lewm_agent.config import AgentConfig
from lewm_agent.environment import Environment
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.planning_agent import PlanningAgent
from lewm_agent.tools.checks import require
from lewm_agent.tools.settings import require_finite, settings_from_dict, settings_to_dict
from lewm_agent.training.settings import TrainingConfig


@dataclass(frozen=True)
class DinoWMConfig:
    """A DINO-WM agent: model, training and planner.

    The originals train with learning rate 5e-4, no weight decay and batches of 32.
    """

    model: PatchModelConfig = field(default_factory=PatchModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)

    def __post_init__(self) -> None:
        require_finite(self)
        history, planned = self.model.history, self.planner.history
        require(planned <= history, f"planner.history ({planned}) must be at most model.history ({history})")
        needed = self.planner.proposals != "none"
        require(not needed, "planner.proposals needs an inverse-dynamics head, which DINO-WM has not")
        require(
            self.planner.metric == "euclidean" and self.planner.waypoints == "none",
            f"planner.metric `{self.planner.metric}` with waypoints `{self.planner.waypoints}` needs latents of few "
            "numbers, which DINO-WM's are not: take metric `euclidean` and waypoints `none`",
        )

    @staticmethod
    def like(base: AgentConfig, planner: PlannerConfig, backbone: str | None = None) -> DinoWMConfig:
        """Frames, training and sizes of the predictor as in ``base``, with another planner, and DINOv2 by default."""
        own = {part.name for part in fields(PatchModelConfig)}
        settings = {name: value for name, value in asdict(base.model).items() if name in own}
        model = PatchModelConfig(**settings)
        model = model if backbone is None else replace(model, backbone=backbone)
        return DinoWMConfig(model, base.training, planner)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON."""
        return settings_to_dict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> DinoWMConfig:
        """Inverse of :meth:`to_dict`. Raises ``ValueError`` for unknown keys and wrong types."""
        return settings_from_dict(DinoWMConfig, values)


class DinoWMAgent(PlanningAgent[DinoWMConfig, PatchWorldModel]):
    """A goal-reaching agent around DINO-WM.

    Checkpoints hold the frozen encoder too, unless its weights are timm's pretrained ones, which are fetched again.

    Args:
        env: as for ``LeWMAgent``.
        config: encoder, sizes of the predictor, training and planner.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of the initial weights, of training and of the planner's noise.

    Raises:
        CheckpointError: the frozen encoder's weights cannot be had.
        ValueError: another action space, or no RGB frames.
    """

    config_type = DinoWMConfig

    def __init__(
        self,
        env: str | Environment | None,
        config: DinoWMConfig | Description,
        *,
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        if isinstance(config, DinoWMConfig):
            config = replace(config, model=completed(config.model))
        super().__init__(env, config, device=device, seed=seed)

    @staticmethod
    def make_model(config: DinoWMConfig) -> PatchWorldModel:
        """Frozen patches and their predictor."""
        return PatchWorldModel(config.model)

    @staticmethod
    def kind_of(config: DinoWMConfig) -> str:
        """``dino_wm``."""
        return "dino_wm"

    @classmethod
    def accepts(cls, kind: str) -> bool:
        """Whether it is ``dino_wm``."""
        return kind == "dino_wm"

    def about(self) -> About:
        """What sets this agent apart, for its model card and for ``lewm info``."""
        encoder = self.model.encoder
        traits = {
            "encoder": f"{self.config.model.backbone}, frozen",
            "latent": f"{encoder.tokens} tokens of {encoder.width} numbers per frame",
            "planner": search_summary(self.config.planner),
        }
        sentence = "DINO-WM (arXiv 2411.04983): it reaches goal images by planning in the patch tokens of a frozen ViT."
        load = 'from lewm_agent.agents import load_agent\n\nagent = load_agent("PATH_OR_HUB_ID")'
        return About(sentence, load, traits)
