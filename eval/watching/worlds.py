"""What watch.py knows of each world: where things are in its picture, which goal a click means, and what the tasks are.

Places in a picture are (..., 2), x to the right and y downwards, in sides of the picture: (0, 0) to (1, 1).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from lewm_agent.envs import TwoRoomEnv, environment_id
from lewm_agent.envs.cube.env import CUBE_SIZE, SAMPLING_RANGE, cube_positions, effector_position, with_cube_at
from lewm_agent.envs.goal_env import GoalEnv, Vector
from lewm_agent.envs.push_t.env import AGENT_RANGE
from lewm_agent.envs.push_t.simulation import (
    AGENT_RADIUS,
    OUTLINE,
    STATE_SIZE,
    WALL_EDGES,
    distance_to_block,
    to_world,
)
from lewm_agent.envs.push_t.simulation import WORLD_SIZE as PUSH_T_SIZE
from lewm_agent.envs.reacher.env import LINK_LENGTH, WRIST_LIMIT, fingertip_position, joint_errors
from lewm_agent.envs.two_room.geometry import WORLD_SIZE as TWO_ROOM_SIZE
from lewm_agent.envs.two_room.geometry import nearest_clear
from lewm_agent.eval.pairs import shipped
from lewm_agent.tools.checks import named

SAMPLED = 200
"""Tasks that are drawn where the shipped ones are not used: as many as there are of those."""


@dataclass(frozen=True)
class Task:
    """Where an episode begins and where it should lead, both (S,)."""

    state: Vector
    goal_state: Vector


class World(ABC):
    """One environment, as the spectator sees it.

    Attributes:
        unit: of ``info["distance"]``.
        marks: names of the K things whose places are followed.
        mouse: what the mouse does, for the spectator.
    """

    unit: str
    marks: tuple[str, ...]
    mouse: str

    def __init__(self, env: GoalEnv[Any]) -> None:
        self.env = env

    @abstractmethod
    def places(self, states: Vector) -> Vector:
        """Where the marks are in the picture of states (..., S): (..., K, 2)."""

    @abstractmethod
    def goal_at(self, place: Vector, state: Vector, goal: Vector) -> Vector:
        """The goal (S,) that a click at a place (2,) means, or the nearest legal one.

        Args:
            place: in the picture.
            state: the present one.
            goal: the one until now.
        """

    def turned(self, goal: Vector, angle: float) -> Vector:
        """The goal turned clockwise by an angle, rad; the same where there is nothing to turn."""
        return goal

    def tasks(self, seed: int) -> list[Task]:
        """Held-out pairs of protocol ``moderate``, on which success is measured: goals 25 steps away.

        Args:
            seed: of their order.

        Raises:
            ValueError: no such pairs ship with the package.
        """
        pairs = shipped(_id_of(self.env), "moderate").pairs
        return [Task(pairs[i].state, pairs[i].goal_state) for i in np.random.default_rng(seed).permutation(len(pairs))]


class TwoRoom(World):
    """The agent's disk."""

    unit = "px"
    marks = ("agent",)
    mouse = "click or drag: goal"

    def places(self, states: Vector) -> Vector:
        """See the base class."""
        return states[..., None, :] / TWO_ROOM_SIZE

    def goal_at(self, place: Vector, state: Vector, goal: Vector) -> Vector:
        """The nearest place clear of walls."""
        return nearest_clear(place * TWO_ROOM_SIZE, cast(TwoRoomEnv, self.env).geometry)

    def tasks(self, seed: int) -> list[Task]:
        """Starts and goals anywhere in both rooms, which are farther apart than those that success is measured on."""
        infos = [self.env.reset(seed=int(s))[1] for s in np.random.SeedSequence(seed).generate_state(SAMPLED)]
        return [Task(info["state"], info["goal_state"]) for info in infos]


class PushT(World):
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
        return np.stack([states[..., :2], states[..., 2:4] + down], axis=-2) / PUSH_T_SIZE

    def goal_at(self, place: Vector, state: Vector, goal: Vector) -> Vector:
        """The block's middle goes there, within the walls; the agent stays where it is unless the block is there."""
        return self._with_block(goal, place * PUSH_T_SIZE, float(goal[4]))

    def turned(self, goal: Vector, angle: float) -> Vector:
        """The block turned about its middle."""
        return self._with_block(goal, self.places(goal)[1] * PUSH_T_SIZE, float(goal[4]) + angle)

    def _with_block(self, goal: Vector, middle: Vector, angle: float) -> Vector:
        position = middle - to_world([self.middle], (0.0, 0.0, angle))[0]
        corners = to_world(OUTLINE, (*position, angle))
        low, high = WALL_EDGES[0] + _SKIN, WALL_EDGES[1] - _SKIN
        position += np.maximum(0.0, low - corners.min(axis=0)) - np.maximum(0.0, corners.max(axis=0) - high)
        state = np.zeros(STATE_SIZE)
        state[2:5] = *position, angle % math.tau
        state[:2] = _nearest_free(goal[:2], state[2:5])
        return state


class Reacher(World):
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


class Cube(World):
    """The point between the fingertips, and the first cube."""

    unit = "m"
    marks = ("gripper", "cube")
    mouse = "click or drag: goal of the cube on the table"
    camera = np.array([1.053, -0.014, 0.639])
    """m; OGBench's ``front_pixels`` (``manipspace/envs/cube_env.py``)."""
    axes = np.array([[0.0, 1.0, 0.0], [-0.628, 0.001, 0.778], [0.778, 0.0, 0.628]])
    """Right, up and backwards of that camera, in the world."""
    focus = 0.5 / math.tan(math.radians(45.0 / 2.0))
    """Its focal length, in sides of the picture; 45 degrees are MuJoCo's default."""

    def places(self, states: Vector) -> Vector:
        """See the base class."""
        points = np.stack([effector_position(states), cube_positions(states)[..., 0, :]], axis=-2)
        right, up, backwards = np.moveaxis((points - self.camera) @ self.axes.T, -1, 0)
        places: Vector = 0.5 + self.focus * np.stack([right, -up], axis=-1) / -backwards[..., None]
        return places

    def goal_at(self, place: Vector, state: Vector, goal: Vector) -> Vector:
        """The present state with the cube there on the table, within the part where cubes are sampled."""
        right, down = (place - 0.5) / self.focus
        ray = np.array([right, -down, -1.0]) @ self.axes
        height = CUBE_SIZE / 2.0
        distance = (height - self.camera[2]) / min(ray[2], -_SKIN)  # above the horizon: far away
        table = np.clip((self.camera + distance * ray)[:2], *SAMPLING_RANGE)
        return with_cube_at(state, [*table, height])


WORLDS: dict[str, type[World]] = {
    "lewm/Cube-v0": Cube,
    "lewm/PushT-v0": PushT,
    "lewm/Reacher-v0": Reacher,
    "lewm/TwoRoom-v0": TwoRoom,
}
_SKIN = 1e-6


def world_of(env: GoalEnv[Any]) -> World:
    """The world of an environment made by ``gymnasium.make``."""
    return WORLDS[_id_of(env)](env)


def watchable(name: str) -> str:
    """The Gymnasium id of an environment that can be watched. Raises ``ValueError`` for any other name."""
    environment = environment_id(name)
    named(environment, WORLDS, "way to watch environment")
    return environment


def _id_of(env: GoalEnv[Any]) -> str:
    if env.spec is None:
        raise ValueError("an environment is watched by its id, and this one was not made by gymnasium.make")
    return env.spec.id


def _nearest_free(agent: Vector, block: Vector) -> Vector:
    """The agent's place (2,) px, or the nearest of a grid, 10 px wide, at which it does not touch the block (3,)."""
    axis = np.arange(AGENT_RANGE[0], AGENT_RANGE[1] + 1.0, 10.0)
    grid = np.array(list(itertools.product(axis, axis)))
    order = np.argsort(((grid - agent) ** 2).sum(axis=1))
    candidates = itertools.chain([agent], grid[order])
    return next(place for place in candidates if distance_to_block(place, block) >= AGENT_RADIUS)
