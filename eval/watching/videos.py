"""GIFs of an episode: what the agent saw, beside what it expected and its goal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from lewm_agent.environment import Environment
from lewm_agent.eval.playing.rollouts import Trace, restore
from lewm_agent.eval.worlds.protocols import Pair
from lewm_agent.planning.episodes import Frames
from lewm_agent.tools.replacing import replacing

SIDE = 224
"""Smallest side of a shown frame, px."""
GAP = 8
MILLISECONDS = 100
SOLVED, UNSOLVED = (40, 160, 60), (210, 210, 210)


def write_gif(
    path: Path,
    env: Environment,
    pair: Pair,
    trace: Trace,
    solved_at: int | None,
    expected: Sequence[Frames] = (),
) -> None:
    """Agent left, goal right, framed in green from the step at which the pair was solved.

    Args:
        path: of the GIF; its folder is made.
        env: draws the visited states anew.
        pair: what was played.
        trace: what happened.
        solved_at: time step of the first success, or None.
        expected: for every step the frame that the plan led to, shown between the two.
    """
    pictures = []
    for step, state in enumerate(trace.states):
        restore(env, pair, state)
        goal = _enlarge(env.unwrapped.goal_frame())  # type: ignore[attr-defined]
        color = SOLVED if solved_at is not None and step >= solved_at else UNSOLVED
        now = _enlarge(np.asarray(env.render()))
        between = [_enlarge(expected[min(step, len(expected) - 1)])] if expected else []
        pictures.append(_beside([now, *between, goal], color))
    save_gif(path, pictures, MILLISECONDS)


def save_gif(path: Path, pictures: Sequence[Frames], milliseconds: float) -> None:
    """Write pictures (H, W, 3), each shown for so long, as a GIF that repeats, all or nothing; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        imageio.imwrite(part, np.stack(pictures), plugin="pillow", extension=".gif", duration=milliseconds, loop=0)


def _enlarge(frame: Frames) -> Frames:
    factor = max(1, -(-SIDE // frame.shape[0]))
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


def _beside(panels: Sequence[Frames], color: tuple[int, int, int]) -> Frames:
    height, width, _ = panels[0].shape
    canvas = np.empty((height + 2 * GAP, GAP + len(panels) * (width + GAP), 3), np.uint8)
    canvas[:] = color
    for place, panel in enumerate(panels):
        left = GAP + place * (width + GAP)
        canvas[GAP:-GAP, left : left + width] = panel
    return canvas
