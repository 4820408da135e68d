"""Which pairs count on Two-Room, and when they are solved. States are agent positions (2,), px of the 224 px world."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lewm_agent.envs.two_room.geometry import Geometry, count_legal_crossings, disk_is_clear, route_is_clear
from lewm_agent.eval.worlds.far import is_far

PAPER_RADIUS = 16.0
"""px; the released success radius."""
STRICT_RADIUS = 8.0
"""px; half of it (CLEAR-LeWM, ``strict``)."""
MODERATE_SEPARATION = 49.46
"""px; median distance from start to goal over the 200 shipped ``moderate`` pairs."""

States = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def near_goal(states: States, goal: States, radius: float = PAPER_RADIUS) -> Booleans:
    """At which of the visited states (T, 2) the agent is less than ``radius`` from the goal (2,)."""
    near: Booleans = np.linalg.norm(states - goal, axis=-1) < radius
    return near


def clean_crossing(states: States, radius: float) -> bool:
    """Whether a recorded window (26, 2) leads from one room to the other without its disk touching a wall.

    Pairs that are solved at the start do not count either.
    """
    geometry = Geometry()
    return (
        geometry.room(states[0]) != geometry.room(states[-1])
        and disk_is_clear(states[0], geometry)
        and disk_is_clear(states[-1], geometry)
        and not near_goal(states[:1], states[-1], radius)[0]
        and route_is_clear(states, geometry)
    )


def rooms_far_apart(starts: States, goals: States) -> Booleans:
    """Which of the starts (T, 2) and goals (U, 2) are 2 to 4 times as far apart as ``moderate`` pairs, (T, U).

    Pairs in one room or with a disk that touches a wall do not count.
    """
    geometry = Geometry()
    rooms = [np.array([geometry.room(place) for place in places]) for places in (starts, goals)]
    clear = [np.array([disk_is_clear(place, geometry) for place in places]) for places in (starts, goals)]
    legal = np.not_equal.outer(*rooms) & np.logical_and.outer(*clear)
    far: Booleans = legal & is_far(np.linalg.norm(goals - starts[:, None], axis=-1), MODERATE_SEPARATION)
    return far


def legal_arrival(states: States, goal: States) -> Booleans:
    """At which visited states (T, 2) the agent is within 8 px, on the goal's side, after a wholly legal route.

    The route so far must be clear of walls throughout and cross legally between the rooms at least once.
    """
    geometry = Geometry()
    solved = near_goal(states, goal, STRICT_RADIUS)
    for time in np.flatnonzero(solved):
        route = states[: time + 1]
        solved[time] = (
            geometry.room(states[time]) == geometry.room(goal)
            and route_is_clear(route, geometry)
            and count_legal_crossings(route, geometry) >= 1
        )
    return solved
