"""Ways for the Push-T agent round the block, without touching it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from lewm_agent.envs.push_t.simulation import (
    AGENT_RADIUS,
    BAR,
    OUTLINE,
    STEM,
    WORLD_SIZE,
    Point,
    State,
    distance_to_block,
    to_block,
    to_world,
)

CLEARANCE = AGENT_RADIUS + 2.0
"""px; least distance of the agent's center from the block on its way."""

_CORNER_DISTANCE = AGENT_RADIUS + 11.0  # px; how far from the block the way turns: the agent swings out a little
_MARGIN = 2.0  # px; how far inside the picture the center of the agent stays
_CHECK_EVERY = 6.0  # px
_CORNER_SIGNS = ((-1, -1), (1, -1), (1, 1), None, (1, 1), (-1, 1), None, (-1, 1))  # outwards; two corners are concave

Pose = Sequence[float] | State

TURNS: tuple[Point, ...] = tuple(
    (x + sign[0] * _CORNER_DISTANCE / math.sqrt(2), y + sign[1] * _CORNER_DISTANCE / math.sqrt(2))
    for (x, y), sign in zip(OUTLINE, _CORNER_SIGNS, strict=True)
    if sign is not None
)
"""Points off the convex corners of the T in the frame of the block, px."""


def touching_points(spacing: float, distance: float) -> list[tuple[Point, Point]]:
    """Return points around the T and the directions from them towards it, in the frame of the block.

    Args:
        spacing: px between points on one side, at most.
        distance: px from the edge of the T.
    """
    points = []
    for start, end in zip(OUTLINE, OUTLINE[1:] + OUTLINE[:1], strict=True):
        length = math.dist(start, end)
        along = (end[0] - start[0]) / length, (end[1] - start[1]) / length
        inward = -along[1], along[0]
        count = math.ceil(length / spacing)
        for part in range(count):
            reach = (part + 0.5) * length / count
            point = (
                start[0] + reach * along[0] - distance * inward[0],
                start[1] + reach * along[1] - distance * inward[1],
            )
            if distance_to_block(point, (0.0, 0.0, 0.0)) > distance - 1e-6:  # not in the other side's way
                points.append((point, inward))
    return points


def in_picture(point: Point) -> bool:
    """Whether the agent's disk stays in the picture at a point of the world."""
    return min(point) >= _MARGIN and max(point) <= WORLD_SIZE - _MARGIN


def moved_clear(point: Sequence[float], pose: Pose, distance: float = CLEARANCE) -> Point:
    """Move a point away from the block until it is ``distance`` px from it."""
    for _ in range(4):  # off one part of the T it may come near the other
        missing = distance - distance_to_block(point, pose)
        if missing <= 0.0:
            break
        away = _away(to_block(point, pose))
        cosine, sine = math.cos(pose[2]), math.sin(pose[2])
        step = missing + 0.1
        point = (
            float(point[0]) + step * (cosine * away[0] - sine * away[1]),
            float(point[1]) + step * (sine * away[0] + cosine * away[1]),
        )
    return float(point[0]), float(point[1])


def route(start: Point, goal: Point, pose: Pose) -> list[Point]:
    """Return the points (goal included) of a short way from start to goal, in straight legs clear of the block.

    Where there is none, for example because a wall is too near, it is the straight way.
    """
    if _leg_is_clear(start, goal, pose):
        return [goal]
    turns = [(float(x), float(y)) for x, y in to_world(TURNS, pose)]
    places = [start, goal, *(turn for turn in turns if in_picture(turn))]
    previous = _shortest_way(places, pose)
    if 1 not in previous:
        return [goal]
    way = [1]
    while previous[way[-1]] != 0:
        way.append(previous[way[-1]])
    return [places[index] for index in reversed(way)]


def _shortest_way(places: list[Point], pose: Pose) -> dict[int, int]:
    """Dijkstra's algorithm from place 0 to place 1; returns the place before each place that was reached."""
    previous: dict[int, int] = {}
    queue = [(0.0, 0, 0)]
    done: set[int] = set()
    while queue:
        length, here, before = heapq.heappop(queue)
        if here in done:
            continue
        done.add(here)
        previous[here] = before
        if here == 1:
            break
        for there in set(range(1, len(places))) - done:
            if _leg_is_clear(places[here], places[there], pose):
                heapq.heappush(queue, (length + math.dist(places[here], places[there]), there, here))
    return previous


def _leg_is_clear(start: Point, end: Point, pose: Pose) -> bool:
    """Whether a straight leg keeps ``CLEARANCE``, or at least does not come nearer than its start is."""
    (x, y), (end_x, end_y) = to_block(start, pose), to_block(end, pose)
    needed = min(CLEARANCE, _distance(x, y) - 1e-6)
    count = max(1, math.ceil(math.hypot(end_x - x, end_y - y) / _CHECK_EVERY))
    step_x, step_y = (end_x - x) / count, (end_y - y) / count
    return all(_distance(x + i * step_x, y + i * step_y) >= needed for i in range(1, count + 1))


def _distance(x: float, y: float) -> float:
    """Distance to the T from a point in its frame."""
    squares = []
    for (left, top), (right, bottom) in (BAR, STEM):
        across, down = max(left - x, 0.0, x - right), max(top - y, 0.0, y - bottom)
        squares.append(across * across + down * down)
    return math.sqrt(min(squares))


def _away(point: Point) -> Point:
    """Unit vector away from the nearest point of the T, in its frame; from inside, through the nearest side."""
    x, y = point
    nearest = min(
        ((min(max(x, left), right), min(max(y, top), bottom)) for (left, top), (right, bottom) in (BAR, STEM)),
        key=lambda candidate: math.dist(candidate, point),
    )
    length = math.dist(nearest, point)
    if length > 1e-9:
        return (x - nearest[0]) / length, (y - nearest[1]) / length
    _, inward = min(touching_points(10.0, 0.0), key=lambda side: math.dist(side[0], point))
    return -inward[0], -inward[1]
