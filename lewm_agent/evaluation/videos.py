"""GIFs of an episode: what the agent saw, beside what it expected and its goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from lewm_agent.environment import Environment
from lewm_agent.evaluation.playing import Trace
from lewm_agent.evaluation.trials import Trial, begin, picture_if_any, step
from lewm_agent.planning.episodes import Frames
from lewm_agent.tools.frames import as_rgb, resized
from lewm_agent.tools.replacing import replacing

SIDE = 224
"""Smallest side of a shown frame, px."""
GAP = 8
MILLISECONDS = 100
SOLVED, UNSOLVED = (40, 160, 60), (210, 210, 210)


@dataclass(frozen=True)
class Film:
    """Frames (T + 1, H, W, 3) of the steps of an episode, and its goal (H, W, 3), if there is a picture of it."""

    frames: Frames
    goal: Frames | None

    def resized(self, side: int) -> Film:
        """The same in square frames of another size."""
        return Film(resized(self.frames, side), None if self.goal is None else resized(self.goal, side))


def film(env: Environment, trial: Trial, trace: Trace) -> Film:
    """What was seen of an episode: the actions of its trace are taken once more."""
    situation = begin(env, trial)
    frames, known = [_frame(env)], picture_if_any(situation, trial)
    for action in trace.actions:
        situation = step(situation, action)
        frames.append(_frame(env))
    return Film(np.stack(frames), known)


def write_gif(path: Path, shown: Film, solved_at: int | None, expected: Sequence[Frames] = ()) -> None:
    """Agent left, goal right if there is a picture of it, framed in green from the step at which the trial was solved.

    Args:
        path: of the GIF; its folder is made.
        shown: what was seen.
        solved_at: time step of the first success, or None.
        expected: for every step the frame that the plan led to, shown between the two.
    """
    side = shown.frames.shape[1]
    goal = None if shown.goal is None else _enlarge(resized(shown.goal, side))
    pictures = [_picture(frame, goal, number, solved_at, expected) for number, frame in enumerate(shown.frames)]
    save_gif(path, pictures, MILLISECONDS)


def _picture(
    frame: Frames, goal: Frames | None, number: int, solved_at: int | None, expected: Sequence[Frames]
) -> Frames:
    color = SOLVED if solved_at is not None and number >= solved_at else UNSOLVED
    between = [_enlarge(expected[min(number, len(expected) - 1)])] if expected else []
    return _beside([_enlarge(frame), *between, *([] if goal is None else [goal])], color)


def _frame(env: Environment) -> Frames:
    return as_rgb(np.array(env.render()))


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
