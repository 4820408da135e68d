"""Push-T: which pairs count and when they are solved, who sets the floors, what surprises, how it is watched.

States are those of ``lewm/PushT-v0`` (10,): agent x, y and block x, y in px of the 512 px world, angle of the block in
rad, then velocities. Only the first five decide; published states (7,) begin alike. Angles are compared around the
circle.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.agents.behavior.push_t_expert import PushTExpert
from lewm_agent.envs.goal_env import Vector
from lewm_agent.envs.push_t.env import AGENT_RANGE
from lewm_agent.envs.push_t.simulation import (
    AGENT_RADIUS,
    OUTLINE,
    STATE_SIZE,
    WALL_EDGES,
    WALLS,
    WORLD_SIZE,
    distance_to_block,
    to_world,
)
from lewm_agent.eval.worlds.protocols import Booleans, Far, Protocol, States
from lewm_agent.eval.worlds.world import Event, Symmetry, Thing, View, World

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
MIDDLE = sum(WALLS) / 2.0
"""px; of the square between the walls, in x and in y; the middle of the picture is half a px away."""
_SKIN = 1e-6


def near_goal(states: States, goal: States) -> Booleans:
    """At which of the visited states (T, S) agent and block are at the goal (S,), by the released test."""
    distance = np.linalg.norm(states[:, :4] - goal[:4], axis=1)
    return (distance < RADIUS) & (angle_error(states, goal) < PAPER_ANGLE)


def block_near_goal(states: States, goal: States) -> Booleans:
    """At which of the visited states (T, S) the block is within 10 px and 10 degrees of the goal (S,)."""
    distance = np.linalg.norm(states[:, 2:4] - goal[2:4], axis=1)
    return (distance < STRICT_RADIUS) & (angle_error(states, goal) < STRICT_ANGLE)


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


def separations(starts: States, goals: States) -> States:
    """Norm of the differences of agent x, y and block x, y, px, between starts (T, S) and goals (U, S): (T, U)."""
    return np.linalg.norm(goals[:, :4] - starts[:, None, :4], axis=-1)


def at_rest(state: States) -> States:
    """The same positions and angle (S,), all velocities zero."""
    rest = np.zeros_like(state)
    rest[:5] = state[:5]
    return rest


def angle_error(states: States, goal: States) -> States:
    """Absolute difference (T,) of the block's angle from the goal's, 0 to pi rad."""
    difference = np.abs(states[:, 4] - goal[4]) % math.tau
    return np.minimum(difference, math.tau - difference)


def _of_the_square(number: int) -> tuple[NDArray[np.float64], int, int]:
    """A symmetry of the square: its matrix (2, 2), quarter turns clockwise, and -1 if it mirrors x before, else 1."""
    mirrored, quarters = divmod(number, 4)
    hand = -1 if mirrored else 1
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    return np.linalg.matrix_power(quarter, quarters) * (hand, 1.0), quarters, hand


def turned_states(number: int, states: States) -> States:
    """States (..., 10) turned by one of the eight symmetries; the T is its own mirror image."""
    matrix, quarters, hand = _of_the_square(number)
    turned = np.array(states, dtype=np.float64)
    for first, middle in ((0, MIDDLE), (2, MIDDLE), (5, 0.0), (7, 0.0)):  # two places and their velocities
        turned[..., first : first + 2] = (turned[..., first : first + 2] - middle) @ matrix.T + middle
    turned[..., 4] = (hand * turned[..., 4] + quarters * math.pi / 2.0) % math.tau
    turned[..., 9] *= hand
    return turned


def turned_actions(number: int, actions: NDArray[Any]) -> NDArray[Any]:
    """Actions (..., 2) turned by one of the eight symmetries."""
    return actions @ _of_the_square(number)[0].T.astype(actions.dtype)


def turned_frames(number: int, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames (..., H, W, C), H = W, turned by one of the eight symmetries, with all that is painted on the ground."""
    _, quarters, hand = _of_the_square(number)
    return np.rot90(frames[..., ::hand, :], -quarters, axes=(-3, -2))


class PushTView(View):
    """The agent's disk and the middle of the block."""

    unit = "px"
    marks = ("agent", "block")
    mouse = "click or drag: goal of the block; wheel, left, right: turn it"
    middle = (0.0, 45.0)
    """In the frame of the block, px."""

    def places(self, states: Vector) -> Vector:
        """See the base class."""
        angle = states[..., 4]
        down = self.middle[1] * np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
        return np.stack([states[..., :2], states[..., 2:4] + down], axis=-2) / WORLD_SIZE

    def goal_at(self, place: Vector, state: Vector, goal: Vector) -> Vector:
        """The block's middle goes there, within the walls; the agent stays where it is unless the block is there."""
        return self._with_block(goal, place * WORLD_SIZE, float(goal[4]))

    def turned(self, goal: Vector, angle: float) -> Vector:
        """The block turned about its middle."""
        return self._with_block(goal, self.places(goal)[1] * WORLD_SIZE, float(goal[4]) + angle)

    def _with_block(self, goal: Vector, middle: Vector, angle: float) -> Vector:
        position = middle - to_world([self.middle], (0.0, 0.0, angle))[0]
        corners = to_world(OUTLINE, (*position, angle))
        low, high = WALL_EDGES[0] + _SKIN, WALL_EDGES[1] - _SKIN
        position += np.maximum(0.0, low - corners.min(axis=0)) - np.maximum(0.0, corners.max(axis=0) - high)
        state = np.zeros(STATE_SIZE)
        state[2:5] = *position, angle % math.tau
        state[:2] = _nearest_free(goal[:2], state[2:5])
        return state


def _nearest_free(agent: Vector, block: Vector) -> Vector:
    """The agent's place (2,) px, or the nearest of a grid, 10 px wide, at which it does not touch the block (3,)."""
    axis = np.arange(AGENT_RANGE[0], AGENT_RANGE[1] + 1.0, 10.0)
    grid = np.array(list(itertools.product(axis, axis)))
    order = np.argsort(((grid - agent) ** 2).sum(axis=1))
    candidates = itertools.chain([agent], grid[order])
    return next(place for place in candidates if distance_to_block(place, block) >= AGENT_RADIUS)


WORLD = World(
    name="push_t",
    recorded_from="expert",
    ends_at_success=True,
    paper=Protocol(near_goal, pool=200),
    moderate=Protocol(near_goal, unsolved_start, start=at_rest),
    strict=Protocol(block_stays_at_goal, block_unsolved_start, start=at_rest),
    far=Far(separations, moderate=145.5),
    expert=functools.partial(PushTExpert, action_noise=0.0),
    view=PushTView,
    event=Event("block_color", (205, 92, 92), moved=slice(None)),  # agent and block, as in the paper
    thing=Thing(
        ("block_x", "block_y"), "px", 1.0, moves=2.0, angle="block_angle", radian=60.0, mover=("agent_x", "agent_y")
    ),
    symmetry=Symmetry(8, turned_states, turned_actions, turned_frames),
)
