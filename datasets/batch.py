"""What a model is trained on: clips side by side, with names. Arrays as they are read, tensors as they are learned."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

ArrayT = TypeVar("ArrayT")
"""NumPy array or torch tensor."""


class ClipBatch(NamedTuple, Generic[ArrayT]):
    """Short frame sequences with the actions between them.

    Attributes:
        frames: (B, T, H, W, 3) uint8.
        actions: (B, T - 1, frame_skip, A) float32, in the environment's units: ``actions[b, t]`` lead from
            ``frames[b, t]`` to ``frames[b, t + 1]``.
        goals: (B, H, W, 3) uint8, a later frame of each clip's episode; None where none are asked for.
        blocks_to_goal: (B,) int64, action blocks from a clip's last frame to its goal, at least 0; None likewise.
    """

    frames: ArrayT
    actions: ArrayT
    goals: ArrayT | None = None
    blocks_to_goal: ArrayT | None = None


class GoalBatch(NamedTuple, Generic[ArrayT]):
    """Transitions over one action block, each with G goals.

    Attributes:
        frames: (B, 2, H, W, 3) uint8, before and after the block.
        actions: (B, 1, frame_skip, A) float32, in the environment's units.
        goals: (B, G, H, W, 3) uint8.
        reached: (B, G) bool, whether a goal is the first frame itself.
    """

    frames: ArrayT
    actions: ArrayT
    goals: ArrayT
    reached: ArrayT
