"""Looks of the Push-T world: its factors of variation, and how a frame is drawn with pygame."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lewm_agent.envs.factors import Color, Factors
from lewm_agent.envs.goal_env import Frame
from lewm_agent.envs.lens import corners_of
from lewm_agent.envs.push_t.simulation import (
    AGENT_RADIUS,
    BAR,
    STEM,
    WALL_RADIUS,
    WALLS,
    WORLD_SIZE,
    Point,
    State,
    rectangle_corners,
    to_world,
)

if TYPE_CHECKING:
    import pygame

Pose = tuple[float, float, float]
Rectangle = tuple[Point, Point]

_WALL_COLOR = (211, 211, 211)
_AGENT_RIM, _BLOCK_RIM = 4.0, 2.0  # px; how wide the darker rims are, the block's on either side of its edge
_LIGHTENING = 1.2  # of the fill against the rim
_SMALLEST_CANVAS = 256  # px; everything is drawn at least this large, and at least twice too large, then averaged


@dataclass(frozen=True)
class PushTFactors(Factors):
    """Factors of variation of the Push-T world; the defaults are those of the released environment.

    Attributes:
        agent_color: RGB of the agent's rim, 0 to 255; its inside is 1.2 times as light.
        block_color: RGB of the block's rim; its inside is 1.2 times as light.
        background_color: RGB of the floor.
        mark_color: RGB of the T that is painted on the floor.
        mark_pose: x, y (px) and angle (rad) of that T. It stays there whatever the goal of the episode is.
        mark_visible: whether it is painted at all.

    Raises:
        ValueError: if a value is outside its range.
    """

    agent_color: Color = (65, 105, 225)
    block_color: Color = (119, 136, 153)
    background_color: Color = (255, 255, 255)
    mark_color: Color = (144, 238, 144)
    mark_pose: Pose = (256.0, 256.0, math.pi / 4)
    mark_visible: bool = True

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        object.__setattr__(self, "mark_pose", _checked_pose("mark_pose", self.mark_pose))
        if not isinstance(self.mark_visible, (bool, np.bool_)):
            raise ValueError(f"mark_visible must be True or False, got {self.mark_visible!r}")


def draw_frame(state: State, factors: PushTFactors, size: int) -> Frame:
    """Draw the world at ``state`` (its first five numbers); returns (size, size, 3) uint8.

    It is drawn several times too large, without smoothing, and averaged over the area of each pixel. Nothing of this
    needs a display.
    """
    pygame = _pygame()
    canvas = _background(factors, _canvas_size(size)).copy()
    x, y, *pose = map(float, state[:5])
    for part in (BAR, STEM):
        _fill(canvas, part, _BLOCK_RIM, pose, factors.block_color)
        _fill(canvas, part, -_BLOCK_RIM, pose, _lightened(factors.block_color))
    _disk(canvas, (x, y), AGENT_RADIUS, factors.agent_color)
    _disk(canvas, (x, y), AGENT_RADIUS - _AGENT_RIM, _lightened(factors.agent_color))
    image = pygame.transform.smoothscale(canvas, (size, size))
    return np.frombuffer(pygame.image.tobytes(image, "RGB"), np.uint8).reshape(size, size, 3).copy()


@lru_cache(maxsize=16)
def _background(factors: PushTFactors, canvas_size: int) -> pygame.Surface:
    """Draw what stands still: floor, mark and walls."""
    canvas: pygame.Surface = _pygame().Surface((canvas_size, canvas_size), depth=32)
    canvas.fill(factors.background_color)
    for blot in factors.clutter:
        left, top, right, bottom = (round(edge) for edge in corners_of(blot, canvas_size))
        canvas.fill(blot[3:], (left, top, right - left, bottom - top))
    if factors.mark_visible:
        for part in (BAR, STEM):
            _fill(canvas, part, 0.0, factors.mark_pose, factors.mark_color)
    near, far = WALLS
    ends = [(near, near), (far, near), (far, far), (near, far)]
    for wall in ((ends[0], ends[1]), (ends[3], ends[2]), (ends[0], ends[3]), (ends[1], ends[2])):
        _fill(canvas, wall, WALL_RADIUS, (0.0, 0.0, 0.0), _WALL_COLOR)
    return canvas


def _canvas_size(size: int) -> int:
    """The frame's size times a power of two, for which pygame averages exactly."""
    factor = 2
    while size * factor < _SMALLEST_CANVAS:
        factor *= 2
    return size * factor


@cache
def _pygame() -> Any:
    """Import pygame late, for it is only needed for frames, and without its greeting."""
    with contextlib.redirect_stdout(io.StringIO()):
        import pygame
    return pygame


def _fill(canvas: pygame.Surface, rectangle: Rectangle, grown: float, pose: Sequence[float], color: Color) -> None:
    """Fill a rectangle of the frame at ``pose``, grown by some px on every side."""
    scale = canvas.get_width() / WORLD_SIZE
    # pygame fills up to and including the corners' pixels, so they are drawn in by half a pixel of the canvas
    corners = to_world(rectangle_corners(rectangle, grown - 0.5 / scale), pose)
    pixels = np.rint(np.clip(corners * scale - 0.5, *_DRAWABLE)).astype(int)
    _pygame().draw.polygon(canvas, color, pixels.tolist())


def _disk(canvas: pygame.Surface, center: Point, radius: float, color: Color) -> None:
    scale = canvas.get_width() / WORLD_SIZE
    pixel = np.rint(np.clip(np.multiply(center, scale), *_DRAWABLE)).astype(int)
    _pygame().draw.circle(canvas, color, pixel.tolist(), round(radius * scale))


_DRAWABLE = (-30_000.0, 30_000.0)  # the agent may leave the picture by any distance, which pygame cannot count


def _lightened(color: Color) -> Color:
    red, green, blue = (min(255, int(_LIGHTENING * channel)) for channel in color)
    return red, green, blue


def _checked_pose(name: str, value: Sequence[float]) -> Pose:
    pose = np.asarray(value)
    if pose.shape != (3,) or pose.dtype.kind not in "iuf" or not np.isfinite(pose).all():
        raise ValueError(f"{name} must be three finite numbers, x and y in px and an angle in rad, got {value!r}")
    x, y, angle = pose.astype(float).tolist()
    return x, y, angle
