"""Everything that defines an agent, as frozen dataclasses.

The defaults are the released LeWorldModel recipe to the letter (lucas-maes/le-wm ``config/train`` and
stable-worldmodel ``planning/solver/cem.py``); where the text of arXiv 2603.19312 and the released code disagree, the
code is followed. Named configurations are in :mod:`lewm_agent.presets`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args, runtime_checkable

import dacite

from lewm_agent.models.objectives import registry
from lewm_agent.tools.checks import require, require_one_of

GoalCost = Literal["terminal", "best", "sum"]
Metric = Literal["euclidean", "slow"]
SearchName = Literal["cem", "icem", "mppi", "gradient", "mixture"]
PixelNormalization = Literal["imagenet", "mean_frame"]
Backbone = Literal["vit", "cnn"]
HeadNorm = Literal["batch", "layer"]
PredictorName = Literal["autoregressive", "prefix"]
Precision = Literal["float32", "bfloat16"]
TrainingPrecision = Literal["auto", "float32", "bfloat16"]
SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True)
class ClipConfig:
    """What every model sees of an episode and what it answers: frames, and blocks of actions."""

    image_size: int = 224
    """Side of the square RGB frames, in pixels."""
    history: int = 3
    """Frames the model sees at most."""
    frame_skip: int = 5
    """Environment steps between two frames of a clip; that many actions form one action block."""
    action_dim: int = 2
    """Size of one action of the environment."""
    discrete_actions: bool = False
    """An action is a choice among ``action_dim``, in one-hot vectors."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, int) and not isinstance(value, bool):
                require(value >= 1, f"{name} must be at least 1, got {value}")

    @property
    def block_dim(self) -> int:
        """Size of one action block: ``frame_skip`` actions side by side."""
        return self.frame_skip * self.action_dim

    @property
    def clip_frames(self) -> int:
        """Frames of a training clip."""
        return self.history + 1


@dataclass(frozen=True)
class EncoderConfig(ClipConfig):
    """Sizes of an encoder that is trained from scratch. The defaults are LeWM's."""

    encoder: Backbone = "vit"
    """``vit`` reads the CLS token of a ViT; ``cnn`` is a few strided convolutions: shapes take it fewer steps."""
    patch_size: int = 14
    """Side of a ViT patch, or stride of all convolutions together, in pixels; must divide ``image_size``."""
    encoder_width: int = 192
    """Size of a ViT token; channels after the last convolution."""
    encoder_depth: int = 12
    """Layers of the ViT; a CNN has one for each prime factor of ``patch_size``."""
    encoder_heads: int = 3
    latent_dim: int = 192
    """Size of the latent vector of one frame."""
    projector_width: int = 2048
    """Hidden width of the projector and of the prediction head (Linear, BatchNorm, GELU, Linear)."""
    head_norm: HeadNorm = "batch"
    """BatchNorm or LayerNorm in these two; ``layer`` is there to show what BatchNorm is for."""
    pixel_normalization: PixelNormalization = "imagenet"
    """Subtract ImageNet's mean colour, or the mean frame of the training data, and divide by the standard deviation of
    each colour around it."""
    color_jitter: float = 0.0
    """In training, how far the colors of every frame are changed at random (:mod:`lewm_agent.models.color_jitter`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.color_jitter >= 0, f"color_jitter must not be negative, got {self.color_jitter}")
        require(
            self.image_size % self.patch_size == 0,
            f"patch_size ({self.patch_size}) must divide image_size ({self.image_size})",
        )
        require(
            self.encoder_width % self.encoder_heads == 0,
            f"encoder_heads ({self.encoder_heads}) must divide encoder_width ({self.encoder_width})",
        )
        require_one_of("pixel_normalization", self.pixel_normalization, get_args(PixelNormalization))
        require_one_of("encoder", self.encoder, get_args(Backbone))
        require_one_of("head_norm", self.head_norm, get_args(HeadNorm))


@dataclass(frozen=True)
class ModelConfig(EncoderConfig):
    """Sizes of the world model. The defaults are the released ones (18,034,478 parameters with 2-D actions)."""

    predictor: PredictorName = "autoregressive"
    """``autoregressive`` imagines one block after the other; ``prefix`` all at once, each from what the actions so far
    make of the real frames (:mod:`lewm_agent.models.prefix_predictor`)."""
    prefix_length: int = 5
    """Blocks that ``prefix`` imagines at once; its training clips are that much longer."""
    predictor_width: int = 192
    predictor_depth: int = 6
    predictor_heads: int = 16
    predictor_head_dim: int = 64
    predictor_mlp_width: int = 2048
    predictor_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.predictor_dropout < 1, f"predictor_dropout must be in [0, 1), got {self.predictor_dropout}")
        require_one_of("predictor", self.predictor, get_args(PredictorName))

    @property
    def clip_frames(self) -> int:
        """Frames of a training clip."""
        return self.history + (1 if self.predictor == "autoregressive" else self.prefix_length)


@dataclass(frozen=True)
class ObjectiveSettings:
    """What the settings of every objective derive from (:mod:`lewm_agent.models.objectives`)."""

    def check(self, agent: AgentConfig) -> None:
        """Raise ``ValueError`` unless the rest of the configuration has what the objective needs."""

    def goal_blocks(self, agent: AgentConfig) -> int | None:
        """Furthest goal that clips come with, in action blocks after the clip; None for clips without a goal."""
        return None


@dataclass(frozen=True)
class ObjectiveConfig(ObjectiveSettings):
    """LeWM's loss: next-latent prediction + weighted SIGReg (arXiv 2603.19312, equation 3; released weights)."""

    sigreg_weight: float = 0.09
    """Lambda of the released code (the paper's text says 0.1)."""
    sigreg_projections: int = 1024
    """Random directions drawn afresh at every step."""
    sigreg_knots: int = 17
    """Quadrature nodes on [0, 3]."""
    sigreg_subspaces: int = 1
    """Fixed random subspaces of latent_dim / this many dimensions that the directions lie in: LeWM 1, Sub-JEPA 32."""
    straightening_weight: float = 0.0
    """Weight of minus the mean cosine between successive latent velocities; 0 leaves the paper's two terms."""
    cross_time_weight: float = 0.0
    """Weight of SIGReg on the change from one latent to the next, divided by the root of 2: standard normal only where
    successive latents are independent. A control, against the paper's idea that freedom in time straightens latents."""
    inverse_weight: float = 0.0
    """Weight of the error of the inverse-dynamics head, whose gradient then also shapes the latents."""
    reconstruction_weight: float = 0.0
    """Weight of the error of small pictures decoded from the latents."""

    def __post_init__(self) -> None:
        for name in (name for name in dataclasses.asdict(self) if name.endswith("_weight")):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        require(self.sigreg_projections >= 1, f"sigreg_projections must be at least 1, got {self.sigreg_projections}")
        require(self.sigreg_knots >= 2, f"sigreg_knots must be at least 2, got {self.sigreg_knots}")
        require(
            1 <= self.sigreg_subspaces <= self.sigreg_projections,
            f"sigreg_subspaces must be 1 to sigreg_projections, got {self.sigreg_subspaces}",
        )

    def check(self, agent: AgentConfig) -> None:
        """Raise ``ValueError`` unless there are the velocities, the head and the dimensions that the terms need."""
        dimensions = agent.model.latent_dim
        require(
            dimensions % self.sigreg_subspaces == 0,
            f"objective.sigreg_subspaces ({self.sigreg_subspaces}) must divide model.latent_dim ({dimensions})",
        )
        require(
            agent.model.clip_frames > 2 or not self.straightening_weight,
            "objective.straightening_weight needs a model.history of at least 2: it compares two successive velocities",
        )
        has_head = agent.inverse_dynamics is not None
        require(has_head or not self.inverse_weight, "objective.inverse_weight needs inverse_dynamics")

    def goal_blocks(self, agent: AgentConfig) -> int | None:
        """As far as the inverse-dynamics head looks, if it is trained with the rest."""
        head = agent.inverse_dynamics if self.inverse_weight else None
        return head.furthest - agent.model.clip_frames + 1 if head else None


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation. The defaults are the released ones (le-wm ``config/train/lewm.yaml``)."""

    epochs: float = 10.0
    """Passes over the training clips; may be a fraction."""
    schedule_epochs: float = 100.0
    """Length of the cosine schedule; the authors stop after 10 of 100 epochs (le-wm issue 52)."""
    schedule_cycles: int = 1
    """How often the cosine starts anew, evenly over the schedule (SGDR). A finished run is continued by giving it more
    epochs, schedule epochs and cycles by the same factor."""
    batch_size: int = 128
    learning_rate: float = 5e-5
    weight_decay: float = 1e-3
    warmup_fraction: float = 0.01
    """Share of the schedule in which the learning rate rises linearly from 0."""
    gradient_clip: float = 1.0
    """Largest global norm of the gradient."""
    precision: TrainingPrecision = "auto"
    """``auto`` is bfloat16 (mixed) on a GPU and float32 elsewhere; with ``bfloat16`` convolutions and wide layers learn
    faster on CPUs that have it in hardware (AVX512-BF16, AMX), and much slower on others."""
    held_out_fraction: float = 0.1
    """Share of the EPISODES that training never sees (the released code splits by clip, which leaks)."""

    def __post_init__(self) -> None:
        require(self.epochs > 0, f"epochs must be positive, got {self.epochs}")
        require(
            self.schedule_epochs >= self.epochs,
            f"schedule_epochs ({self.schedule_epochs}) must be at least epochs ({self.epochs})",
        )
        require(self.schedule_cycles >= 1, f"schedule_cycles must be at least 1, got {self.schedule_cycles}")
        require(self.batch_size >= 2, f"batch_size must be at least 2 (BatchNorm, SIGReg), got {self.batch_size}")
        require(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        require(self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}")
        require(0 <= self.warmup_fraction < 1, f"warmup_fraction must be in [0, 1), got {self.warmup_fraction}")
        require(self.gradient_clip > 0, f"gradient_clip must be positive, got {self.gradient_clip}")
        allowed = get_args(TrainingPrecision)
        require(self.precision in allowed, f"precision must be {' or '.join(allowed)}, got {self.precision!r}")
        require(0 < self.held_out_fraction < 1, f"held_out_fraction must be in (0, 1), got {self.held_out_fraction}")

    def as_long_as(self, other: TrainingConfig) -> TrainingConfig:
        """This configuration with the length and cycles of ``other``."""
        length = {name: getattr(other, name) for name in ("epochs", "schedule_epochs", "schedule_cycles")}
        return dataclasses.replace(self, **length)


@dataclass(frozen=True)
class InverseDynamicsConfig:
    """The goal-conditioned inverse-dynamics head and its training on frozen latents, after the world model's."""

    furthest: int = 10
    """Goals are 1 to this many action blocks ahead."""
    width: int = 512
    depth: int = 3
    dropout: float = 0.1
    latent_noise: float = 0.05
    """Standard deviation of the noise on its inputs, whose components have variance 1."""
    steps: int = 6000
    batch_size: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        for name in ("furthest", "width", "depth", "steps", "batch_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        require(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        for name in ("latent_noise", "weight_decay"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class PlannerConfig:
    """The search over action sequences and how its plans are executed. The defaults are the released settings."""

    search: SearchName = "cem"
    """``gradient`` is Adam through the model, ``mixture`` CEM with several Gaussians."""
    samples: int = 300
    """Candidates per iteration."""
    elites: int = 30
    """Candidates that CEM, iCEM and the mixture refit to."""
    iterations: int = 30
    """Times candidates are drawn and costed; 0 executes the best proposal as it is."""
    initial_std: float = 1.0
    """Standard deviation of the first candidates around where the search starts, in those of the data's actions."""
    stop_std: float = 0.0
    """CEM and the mixture stop early when the standard deviation has fallen below this; 0 never."""
    temperature: float = 0.4
    """Of MPPI's weights, in standard deviations of the candidates' costs."""
    learning_rate: float = 0.1
    """Of the gradient search, in standard deviations of the data's actions."""
    components: int = 4
    """Gaussians of the mixture, which share samples and elites."""
    proposals: bool = False
    """Start from the best of the plans that the inverse-dynamics head proposes, instead of from doing nothing."""
    horizon: int = 5
    """Length of a plan, in action blocks."""
    execute: int = 5
    """Blocks executed before the next plan (receding horizon)."""
    history: int = 1
    """Real frames the predictor starts from; the released evaluation uses 1 though the model was trained on 3."""
    cost: GoalCost = "terminal"
    """Squared latent distance to the goal after the last block, at the best step of the plan, or summed over it."""
    metric: Metric = "euclidean"
    """Of that distance; ``slow`` measures it in units of how much latents usually change in one block."""
    noise_correlation: float = 0.0
    """Correlation of the sampling noise between successive environment steps (first-order autoregressive)."""
    clip_actions: bool = False
    """Keep every candidate inside the action bounds. Executed actions are always clipped to the action space."""
    warm_start: bool = False
    """Start from the not yet executed rest of the previous plan."""
    precision: Precision = "float32"
    """Of the predictor in imagination; frames are always encoded in float32."""
    compile: bool = False
    """Compile the rollout before the first plan (:mod:`lewm_agent.planning.fast_rollout`)."""

    def __post_init__(self) -> None:
        for name in ("samples", "elites", "horizon", "execute", "history", "components"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("initial_std", "temperature", "learning_rate"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        require(self.stop_std >= 0, f"stop_std must not be negative, got {self.stop_std}")
        fewest = 0 if self.proposals else 1
        require(self.iterations >= fewest, f"iterations must be at least {fewest}, got {self.iterations}")
        require(self.elites <= self.samples, f"elites ({self.elites}) must be at most samples ({self.samples})")
        require(self.elites >= 2, f"elites must be at least 2 (their standard deviation is used), got {self.elites}")
        require(self.execute <= self.horizon, f"execute ({self.execute}) must be at most horizon ({self.horizon})")
        require(0 <= self.noise_correlation < 1, f"noise_correlation must be in [0, 1), got {self.noise_correlation}")
        require_one_of("cost", self.cost, get_args(GoalCost))
        require_one_of("metric", self.metric, get_args(Metric))
        require_one_of("search", self.search, get_args(SearchName))
        require_one_of("precision", self.precision, get_args(Precision))


@dataclass(frozen=True)
class AgentConfig:
    """A whole world-model agent: model, objective, training and planner."""

    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveSettings = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    inverse_dynamics: InverseDynamicsConfig | None = None
    """None: no such head, and no planner that uses one."""

    def __post_init__(self) -> None:
        require(
            self.planner.history <= self.model.history,
            f"planner.history ({self.planner.history}) must be at most model.history ({self.model.history})",
        )
        has_head = self.inverse_dynamics is not None
        require(has_head or not self.planner.proposals, "planner.proposals needs a model with inverse_dynamics")
        self.objective.check(self)
        if self.inverse_dynamics is not None:
            furthest, blocks = self.inverse_dynamics.furthest, self.model.clip_frames - 1
            require(
                furthest >= blocks,
                f"inverse_dynamics.furthest ({furthest}) must be at least {blocks}, the blocks of a training clip",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON; an objective other than LeWM's has its name under ``kind``."""
        values = dataclasses.asdict(self)
        if not isinstance(self.objective, ObjectiveConfig):
            values["objective"] = {"kind": registry.name_of(self.objective), **values["objective"]}
        return values

    @staticmethod
    def from_dict(values: dict[str, Any]) -> AgentConfig:
        """Inverse of :meth:`to_dict`. Raises ``ValueError`` for unknown keys, wrong types and unknown objectives."""
        settings = dict(values.get("objective", {}))
        kind = settings.pop("kind", "lewm")
        settings_type = ObjectiveConfig if kind == "lewm" else registry.find(kind).settings
        return settings_from_dict(AgentConfig, {**values, "objective": settings_from_dict(settings_type, settings)})


@runtime_checkable
class AgentSettings(Protocol):
    """What the configurations of all kinds of agents have: frozen dataclasses with these parts."""

    @property
    def model(self) -> ClipConfig:
        """Sizes."""

    @property
    def training(self) -> TrainingConfig:
        """The optimisation."""

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON."""


def settings_from_dict(kind: type[SettingsT], values: dict[str, Any]) -> SettingsT:
    """A configuration from nested dictionaries. Raises ``ValueError`` for unknown keys and wrong types."""
    try:
        return dacite.from_dict(kind, values, dacite.Config(strict=True, cast=[float]))
    except dacite.DaciteError as error:
        raise ValueError(f"not a valid agent configuration: {error}") from error


def configured(config: AgentConfig, settings: Mapping[str, Any]) -> AgentConfig:
    """``config`` with other settings, such as ``{"model.latent_dim": 8}``.

    Raises ``ValueError`` for unknown ones and for values that cannot be.
    """
    nested = config.to_dict()
    for name, value in settings.items():
        part, setting = name.split(".")
        if setting not in (nested.get(part) or {}):
            raise ValueError(f"there is no setting {name}; {part} has {', '.join(nested.get(part) or ['none'])}")
        nested[part][setting] = value
    return AgentConfig.from_dict(nested)
