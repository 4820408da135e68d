"""Which search plans are found with, and how they are executed; the defaults are the released settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lewm_agent.tools.checks import require, require_one_of

GoalCost = Literal["terminal", "best", "sum"]
Metric = Literal["euclidean", "slow"]
SearchName = Literal["cem", "icem", "mppi", "gradient", "mixture"]
Proposals = Literal["none", "refine", "follow"]
Precision = Literal["float32", "bfloat16"]


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
    """Times candidates are drawn and costed."""
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
    proposals: Proposals = "none"
    """Of the plans that the inverse-dynamics head proposes: ``refine`` starts the search from the best, instead of from
    doing nothing; ``follow`` executes it as it is."""
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
        for name in ("samples", "elites", "iterations", "horizon", "execute", "history", "components"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("initial_std", "temperature", "learning_rate"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        require(self.stop_std >= 0, f"stop_std must not be negative, got {self.stop_std}")
        require(self.elites <= self.samples, f"elites ({self.elites}) must be at most samples ({self.samples})")
        require(self.elites >= 2, f"elites must be at least 2 (their standard deviation is used), got {self.elites}")
        require(
            self.search != "mixture" or self.elites // self.components >= 2,
            f"elites ({self.elites}) must be at least 2 for each of the {self.components} components of a mixture: "
            f"{2 * self.components} in all",
        )
        require(
            self.search != "icem" or 2 * self.elites <= self.samples,
            f"elites ({self.elites}) must be at most half the samples ({self.samples}) with search icem",
        )
        require(self.execute <= self.horizon, f"execute ({self.execute}) must be at most horizon ({self.horizon})")
        require(0 <= self.noise_correlation < 1, f"noise_correlation must be in [0, 1), got {self.noise_correlation}")
        require_one_of("cost", self.cost, get_args(GoalCost))
        require_one_of("metric", self.metric, get_args(Metric))
        require_one_of("search", self.search, get_args(SearchName))
        require_one_of("proposals", self.proposals, get_args(Proposals))
        require_one_of("precision", self.precision, get_args(Precision))
