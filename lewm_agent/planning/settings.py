"""Which search plans are found with, and how they are executed; the defaults are the released settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from lewm_agent.planning.cem import CEM
from lewm_agent.planning.search import ActionSet, Sampling, Search
from lewm_agent.tools.checks import require, require_one_of

GoalCost = Literal["terminal", "best", "sum"]
Metric = Literal["euclidean", "slow", "steps"]
Waypoints = Literal["none", "recorded", "expected", "drawn"]
Proposals = Literal["none", "refine", "follow", "approach"]
Precision = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True)
class PlannerConfig:
    """The search over action sequences and how its plans are executed. The defaults are the released settings."""

    search: Search = field(default_factory=CEM)
    """How cheap plans are found, with the settings that this search alone has."""
    samples: int = 300
    """Candidates per iteration."""
    elites: int = 30
    """Candidates that CEM, iCEM and the mixture refit to."""
    iterations: int = 30
    """Times candidates are drawn and costed."""
    initial_std: float = 1.0
    """Standard deviation of the first candidates around where the search starts, in those of the data's actions."""
    proposals: Proposals = "none"
    """Of the plans that the inverse-dynamics head proposes: ``refine`` starts the search from the best, instead of from
    doing nothing; ``follow`` executes it as it is; ``approach`` follows the one that gets nearest while the goal is
    farther than a plan reaches, and refines from there."""
    horizon: int = 5
    """Length of a plan, in action blocks."""
    execute: int = 5
    """Blocks executed before the next plan (receding horizon)."""
    history: int = 1
    """Real frames the predictor starts from; the released evaluation uses 1 though the model was trained on 3."""
    cost: GoalCost = "terminal"
    """Squared latent distance to the goal after the last block, at the best step of the plan, or summed over it."""
    metric: Metric = "euclidean"
    """Of that distance; ``slow`` measures it in units of how much latents usually change in one block, and ``steps``
    are the blocks to go that a head tells (:mod:`lewm_agent.training.far_goals`)."""
    waypoints: Waypoints = "none"
    """What plans aim at while the goal is far: a latent of the ``recorded`` way most like the one to go, the
    ``expected`` latent on the way, or the best of several that are ``drawn``."""
    noise_correlation: float = 0.0
    """Correlation of the sampling noise between successive environment steps (first-order autoregressive)."""
    clip_actions: bool = False
    """Keep every candidate inside the action bounds. Executed actions are always clipped to the action space."""
    warm_start: bool = False
    """Start from the not yet executed rest of the previous plan."""
    precision: Precision = "float32"
    """Of the predictor in imagination; frames are always encoded in float32. ``auto`` is what this machine is clearly
    faster in (:mod:`lewm_agent.tools.precision`)."""
    compile: bool = False
    """Compile the rollout before the first plan (:mod:`lewm_agent.planning.fast_rollout`)."""

    def __post_init__(self) -> None:
        require(
            isinstance(self.search, Search),
            f"search must be a search with its settings, such as CEM() or MPPI(temperature=0.1), got {self.search!r}",
        )
        self.search.check(self.sampling())
        for name in ("horizon", "execute", "history"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.execute <= self.horizon, f"execute ({self.execute}) must be at most horizon ({self.horizon})")
        require_one_of("cost", self.cost, get_args(GoalCost))
        require_one_of("metric", self.metric, get_args(Metric))
        require_one_of("waypoints", self.waypoints, get_args(Waypoints))
        require_one_of("proposals", self.proposals, get_args(Proposals))
        require_one_of("precision", self.precision, get_args(Precision))

    def sampling(self, allowed: ActionSet | None = None) -> Sampling:
        """How the search draws candidates, which are moved to the ``allowed`` actions."""
        return Sampling(
            samples=self.samples,
            elites=self.elites,
            iterations=self.iterations,
            initial_std=self.initial_std,
            noise_correlation=self.noise_correlation,
            allowed=allowed,
        )
