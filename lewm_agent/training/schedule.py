"""How many steps a run takes, and the learning rate at each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lewm_agent.training.settings import TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0, then a cosine to 0 over ``cycle`` steps, which repeats (SGDR, Loshchilov & Hutter 2017).

    The first ``stop`` steps are taken.
    """

    stop: int
    cycle: int
    warmup: int
    peak: float

    @staticmethod
    def of(config: TrainingConfig, steps_per_epoch: int) -> Schedule:
        """The schedule in steps; at least one step."""
        cycle = max(1, round(config.schedule_length * steps_per_epoch / config.schedule_cycles))
        stop = max(1, round(config.epochs * steps_per_epoch))
        return Schedule(stop, cycle, round(config.warmup_fraction * cycle), config.learning_rate)

    def learning_rate(self, step: int) -> float:
        """Learning rate of optimisation step ``step``, counted from 0."""
        step %= self.cycle
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.cycle - self.warmup)
        return self.peak * (1 + math.cos(math.pi * progress)) / 2

    def progress(self, done: int) -> float:
        """Share of the present cycle that has been gone through after ``done`` steps, above 0 and at most 1."""
        return ((done - 1) % self.cycle + 1) / self.cycle

    def continues(self, other: Schedule) -> bool:
        """Whether a run under ``other`` has taken the same steps as this one, as far as it went."""
        same = (self.peak, self.warmup, self.cycle) == (other.peak, other.warmup, other.cycle)
        return same and self.stop >= other.stop
