"""Motion in the Push-T world: an agent that pushes a T-shaped block, simulated with pymunk."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pymunk

State = npt.NDArray[np.float64]
Point = tuple[float, float]

WORLD_SIZE = 512.0
"""Side of the world, px."""
WALLS = (5.0, 506.0)
"""Where the center lines of the walls run, px."""
WALL_RADIUS = 2.0
"""Half the thickness of the walls, px."""
WALL_EDGES = (WALLS[0] + WALL_RADIUS, WALLS[1] - WALL_RADIUS)
"""Between these the block has room, px."""
AGENT_RADIUS = 15.0
"""px."""
ACTION_SCALE = 100.0
"""px that a unit action puts the agent's target away from it."""
CONTROL_PERIOD = 0.1
"""Seconds between two actions."""
STATE_SIZE = 10
RELEASED_STATE_SIZE = 7
"""The released state ends with the velocity of the agent."""

_SCALE = 30.0  # px; thickness of the T, in gym-pusht and in the released environment
_SUBSTEPS = 10
_PERIOD = CONTROL_PERIOD / _SUBSTEPS
_STIFFNESS, _DAMPING = 100.0, 20.0  # of the agent's proportional-derivative control, 1/s^2 and 1/s

BAR = ((-2 * _SCALE, 0.0), (2 * _SCALE, _SCALE))
"""Two opposite corners of the bar of the T in the frame of the block, px; the origin is the middle of its top edge."""
STEM = ((-_SCALE / 2, _SCALE), (_SCALE / 2, 4 * _SCALE))
"""Two opposite corners of the stem of the T in the frame of the block, px."""
OUTLINE: tuple[Point, ...] = (
    BAR[0],
    (BAR[1][0], BAR[0][1]),
    BAR[1],
    (STEM[1][0], STEM[0][1]),
    STEM[1],
    (STEM[0][0], STEM[1][1]),
    STEM[0],
    (BAR[0][0], BAR[1][1]),
)
"""The corners of the T in the frame of the block, in order around it, px."""


def rectangle_corners(rectangle: tuple[Point, Point], margin: float = 0.0) -> list[Point]:
    """Return the four corners of a rectangle, grown by ``margin`` px on every side."""
    (left, top), (right, bottom) = rectangle
    left, top, right, bottom = left - margin, top - margin, right + margin, bottom + margin
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def to_world(points: npt.ArrayLike, pose: Sequence[float] | State) -> npt.NDArray[np.float64]:
    """Move points (N, 2) from the frame of a block at ``pose`` (x, y, angle) to the world."""
    x, y, angle = map(float, pose)
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.asarray(points) @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)


def to_block(point: Sequence[float] | State, pose: Sequence[float] | State) -> Point:
    """Move a point (2,) from the world to the frame of a block at ``pose`` (x, y, angle)."""
    x, y, angle = map(float, pose)
    cosine, sine = math.cos(angle), math.sin(angle)
    right, down = float(point[0]) - x, float(point[1]) - y
    return cosine * right + sine * down, cosine * down - sine * right


def distance_to_block(point: Sequence[float] | State, pose: Sequence[float] | State) -> float:
    """Distance, px, from a point (2,) to a block at ``pose`` (x, y, angle); 0 inside it."""
    across, along = to_block(point, pose)
    return min(_distance_to_rectangle(across, along, rectangle) for rectangle in (BAR, STEM))


def is_free(state: Sequence[float] | State) -> bool:
    """Whether at this state the block lies within the walls and the agent does not touch it."""
    corners = to_world(OUTLINE, state[2:5])
    inside = bool(corners.min() >= WALL_EDGES[0] and corners.max() <= WALL_EDGES[1])
    return inside and distance_to_block(state[:2], state[2:5]) >= AGENT_RADIUS


def advance(state: State, action: Sequence[float] | State) -> State:
    """Return the state (10,) after one action (2,) of 0.1 s.

    The world is built anew from ``state`` every time, so that what follows depends on these ten numbers alone: pymunk
    keeps the forces of lasting contacts and a correction of overlaps, which cannot be set from outside, and here these
    begin at zero with every action.
    """
    simulation = Simulation()
    simulation.restore(state)
    x, y = simulation.agent_position
    simulation.move_towards(x + ACTION_SCALE * float(action[0]), y + ACTION_SCALE * float(action[1]))
    return simulation.state


class Simulation:
    """A pymunk world with walls, agent and block, as in stable-worldmodel ``envs/pusht/env.py``.

    No gravity, no friction, no elasticity; the block stands still as soon as nothing pushes it (damping 0). The agent
    is kinematic: it pushes the block but nothing, walls included, pushes it. A world that is used again after
    ``restore`` differs slightly from a new one, because pymunk remembers its contacts.
    """

    def __init__(self) -> None:
        """Build the world."""
        space = pymunk.Space()
        space.gravity = (0.0, 0.0)
        space.damping = 0.0
        (near, far), radius = WALLS, WALL_RADIUS
        corners = [(near, near), (near, far), (far, far), (far, near)]
        for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
            space.add(pymunk.Segment(space.static_body, start, end, radius))
        self._agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        space.add(self._agent, pymunk.Circle(self._agent, AGENT_RADIUS))
        self._block, shapes = _make_block()
        space.add(self._block, *shapes)
        self._space = space

    @property
    def agent_position(self) -> Point:
        """Position of the agent, px."""
        x, y = self._agent.position
        return x, y

    @property
    def block_pose(self) -> tuple[float, float, float]:
        """x, y in px and angle in rad, not wrapped."""
        x, y = self._block.position
        return x, y, self._block.angle

    @property
    def state(self) -> State:
        """The state (10,): agent x, y; block x, y, angle in [0, 2 pi); velocities of agent and of block."""
        block, (x, y, angle) = self._block, self.block_pose
        return np.array(
            [
                *self.agent_position,
                x,
                y,
                angle % math.tau,
                *self._agent.velocity,
                *block.velocity,
                block.angular_velocity,
            ]
        )

    def restore(self, state: Sequence[float] | State) -> None:
        """Put agent and block to a state (10,)."""
        values = [float(value) for value in state]
        agent, block = self._agent, self._block
        agent.position, agent.velocity = (values[0], values[1]), (values[5], values[6])
        block.angle = values[4]  # turns the block about its center of gravity, so it comes before the position
        block.position = values[2], values[3]
        block.velocity, block.angular_velocity = (values[7], values[8]), values[9]

    def move_towards(self, x: float, y: float) -> None:
        """Let the agent head for a target, px, for 0.1 s."""
        agent, space = self._agent, self._space
        (here_x, here_y), (speed_x, speed_y) = agent.position, agent.velocity
        for _ in range(_SUBSTEPS):
            speed_x += (_STIFFNESS * (x - here_x) - _DAMPING * speed_x) * _PERIOD
            speed_y += (_STIFFNESS * (y - here_y) - _DAMPING * speed_y) * _PERIOD
            agent.velocity = speed_x, speed_y
            space.step(_PERIOD)
            # nothing pushes the agent, so this is where pymunk has put it; asking pymunk takes a third longer
            here_x, here_y = here_x + speed_x * _PERIOD, here_y + speed_y * _PERIOD


def _make_block() -> tuple[pymunk.Body, list[pymunk.Poly]]:
    """Make the T. As in the released code both its parts count with the moment of inertia of the bar."""
    mass = 1.0
    inertia = pymunk.moment_for_poly(mass, rectangle_corners(BAR))
    body = pymunk.Body(mass, 2 * inertia)
    shapes = [pymunk.Poly(body, rectangle_corners(part)) for part in (BAR, STEM)]
    body.center_of_gravity = (shapes[0].center_of_gravity + shapes[1].center_of_gravity) / 2
    return body, shapes


def _distance_to_rectangle(x: float, y: float, rectangle: tuple[Point, Point]) -> float:
    (left, top), (right, bottom) = rectangle
    return math.hypot(max(left - x, 0.0, x - right), max(top - y, 0.0, y - bottom))
