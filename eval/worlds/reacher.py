"""Which pairs count on the reacher, and when they are solved.

States are (4,): shoulder and wrist angle, rad, and their velocities, rad/s.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lewm_agent.envs.reacher.env import SUCCESS_ERROR, fingertip_position, joint_errors
from lewm_agent.eval.worlds.far import is_far

STRICT_RADIUS = 0.01
"""m; from the fingertip to that of the goal (CLEAR-LeWM, ``strict``)."""
MODERATE_SEPARATION = 0.612
"""rad; median over the 200 shipped ``moderate`` pairs of the larger joint error, the shoulder's wrapped."""

States = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def joints_at_goal(states: States, goal: States, wrap_shoulder: bool) -> Booleans:
    """At which of the visited states (T, 4) each joint is less than 0.05 rad from the goal (4,).

    Looked at once per environment step; the released test also looks in the middle of each.
    """
    at_goal: Booleans = np.abs(joint_errors(states, goal, wrap_shoulder)).max(axis=-1) < SUCCESS_ERROR
    return at_goal


def joints_start_apart(states: States) -> bool:
    """Whether a recorded window (26, 4) begins away from its goal; the shoulder's whole turns do not count."""
    return not joints_at_goal(states[:1], states[-1], wrap_shoulder=True)[0]


def fingertip_near_goal(states: States, goal: States) -> Booleans:
    """At which of the visited states (T, 4) the fingertip is less than 0.01 m from that of the goal (4,)."""
    distance = np.linalg.norm(fingertip_position(states) - fingertip_position(goal), axis=-1)
    near: Booleans = distance < STRICT_RADIUS
    return near


def fingertip_stays_at_goal(states: States, goal: States) -> Booleans:
    """At which visited states (T, 4) the fingertip is within 0.01 m of the goal's for the second step in a row."""
    near = fingertip_near_goal(states, goal)
    stays = np.zeros_like(near)
    stays[1:] = near[1:] & near[:-1]
    return stays


def fingertip_starts_apart(states: States) -> bool:
    """Whether the fingertip begins a recorded window (26, 4) away from its goal."""
    return not fingertip_near_goal(states[:1], states[-1])[0]


def joints_far_apart(starts: States, goals: States) -> Booleans:
    """Which of the starts (T, 4) and goals (U, 4) are 2 to 4 times as far apart as ``moderate`` pairs, (T, U)."""
    errors = np.abs(joint_errors(starts[:, None], goals, wrap_shoulder=True))
    return is_far(errors.max(axis=-1), MODERATE_SEPARATION)


def at_rest(state: States) -> States:
    """The same configuration without motion: the start of a ``moderate`` or ``strict`` trial.

    A single goal frame does not show velocities, and an agent that has seen a single frame cannot know its own.
    """
    resting = np.array(state, dtype=np.float64)
    resting[..., 2:] = 0.0
    return resting
