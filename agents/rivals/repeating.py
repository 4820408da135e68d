"""How agents act that learned online: look, decide on an action, repeat it, and look again."""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

from lewm_agent.models.learner import Learner
from lewm_agent.planning.decider import Decider, require_finite
from lewm_agent.planning.episodes import Actions, EpisodeMemory, Memories

ModelT = TypeVar("ModelT", bound=Learner)


class Repeating(Decider, Generic[ModelT]):
    """Looks, decides on an action, repeats it, and looks again.

    Args:
        model: in evaluation mode.
        low: lower action bounds (A,), in the environment's units.
        high: upper ones.
        exploring: act with noise, as in training.
    """

    def __init__(self, model: ModelT, low: Actions, high: Actions, *, exploring: bool = False) -> None:
        super().__init__(model, low, high)
        self.model, self.exploring = model, exploring

    @abstractmethod
    def decided(self, memory: EpisodeMemory, seen: Tensor) -> EpisodeMemory:
        """What is remembered, with a queue, after a look at a frame, features (F,)."""

    def needs_frame(self, memory: EpisodeMemory) -> bool:
        """Not while an action is repeated."""
        return not memory.queue

    def queued(self, memories: Memories, seen: dict[int, Tensor]) -> Memories:
        """Who has no actions left decides."""
        return [self.decided(m, seen[i]) if i in seen else m for i, m in enumerate(memories)]

    def repeated(self, action: Tensor) -> tuple[Actions, ...]:
        """An action (A,) in [-1, 1] as the environment takes it, as often as it is repeated.

        Raises:
            ValueError: it is not finite.
        """
        require_finite(action, "an action")
        values = np.clip(self.model.codec.denormalize(action).cpu().numpy(), self.low, self.high).astype(np.float32)
        return (values,) * self.model.config.frame_skip
