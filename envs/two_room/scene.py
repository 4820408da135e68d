"""Looks of the two-room world: its factors of variation, and how a frame is drawn with numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import numpy as np
import numpy.typing as npt

from lewm_agent.envs.factors import Color, Factors
from lewm_agent.envs.goal_env import Frame
from lewm_agent.envs.lens import corners_of
from lewm_agent.envs.two_room.geometry import (
    BORDER,
    DOOR_HALF_EXTENT,
    WALL_CENTER,
    WALL_HALF_THICKNESS,
    WORLD_SIZE,
    Geometry,
    Vector,
    WallAxis,
)

AGENT_RADIUS_RANGE = (4.0, 13.0)  # below: under two pixels at 64 px; above: does not pass the door
DOOR_POSITION_RANGE = (BORDER + DOOR_HALF_EXTENT, WORLD_SIZE - BORDER - DOOR_HALF_EXTENT)

_BORDER_LINE = 4  # px, drawn just outside the square that the disk can touch
_VISIBLE_DEVIATIONS = 3.54  # beyond, the blob changes an 8-bit channel by less than half a level: 255 exp(-d^2/2) < 0.5


@dataclass(frozen=True)
class TwoRoomFactors(Factors):
    """Factors of variation of the two-room world; the defaults are those of the released environment.

    Attributes:
        agent_color: RGB of the agent, 0 to 255.
        background_color: RGB of floor and door.
        wall_color: RGB of wall and border.
        agent_radius: radius of the agent's disk and standard deviation of its blob, px, 4 to 13.
        door_position: center of the door along the wall, px, 28 to 196.
        wall_axis: ``"vertical"`` (rooms left and right) or ``"horizontal"`` (rooms above and below).

    Raises:
        ValueError: if a value is outside its range.
    """

    agent_color: Color = (255, 0, 0)
    background_color: Color = (255, 255, 255)
    wall_color: Color = (0, 0, 0)
    agent_radius: float = 7.0
    door_position: float = 49.0
    wall_axis: WallAxis = "vertical"

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        self._check_number("agent_radius", AGENT_RADIUS_RANGE)
        self._check_number("door_position", DOOR_POSITION_RANGE)
        if self.wall_axis not in get_args(WallAxis):
            raise ValueError(f"wall_axis must be 'vertical' or 'horizontal', got {self.wall_axis!r}")

    @property
    def geometry(self) -> Geometry:
        """The part of the factors that motion depends on."""
        return Geometry(self.wall_axis, self.door_position, self.agent_radius)


def draw_frame(position: Vector, factors: TwoRoomFactors, size: int) -> Frame:
    """Draw the world with the agent at ``position`` (2,), px of the 224 px world; returns (size, size, 3) uint8.

    At 224 px this is the released picture to within one gray level (ours rounds, the released one truncates). At any
    other size it is that picture averaged over the area of each pixel: the background exactly, from the 224 px drawing;
    the blob evaluated at the centers of the small pixels with its variance widened, and its peak lowered, by the
    spread of one pixel, which is the average of a Gaussian over a pixel to within two levels. Blob and background are
    averaged before they are blended, so that pixels on a wall's edge under the blob differ by up to
    10 levels at 64 px.
    """
    exact, rounded = _background(factors, size)
    frame = rounded.copy()
    scale = WORLD_SIZE / size
    variance = factors.agent_radius**2 + (scale * scale - 1.0) / 12.0
    peak = factors.agent_radius**2 / variance
    columns, across = _blob_profile(float(position[0]), variance, factors.agent_radius, size)
    rows, down = _blob_profile(float(position[1]), variance, factors.agent_radius, size)
    alpha = np.minimum((peak * down)[:, None] * across, np.float32(1.0))[..., None]
    patch = exact[rows, columns]
    color = np.asarray(factors.agent_color, dtype=np.float32)
    frame[rows, columns] = patch + alpha * (color - patch) + np.float32(0.5)
    return frame


def _blob_profile(center: float, variance: float, radius: float, size: int) -> tuple[slice, npt.NDArray[np.float32]]:
    """Return the pixels of one axis that the blob touches, and its profile there.

    As in the released renderer the blob is 1 at the world pixel nearest to its center.
    """
    scale = WORLD_SIZE / size
    middle = (center + 0.5) / scale - 0.5
    reach = _VISIBLE_DEVIATIONS * math.sqrt(variance) / scale
    start, stop = max(0, math.ceil(middle - reach)), min(size, math.floor(middle + reach) + 1)
    offset = (np.arange(start, stop, dtype=np.float32) - np.float32(middle)) * np.float32(scale)
    nearest = (center - round(center)) / radius
    exponent = offset * offset * np.float32(-0.5 / variance) + np.float32(0.5 * nearest * nearest)
    return slice(start, stop), np.exp(exponent)


@lru_cache(maxsize=32)
def _background(factors: TwoRoomFactors, size: int) -> tuple[npt.NDArray[np.float32], Frame]:
    """Return the world without the agent, (size, size, 3), as float32 and rounded to uint8."""
    weights = _area_weights(size)
    exact = np.einsum("ai,ijc,bj->abc", weights, _world_picture(factors), weights, optimize=True)
    return exact.astype(np.float32), np.rint(exact).astype(np.uint8)


def _world_picture(factors: TwoRoomFactors) -> npt.NDArray[np.float64]:
    """Draw wall, door and border at the world's own size, (224, 224, 3)."""
    pixels = np.arange(int(WORLD_SIZE))
    stripe = np.abs(pixels - WALL_CENTER) <= WALL_HALF_THICKNESS
    solid = np.abs(pixels - factors.door_position) > DOOR_HALF_EXTENT
    wall = stripe[None, :] & solid[:, None] if factors.wall_axis == "vertical" else stripe[:, None] & solid[None, :]
    line = np.zeros(len(pixels), dtype=bool)
    near, far = int(BORDER), int(WORLD_SIZE - BORDER)
    line[near - _BORDER_LINE : near] = True
    line[far : far + _BORDER_LINE] = True
    wall = wall | line[None, :] | line[:, None]
    picture = np.empty((*wall.shape, 3))
    picture[:] = factors.background_color
    for blot in factors.clutter:
        left, top, right, bottom = (max(0, round(edge)) for edge in corners_of(blot, WORLD_SIZE))
        picture[top:bottom, left:right] = blot[3:]
    picture[wall] = factors.wall_color
    return picture


def _area_weights(size: int) -> npt.NDArray[np.float64]:
    """Return (size, 224): the share of each drawn pixel that each world pixel covers; rows sum to 1."""
    edges = np.linspace(0.0, WORLD_SIZE, size + 1)
    world = np.arange(WORLD_SIZE)
    overlap = np.minimum(edges[1:, None], world + 1.0) - np.maximum(edges[:-1, None], world)
    return np.clip(overlap, 0.0, None) * (size / WORLD_SIZE)
