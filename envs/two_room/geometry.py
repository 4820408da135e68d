"""Geometry of the two-room world: walls, door, disk against wall, and the two ways a step can be resolved.

Everything is in pixels of a 224 x 224 picture, x to the right and y downwards, whatever size the picture is drawn at.
The numbers are those of stable-worldmodel, ``envs/two_room/env.py`` (the released environment): border at 14, wall
center 112, wall thickness 10, door half extent 14, door margin 1.75, bounce 0.5. There, a step is judged by its end
point only; ``move_swept`` and the ``..._is_clear`` functions treat the agent as a solid disk all along the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float64]
Rectangle: TypeAlias = tuple[float, float, float, float]  # x_min, y_min, x_max, y_max
WallAxis = Literal["vertical", "horizontal"]

WORLD_SIZE = 224.0
BORDER = 14.0
WALL_CENTER = 112.0
WALL_HALF_THICKNESS = 5.0
DOOR_HALF_EXTENT = 14.0
DOOR_MARGIN = 1.75
BOUNCE = 0.5

CLEAR_TOLERANCE = 1e-4
"""Overlap in px that still counts as touching: positions recorded in float32 are off by up to 1e-5 px."""

_SKIN = 1e-6  # gap in px that a swept disk keeps from the wall, so that rounding cannot glue it there
_BISECTIONS = 40


@dataclass(frozen=True)
class Geometry:
    """Where the wall and its door are, and how large the agent is.

    Attributes:
        wall_axis: ``"vertical"`` (rooms left and right) or ``"horizontal"`` (rooms above and below).
        door_position: center of the door along the wall, px.
        agent_radius: radius of the agent's disk, px.
    """

    wall_axis: WallAxis = "vertical"
    door_position: float = 49.0
    agent_radius: float = 7.0

    @property
    def across(self) -> int:
        """Index of the coordinate that tells the rooms apart: 0 (x) for a vertical wall, 1 (y) for a horizontal one."""
        return 0 if self.wall_axis == "vertical" else 1

    @property
    def lower_limit(self) -> float:
        """Smallest coordinate, px, that the agent's center can reach on either axis."""
        return BORDER + self.agent_radius

    @property
    def upper_limit(self) -> float:
        """Largest coordinate, px, that the agent's center can reach on either axis."""
        return WORLD_SIZE - BORDER - self.agent_radius

    @property
    def wall_band(self) -> tuple[float, float]:
        """Range, px, of the coordinate across the wall within which the disk reaches into the wall's stripe."""
        reach = WALL_HALF_THICKNESS + self.agent_radius
        return WALL_CENTER - reach, WALL_CENTER + reach

    @property
    def door_center(self) -> Vector:
        """Centre of the door, xy in px, shape (2,)."""
        center = np.full(2, WALL_CENTER)
        center[1 - self.across] = self.door_position
        return center

    def door_exit(self, room: int) -> Vector:
        """Return the point before the door, xy in px, shape (2,), where the disk has just left it into ``room``."""
        exit_point = self.door_center
        exit_point[self.across] = self.wall_band[room] + (BOUNCE if room else -BOUNCE)
        return exit_point

    @property
    def wall_rectangles(self) -> tuple[Rectangle, Rectangle]:
        """The two solid parts of the wall, on either side of the door."""
        low, high = WALL_CENTER - WALL_HALF_THICKNESS, WALL_CENTER + WALL_HALF_THICKNESS
        door_start, door_end = self.door_position - DOOR_HALF_EXTENT, self.door_position + DOOR_HALF_EXTENT
        if self.across == 0:
            return (low, 0.0, high, door_start), (low, door_end, high, WORLD_SIZE)
        return (0.0, low, door_start, high), (door_end, low, WORLD_SIZE, high)

    def room(self, position: npt.ArrayLike) -> int:
        """Return 0 for a position (2,) left of (or above) the wall's center line, 1 for one on or beyond it."""
        return int(float(np.asarray(position)[self.across]) >= WALL_CENTER)

    def in_wall_band(self, position: npt.ArrayLike) -> bool:
        """Say whether the disk at ``position`` (2,) reaches into the wall's stripe (it may be in the door)."""
        band_start, band_end = self.wall_band
        return bool(band_start < np.asarray(position)[self.across] < band_end)

    def clip(self, position: npt.ArrayLike) -> Vector:
        """Return the position (2,) clipped into the square that the agent's center can reach."""
        x, y = np.asarray(position, dtype=np.float64).tolist()
        low, high = self.lower_limit, self.upper_limit
        return np.array([min(max(x, low), high), min(max(y, low), high)])


def disk_is_clear(position: npt.ArrayLike, geometry: Geometry) -> bool:
    """Say whether the agent's disk, centered at ``position`` (2,) in px, overlaps neither wall nor border."""
    return segment_is_clear(position, position, geometry)


def segment_is_clear(start: npt.ArrayLike, end: npt.ArrayLike, geometry: Geometry) -> bool:
    """Say whether the disk, moved straight from ``start`` to ``end`` (both (2,), px), overlaps neither wall nor border.

    The distance between the segment and each part of the wall is exact; touching (within ``CLEAR_TOLERANCE``) is clear.
    """
    first = np.asarray(start, dtype=np.float64)
    last = np.asarray(end, dtype=np.float64)
    inside_border = all(
        geometry.lower_limit - CLEAR_TOLERANCE <= value <= geometry.upper_limit + CLEAR_TOLERANCE
        for value in (*first.tolist(), *last.tolist())
    )
    return inside_border and _clearance(first, last, geometry) >= -CLEAR_TOLERANCE


def route_is_clear(route: npt.ArrayLike, geometry: Geometry) -> bool:
    """Say whether every straight transition of a ``route`` (T, 2), T >= 1, is clear for the disk."""
    positions = np.asarray(route, dtype=np.float64)
    if len(positions) == 1:
        return disk_is_clear(positions[0], geometry)
    return all(segment_is_clear(start, end, geometry) for start, end in pairwise(positions))


def count_legal_crossings(route: npt.ArrayLike, geometry: Geometry) -> int:
    """Count the transitions of a ``route`` (T, 2) that change the room and are clear for the disk."""
    positions = np.asarray(route, dtype=np.float64)
    return sum(
        geometry.room(start) != geometry.room(end) and segment_is_clear(start, end, geometry)
        for start, end in pairwise(positions)
    )


def move_released(start: Vector, target: Vector, geometry: Geometry) -> Vector:
    """Resolve a step as the released environment does: only where it ends is looked at.

    The end point is clipped into the reachable square; if it then lies in the wall's band, or beyond it, and not beside
    the door, it is set back to half a pixel before the band. The disk can therefore clip the edges of the door.

    Args:
        start: center before the step, (2,) px.
        target: center that the action asks for, (2,) px.
        geometry: the world.

    Returns:
        The center after the step, (2,) px.
    """
    end = geometry.clip(target)
    across = geometry.across
    if abs(end[1 - across] - geometry.door_position) <= DOOR_HALF_EXTENT + DOOR_MARGIN:
        return end
    band_start, band_end = geometry.wall_band
    if start[across] < WALL_CENTER:
        if end[across] > band_start:
            end[across] = band_start - BOUNCE
    elif end[across] < band_end:
        end[across] = band_end + BOUNCE
    return end


def move_swept(start: Vector, target: Vector, geometry: Geometry) -> Vector:
    """Resolve a step for a solid disk: it moves straight to first contact and slides on along the tangent there.

    The wall is convex on both sides of the door, so the straight line from ``start`` to the returned point is clear as
    well: a recorded route needs no positions between its steps to be judged by ``segment_is_clear``. A start that
    overlaps the wall (possible only where it was put there) is first moved to the nearest clear point.

    Args:
        start: center before the step, (2,) px.
        target: center that the action asks for, (2,) px.
        geometry: the world.

    Returns:
        The center after the step, (2,) px.
    """
    end = geometry.clip(target)
    if not _meets_wall_band(start, end, geometry):
        return end
    if _clearance(start, start, geometry) < 0.5 * _SKIN:
        start = nearest_clear(start, geometry)
    if _clearance(start, end, geometry) >= 0.5 * _SKIN:
        return end
    contact = _advance(start, end, 0.5 * _SKIN, geometry)
    slide = geometry.clip(contact + _tangential(end - contact, contact, geometry))
    final = _advance(contact, slide, 0.25 * _SKIN, geometry)
    # Two contacts in one step could bend the route around an edge that its straight line cuts: stop at the first.
    return final if _clearance(start, final, geometry) >= 0.0 else contact


def nearest_clear(position: npt.ArrayLike, geometry: Geometry) -> Vector:
    """Return the position (2,), or the point nearest to it at which the disk overlaps neither wall nor border."""
    point = geometry.clip(position)
    gap = geometry.agent_radius + _SKIN
    for rectangle in geometry.wall_rectangles:
        closest = _closest_point(point, rectangle)
        distance = math.dist(point, closest)
        if distance == 0.0:
            side = -1.0 if point[geometry.across] < WALL_CENTER else 1.0
            point[geometry.across] = WALL_CENTER + side * (WALL_HALF_THICKNESS + gap)
        elif distance < gap:
            point = closest + (point - closest) * (gap / distance)
    return geometry.clip(point)


def _meets_wall_band(start: Vector, end: Vector, geometry: Geometry) -> bool:
    """Say whether a straight step comes near the wall at all; the common case does not, and stays cheap."""
    band_start, band_end = geometry.wall_band
    first, last = float(start[geometry.across]), float(end[geometry.across])
    return max(first, last) > band_start - _SKIN and min(first, last) < band_end + _SKIN


def _clearance(start: Vector, end: Vector, geometry: Geometry) -> float:
    """Return the smallest gap, px, between the wall and the disk moved from start to end; negative: overlap."""
    if not _meets_wall_band(start, end, geometry):
        return _SKIN
    return min(_segment_distance(start, end, part) for part in geometry.wall_rectangles) - geometry.agent_radius


def _advance(start: Vector, end: Vector, gap: float, geometry: Geometry) -> Vector:
    """Return the farthest point of the segment that the disk reaches while keeping ``gap`` px from the wall."""
    if _clearance(start, end, geometry) >= gap:
        return end
    reached, blocked = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (reached + blocked)
        if _clearance(start, start + middle * (end - start), geometry) >= gap:
            reached = middle
        else:
            blocked = middle
    return start + reached * (end - start)


def _tangential(displacement: Vector, contact: Vector, geometry: Geometry) -> Vector:
    """Return the part of a displacement (2,) along the wall at the point where the disk touches it."""
    closest = min(
        (_closest_point(contact, part) for part in geometry.wall_rectangles),
        key=lambda point: math.dist(contact, point),
    )
    normal = (contact - closest) / math.dist(contact, closest)
    return displacement - normal * min(0.0, float(displacement @ normal))


def _closest_point(point: Vector, rectangle: Rectangle) -> Vector:
    """Return the point (2,) of a solid rectangle that is nearest to ``point`` (2,)."""
    x_min, y_min, x_max, y_max = rectangle
    x, y = point.tolist()
    return np.array([min(max(x, x_min), x_max), min(max(y, y_min), y_max)])


def _segment_distance(start: Vector, end: Vector, rectangle: Rectangle) -> float:
    """Return the distance, px, between a segment and a solid rectangle (0 if they meet).

    Two convex shapes that do not meet are nearest at a corner of one of them: at an end of the segment or at a corner
    of the rectangle.
    """
    if _segment_meets(start, end, rectangle):
        return 0.0
    x_min, y_min, x_max, y_max = rectangle
    corners = ((x_min, y_min), (x_min, y_max), (x_max, y_min), (x_max, y_max))
    return min(
        math.dist(start, _closest_point(start, rectangle)),
        math.dist(end, _closest_point(end, rectangle)),
        *(_point_segment_distance(corner, start, end) for corner in corners),
    )


def _segment_meets(start: Vector, end: Vector, rectangle: Rectangle) -> bool:
    """Say whether a segment passes through a solid rectangle, by clipping it to both pairs of sides."""
    enter, leave = 0.0, 1.0
    for axis in (0, 1):
        low, high = rectangle[axis], rectangle[axis + 2]
        origin, travel = float(start[axis]), float(end[axis] - start[axis])
        if travel == 0.0:
            if not low <= origin <= high:
                return False
            continue
        first, second = sorted(((low - origin) / travel, (high - origin) / travel))
        enter, leave = max(enter, first), min(leave, second)
    return enter <= leave


def _point_segment_distance(point: tuple[float, float], start: Vector, end: Vector) -> float:
    """Return the distance, px, between a point and a segment."""
    (x, y), (start_x, start_y), (end_x, end_y) = point, start.tolist(), end.tolist()
    travel_x, travel_y = end_x - start_x, end_y - start_y
    length_squared = travel_x * travel_x + travel_y * travel_y
    along = (x - start_x) * travel_x + (y - start_y) * travel_y
    fraction = min(max(along / length_squared, 0.0), 1.0) if length_squared > 0.0 else 0.0
    return math.hypot(x - start_x - fraction * travel_x, y - start_y - fraction * travel_y)
