"""What every model sees of an episode and what it answers: frames, and blocks of actions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lewm_agent.tools.checks import require


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
