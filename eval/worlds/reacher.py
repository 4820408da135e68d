"""The reacher: which pairs count and when they are solved, who sets the floors, what surprises, how it is watched.

States are (4,): shoulder and wrist angle, rad, and their velocities, rad/s.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from lewm_agent.agents.behavior.reacher_expert import ReacherExpert
from lewm_agent.envs.goal_env import Vector
from lewm_agent.envs.reacher.env import LINK_LENGTH, SUCCESS_ERROR, WRIST_LIMIT, fingertip_position, joint_errors
from lewm_agent.eval.worlds.protocols import Booleans, Far, Protocol, States
from lewm_agent.eval.worlds.world import Event, Thing, View, World

STRICT_RADIUS = 0.01
"""m; from the fingertip to that of the goal (CLEAR-LeWM, ``strict``)."""


def joints_at_goal(states: States, goal: States, wrap_shoulder: bool) -> Booleans:
    """At which of the visited states (T, 4) each joint is less than 0.05 rad from the goal (4,).

    Looked at once per environment step; the released test also looks in the middle of each.
    """
    return np.abs(joint_errors(states, goal, wrap_shoulder)).max(axis=-1) < SUCCESS_ERROR


def joints_start_apart(states: States) -> bool:
    """Whether a recorded window (26, 4) begins away from its goal; the shoulder's whole turns do not count."""
    return not joints_at_goal(states[:1], states[-1], wrap_shoulder=True)[0]


def fingertip_near_goal(states: States, goal: States) -> Booleans:
    """At which of the visited states (T, 4) the fingertip is less than 0.01 m from that of the goal (4,)."""
    distance = np.linalg.norm(fingertip_position(states) - fingertip_position(goal), axis=-1)
    return distance < STRICT_RADIUS


def fingertip_stays_at_goal(states: States, goal: States) -> Booleans:
    """At which visited states (T, 4) the fingertip is within 0.01 m of the goal's for the second step in a row."""
    near = fingertip_near_goal(states, goal)
    stays = np.zeros_like(near)
    stays[1:] = near[1:] & near[:-1]
    return stays


def fingertip_starts_apart(states: States) -> bool:
    """Whether the fingertip begins a recorded window (26, 4) away from its goal."""
    return not fingertip_near_goal(states[:1], states[-1])[0]


def joint_separations(starts: States, goals: States) -> States:
    """The larger joint error, rad, the shoulder's wrapped, between starts (T, 4) and goals (U, 4): (T, U)."""
    return np.abs(joint_errors(starts[:, None], goals, wrap_shoulder=True)).max(axis=-1)


def at_rest(state: States) -> States:
    """The same configuration without motion: the start of a ``moderate`` or ``strict`` trial.

    A single goal frame does not show velocities, and an agent that has seen a single frame cannot know its own.
    """
    resting = np.array(state, dtype=np.float64)
    resting[..., 2:] = 0.0
    return resting


class ReacherView(View):
    """The fingertip, of which ``info["distance"]`` is not the distance: that is the larger error of the two joints."""

    unit = "rad"
    marks = ("fingertip",)
    mouse = "click or drag: goal of the fingertip"
    half_width = (0.72 - 0.03) * math.tan(math.radians(45.0 / 2.0))
    """m, half a side of the picture at the height of the fingertip; camera and heights are in reacher.xml."""

    def places(self, states: Vector) -> Vector:
        """See the base class."""
        return 0.5 + fingertip_position(states)[..., None, :] * (1.0, -1.0) / (2.0 * self.half_width)

    def goal_at(self, place: Vector, state: Vector, goal: Vector) -> Vector:
        """Both solutions of the inverse kinematics bring the fingertip there; the one that takes less turning."""
        x, y = (place - 0.5) * (1.0, -1.0) * 2.0 * self.half_width
        nearest = 2.0 * LINK_LENGTH * math.cos(WRIST_LIMIT / 2.0)
        radius = min(max(math.hypot(x, y), nearest), 2.0 * LINK_LENGTH)
        wrist = 2.0 * math.acos(radius / (2.0 * LINK_LENGTH))
        goals = [np.array([math.atan2(y, x) - bend / 2.0, bend]) for bend in (wrist, -wrist)]
        errors = min((joint_errors(state, g, wrap_shoulder=True) for g in goals), key=lambda e: float(abs(e).max()))
        return np.concatenate([state[:2] + errors, np.zeros(2)])


WORLD = World(
    name="reacher",
    recorded_from="random",
    ends_at_success=False,
    paper=Protocol(
        functools.partial(joints_at_goal, wrap_shoulder=False), pool=1000, environment_kwargs={"wrap_shoulder": False}
    ),
    moderate=Protocol(functools.partial(joints_at_goal, wrap_shoulder=True), joints_start_apart, start=at_rest),
    strict=Protocol(fingertip_stays_at_goal, fingertip_starts_apart, start=at_rest),
    far=Far(joint_separations, moderate=0.612),
    expert=functools.partial(ReacherExpert, action_noise=0.0),
    view=ReacherView,
    event=Event("hand_color", (60, 120, 200), moved=slice(None)),
    thing=Thing(("fingertip_x", "fingertip_y"), "mm", 1000.0, moves=5.0),
)
