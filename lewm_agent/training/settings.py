"""How a model is trained; the defaults are the released recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from lewm_agent.models.clip import ClipConfig
from lewm_agent.tools.checks import require

TrainingPrecision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation. The defaults are the released ones (le-wm ``config/train/lewm.yaml``), but for the schedule."""

    epochs: float = 10.0
    """Passes over the training clips; may be a fraction."""
    schedule_epochs: float | None = None
    """Length of the cosine schedule, as long as the training by default; the authors stop after 10 of 100 epochs (le-wm
    issue 52), and so does preset ``paper``."""
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
    """``auto`` is bfloat16 (mixed with float32) on a CUDA GPU, and on a CPU that multiplies matrices clearly faster in
    it (AVX512-BF16, AMX), by a measurement at the start; a continued run keeps what it began with."""
    frozen_encoder: bool = False
    """Leave an encoder of moments as the data's frames set it up, and learn from latents that are computed once; most
    of a step's time goes into frames."""
    held_out_fraction: float = 0.1
    """Share of the EPISODES that training never sees (the released code splits by clip, which leaks)."""

    metric_power: float = 1.0
    """How much more the slow counts than the fast in metric ``slow`` (:mod:`lewm_agent.training.slow_metric`)."""

    def __post_init__(self) -> None:
        require(self.metric_power > 0, f"metric_power must be positive, got {self.metric_power}")
        require(self.epochs > 0, f"epochs must be positive, got {self.epochs}")
        require(
            self.schedule_length >= self.epochs,
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

    @property
    def schedule_length(self) -> float:
        """Of the cosine schedule, in epochs."""
        return self.epochs if self.schedule_epochs is None else self.schedule_epochs


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
