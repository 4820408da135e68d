"""What is fitted for far goals, and how long."""

from __future__ import annotations

from dataclasses import dataclass

from lewm_agent.tools.checks import require

MOST_MEGABYTES = 16


@dataclass(frozen=True)
class FarGoalsConfig:
    """What is fitted for goals that are far, after the world model's training."""

    fit_steps: int = 0
    """Optimisation steps; 0: nothing is fitted."""
    reach: int = 40
    """Blocks to a goal are told apart up to this many; goals in other episodes count as this far."""
    stride: int = 5
    """Blocks from a frame to its waypoint."""
    bank_megabytes: float = 0.0
    """Of recorded ways that are kept with the model, for planner.waypoints ``recorded``."""

    def __post_init__(self) -> None:
        require(self.fit_steps >= 0, f"fit_steps must not be negative, got {self.fit_steps}")
        require(self.stride >= 1, f"stride must be at least 1, got {self.stride}")
        most = MOST_MEGABYTES
        require(0 <= self.bank_megabytes <= most, f"bank_megabytes must be from 0 to {most}, got {self.bank_megabytes}")
        require(
            self.reach > self.stride,
            f"reach ({self.reach}) must be greater than stride ({self.stride}), both of far_goals",
        )


FITTED = FarGoalsConfig(fit_steps=4000)
"""A fit that takes a minute or two."""
