"""Which pairs count on Push-T, and when they are solved.

States are those of ``lewm/PushT-v0`` (10,): agent x, y and block x, y in px of the 512 px world, angle of the block in
rad, then velocities. Only the first five decide; published states (7,) begin alike. Angles are compared around the
circle.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lewm_agent.eval.worlds.far import is_far

RADIUS = 20.0
"""px; released limit for the norm of the differences of agent x, y and block x, y."""
PAPER_ANGLE = math.pi / 9
"""rad; released limit for the angle of the block, 20 degrees. CLEAR-LeWM's ``moderate`` has the same."""
STRICT_RADIUS = 10.0
"""px; limit for the position of the block alone (CLEAR-LeWM, ``strict``)."""
STRICT_ANGLE = math.radians(10.0)
"""rad; limit for its angle (CLEAR-LeWM, ``strict``)."""
STRICT_STEPS = 3
"""How many states in a row must fulfill the strict test."""
MODERATE_SEPARATION = 145.5
"""px; median over the 200 shipped ``moderate`` pairs of the norm of the differences of agent x, y and block x, y."""

States = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def near_goal(states: States, goal: States) -> Booleans:
    """At which of the visited states (T, S) agent and block are at the goal (S,), by the released test."""
    distance = np.linalg.norm(states[:, :4] - goal[:4], axis=1)
    near: Booleans = (distance < RADIUS) & (angle_error(states, goal) < PAPER_ANGLE)
    return near


def block_near_goal(states: States, goal: States) -> Booleans:
    """At which of the visited states (T, S) the block is within 10 px and 10 degrees of the goal (S,)."""
    distance = np.linalg.norm(states[:, 2:4] - goal[2:4], axis=1)
    near: Booleans = (distance < STRICT_RADIUS) & (angle_error(states, goal) < STRICT_ANGLE)
    return near


def block_stays_at_goal(states: States, goal: States) -> Booleans:
    """At which of the visited states (T, S) the block is near the goal (S,) for the third time in a row, or longer."""
    near = block_near_goal(states, goal)
    held = np.zeros_like(near)
    if len(near) >= STRICT_STEPS:
        held[STRICT_STEPS - 1 :] = np.lib.stride_tricks.sliding_window_view(near, STRICT_STEPS).all(axis=1)
    return held


def unsolved_start(states: States) -> bool:
    """Whether a recorded window (26, S) does not fulfill the released test at its start already."""
    return not near_goal(states[:1], states[-1])[0]


def block_unsolved_start(states: States) -> bool:
    """Whether the block of a recorded window (26, S) is not within the strict limits at its start already."""
    return not block_near_goal(states[:1], states[-1])[0]


def far_apart(starts: States, goals: States) -> Booleans:
    """Which of the starts (T, S) and goals (U, S) are 2 to 4 times as far apart as ``moderate`` pairs, (T, U)."""
    return is_far(np.linalg.norm(goals[:, :4] - starts[:, None, :4], axis=-1), MODERATE_SEPARATION)


def at_rest(state: States) -> States:
    """The same positions and angle (S,), all velocities zero."""
    rest = np.zeros_like(state)
    rest[:5] = state[:5]
    return rest


def angle_error(states: States, goal: States) -> States:
    """Absolute difference (T,) of the block's angle from the goal's, 0 to pi rad."""
    difference = np.abs(states[:, 4] - goal[4]) % math.tau
    error: States = np.minimum(difference, math.tau - difference)
    return error
