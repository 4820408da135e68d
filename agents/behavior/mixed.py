"""Two policies by turns: what to imitate, and what actions do elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.rollout import BehaviorPolicy


class Mixed:
    """In each episode either an expert or a weak policy acts.

    A model of expert episodes alone is a better one of an expert's actions and a worse one to plan with: the search
    asks it what other actions do. Which of the two an episode gets depends on its seed alone. Before the first
    ``reset`` it acts as after ``reset(0)``.

    Attributes:
        is_expert: whether the expert acts in this episode, which data record.
    """

    def __init__(self, expert: BehaviorPolicy, weak: BehaviorPolicy, expert_share: float) -> None:
        """Mix two policies.

        Args:
            expert: acts in some episodes.
            weak: acts in the others.
            expert_share: of the episodes.

        Raises:
            ValueError: if the share is not between 0 and 1.
        """
        if not 0.0 <= expert_share <= 1.0:
            raise ValueError(f"expert_share must be between 0 and 1, got {expert_share}")
        self.expert_share = float(expert_share)
        self._expert, self._weak = expert, weak
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start an episode; who acts in it, and how, depends on ``seed`` alone."""
        self.is_expert = bool(np.random.default_rng([seed, 1]).random() < self.expert_share)
        self._acting = self._expert if self.is_expert else self._weak
        self._acting.reset(seed)

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[Any]:
        """Return the action of whoever acts."""
        return self._acting(observation, info)
