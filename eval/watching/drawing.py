"""The picture that watch.py shows: the world now, its goal, and the path that the agent imagines."""

from __future__ import annotations

import contextlib
import functools
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lewm_agent.envs.goal_env import Vector
from lewm_agent.planning.episodes import Frames

with contextlib.redirect_stdout(io.StringIO()):  # without its greeting
    import pygame as pygame
    import pygame.gfxdraw

Color = tuple[int, int, int]

SIDE = 336
"""Side of both frames, px."""
GAP = 12
SMALL = 128
"""Side of an imagined frame, px; five of them fit."""
HEADER = 26
LINE, TEXT = 21, 21
WIDTH = 2 * SIDE + 3 * GAP
PAPER, INK, FAINT = (250, 250, 248), (35, 38, 45), (120, 124, 132)
SOLVED, UNSOLVED = (30, 150, 70), (205, 205, 203)
MARKS: tuple[Color, ...] = ((150, 60, 220), (0, 150, 200))
"""Colors of the paths of the first and the second mark."""


@dataclass(frozen=True)
class Path:
    """A plan: places (P, K, 2) after each of its blocks, and (K, 2) where it begins."""

    start: Vector
    imagined: Vector
    real: Vector


@dataclass(frozen=True)
class Scene:
    """All that is shown.

    Attributes:
        frame: the world now (SIDE, SIDE, 3).
        goal_frame: the goal (SIDE, SIDE, 3).
        goal_places: of the marks in the goal (K, 2).
        path: of the last plan, if there is one.
        imagined: frames (P, h, w, 3) that the plan expects after its blocks, if they are to be shown.
        solved: whether the goal is reached.
        marks: their names; none where places are not known.
        captions: lines below the frames.
    """

    frame: Frames
    goal_frame: Frames
    goal_places: Vector
    path: Path | None
    imagined: Frames | None
    solved: bool
    marks: tuple[str, ...]
    captions: tuple[str, ...]


def size(captions: int, *, imagined: bool = False) -> tuple[int, int]:
    """Width and height, px, of a picture with so many captions, and with or without imagined frames."""
    strip = HEADER + SMALL if imagined else 0
    return WIDTH, HEADER + SIDE + GAP + strip + LINE * (captions + 1) + GAP // 2


def place_at(pixel: tuple[int, int]) -> Vector | None:
    """The place (2,) in either frame that a pixel of the picture shows, or None outside both."""
    for left in (GAP, 2 * GAP + SIDE):
        x, y = pixel[0] - left, pixel[1] - HEADER
        if 0 <= x < SIDE and 0 <= y < SIDE:
            return (np.array([x, y], dtype=np.float64) + 0.5) / SIDE
    return None


def draw(scene: Scene) -> pygame.Surface:
    """Draw everything; needs no display."""
    canvas = pygame.Surface(size(len(scene.captions), imagined=scene.imagined is not None), depth=32)
    canvas.fill(PAPER)
    now = _surface(scene.frame)
    _draw_goal(now, scene.goal_places)
    if scene.path is not None:
        _draw_path(now, scene.path)
    color = SOLVED if scene.solved else UNSOLVED
    for left, title, frame in ((GAP, "now", now), (2 * GAP + SIDE, "goal", _surface(scene.goal_frame))):
        _write(canvas, title, (left, 5), INK)
        canvas.fill(color, (left - 3, HEADER - 3, SIDE + 6, SIDE + 6))
        canvas.blit(frame, (left, HEADER))
    top = HEADER + SIDE + GAP // 2
    if scene.imagined is not None:
        _draw_imagined(canvas, top, scene.imagined)
        top += HEADER + SMALL
    for row, caption in enumerate(scene.captions):
        _write(canvas, caption, (GAP, top + LINE * row), INK if row == 0 else FAINT)
    if scene.marks:
        _draw_legend(canvas, top + LINE * len(scene.captions), scene.marks)
    return canvas


def pixels(picture: pygame.Surface) -> NDArray[np.uint8]:
    """A picture as an array (H, W, 3)."""
    width, height = picture.get_size()
    return np.frombuffer(pygame.image.tobytes(picture, "RGB"), np.uint8).reshape(height, width, 3)


def _surface(frame: Frames) -> pygame.Surface:
    height, width, _ = frame.shape
    return pygame.image.frombuffer(np.ascontiguousarray(frame).tobytes(), (width, height), "RGB")


def _draw_imagined(canvas: pygame.Surface, top: int, frames: Frames) -> None:
    """A row of small frames, as many as fit."""
    _write(canvas, "what the plan expects to see, block by block", (GAP, top), INK)
    for place, frame in enumerate(frames[: WIDTH // (SMALL + GAP // 2)]):
        small = pygame.transform.smoothscale(_surface(frame), (SMALL, SMALL))
        canvas.blit(small, (GAP + place * (SMALL + GAP // 2), top + LINE))


def _draw_goal(canvas: pygame.Surface, places: Vector) -> None:
    """A cross in the color of each mark."""
    for place, color in zip(places, MARKS, strict=False):
        _cross(canvas, *_pixel(place), color)


def _draw_path(canvas: pygame.Surface, path: Path) -> None:
    for mark, color in zip(range(len(path.start)), MARKS, strict=False):
        _draw_rings(canvas, path.real[:, mark], color)
        line = [_pixel(place) for place in (path.start[mark], *path.imagined[:, mark])]
        pygame.draw.lines(canvas, color, False, line, 2)
        for x, y in line[1:]:
            _disk(canvas, x, y, 6, PAPER)
            _disk(canvas, x, y, 5, color)


def _draw_rings(canvas: pygame.Surface, places: Vector, color: Color) -> None:
    for place in places:
        x, y = _pixel(place)
        _ring(canvas, x, y, color)


def _draw_legend(canvas: pygame.Surface, top: int, marks: tuple[str, ...]) -> None:
    color, middle, x = MARKS[0], top + LINE // 2 - 2, GAP + 6
    _disk(canvas, x, middle, 5, color)
    x = _write(canvas, "imagined by the model", (x + 12, top), FAINT) + 22
    _ring(canvas, x, middle, color)
    x = _write(canvas, "what the same actions really do", (x + 14, top), FAINT) + 22
    _cross(canvas, x, middle, color)
    x = _write(canvas, "goal", (x + 12, top), FAINT) + 22
    if len(marks) > 1:
        for name, shade in zip(marks, MARKS, strict=False):
            x = _write(canvas, name, (x, top), shade) + 12


def _disk(canvas: pygame.Surface, x: int, y: int, radius: int, color: Color) -> None:
    pygame.gfxdraw.filled_circle(canvas, x, y, radius, color)
    pygame.gfxdraw.aacircle(canvas, x, y, radius, color)


def _ring(canvas: pygame.Surface, x: int, y: int, color: Color) -> None:
    for radius, shade in ((9, PAPER), (8, color), (7, color), (6, PAPER)):
        pygame.gfxdraw.aacircle(canvas, x, y, radius, shade)


def _cross(canvas: pygame.Surface, x: int, y: int, color: Color) -> None:
    for reach, width, shade in ((6, 5, PAPER), (5, 2, color)):
        for slope in (-1, 1):
            pygame.draw.line(canvas, shade, (x - reach, y - reach * slope), (x + reach, y + reach * slope), width)


def _pixel(place: Vector) -> tuple[int, int]:
    """In the frame; no farther out than it takes to be unseen, because pygame counts in 16 bits."""
    x, y = np.clip(np.rint(place * SIDE), -SIDE, 2 * SIDE).astype(int).tolist()
    return x, y


def _write(canvas: pygame.Surface, text: str, corner: tuple[int, int], color: Color) -> int:
    """Write a line; returns where it ends, px."""
    large = _font().render(text, True, color)
    image = pygame.transform.smoothscale(large, (large.get_width() // 2, large.get_height() // 2))
    canvas.blit(image, corner)
    return corner[0] + image.get_width()


@functools.cache
def _font() -> pygame.font.Font:
    """Twice as large as needed: letters are then spaced evenly."""
    pygame.font.init()
    return pygame.font.Font(None, 2 * TEXT)
