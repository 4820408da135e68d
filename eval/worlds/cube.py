"""The cube task: which pairs count and when they are solved, who sets the floors, what surprises, how it is watched.

States are (55 + 19 n,) for n cubes: the gripper's position at 0 to 2, velocities of the joints at 27 to 40, and from 55
on 19 numbers for each cube: position (3), quaternion w x y z (4), velocities (6), warm start (6). See `CubeEnv`.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from lewm_agent.agents.behavior.cube_expert import CubeExpert
from lewm_agent.environment import Environment
from lewm_agent.envs.cube.env import (
    CUBE_SIZE,
    CUBE_VELOCITY,
    JOINT_VELOCITIES,
    SAMPLING_RANGE,
    SUCCESS_DISTANCE,
    cube_distances,
    cube_positions,
    cube_quaternions,
    cube_values,
    effector_position,
    with_cube_at,
)
from lewm_agent.envs.goal_env import Vector
from lewm_agent.eval.worlds.protocols import Booleans, Far, Protocol, States
from lewm_agent.eval.worlds.world import Event, Thing, View, World

STRICT_DISTANCE = 0.03
"""m; between the centers of cube and goal (CLEAR-LeWM, ``strict``)."""
STRICT_ANGLE = np.radians(15.0)
"""rad; between the orientations, where a cube turned onto itself is the same (CLEAR-LeWM, ``strict``)."""
STRICT_STEPS = 3
"""Steps in a row for which both must hold (CLEAR-LeWM, ``strict``)."""
AT_CUBE_DISTANCE = 0.04
"""m; starts with the gripper as close to a cube as this are reported apart from those away from it."""


def _cube_rotations() -> States:
    """The 24 rotations that turn a cube onto itself, as quaternions (24, 4) up to sign.

    They are the whole-numbered directions of 4 axes with 1, 2 or 4 entries of equal size, each pair of opposites once.
    """
    entries = np.array([values for values in itertools.product((-1.0, 0.0, 1.0), repeat=4) if any(values)])
    of_the_group = np.isin(np.abs(entries).sum(axis=1), (1, 2, 4))
    first = entries[np.arange(len(entries)), (entries != 0.0).argmax(axis=1)]
    chosen = entries[of_the_group & (first > 0.0)]
    return chosen / np.linalg.norm(chosen, axis=1, keepdims=True)


CUBE_ROTATIONS = _cube_rotations()


def cubes_at_goal(states: States, goal: States) -> Booleans:
    """At which of the visited states (T, S) every cube is within 0.04 m of its place in the goal (S,)."""
    return cube_distances(states, goal).max(axis=-1) <= SUCCESS_DISTANCE


def cubes_start_apart(states: States) -> bool:
    """Whether a recorded window (26, S) begins with a cube away from its place at the end."""
    return not cubes_at_goal(states[:1], states[-1])[0]


def cube_angles(states: States, goal: States) -> States:
    """Angle between every cube and its like in the goal (S,), (T, n) rad, in states (T, S).

    It is the least over the cube's 24 rotations, hence at most 63 degrees: a cube has no marks.
    """
    products = _relative(cube_quaternions(goal), cube_quaternions(states)) @ CUBE_ROTATIONS.T
    return 2.0 * np.arccos(np.clip(np.abs(products).max(axis=-1), 0.0, 1.0))


def cubes_match_goal(states: States, goal: States) -> Booleans:
    """At which of the visited states (T, S) every cube is within 0.03 m and 15 degrees of its pose in the goal (S,)."""
    near = cube_distances(states, goal) <= STRICT_DISTANCE
    turned = cube_angles(states, goal) <= STRICT_ANGLE
    return (near & turned).all(axis=-1)


def cubes_stay_at_goal(states: States, goal: States) -> Booleans:
    """At which visited states (T, S) the poses of all cubes match the goal's for the third step in a row."""
    match = cubes_match_goal(states, goal)
    stays = np.zeros_like(match)
    for end in range(STRICT_STEPS, len(match) + 1):
        stays[end - 1] = match[end - STRICT_STEPS : end].all()
    return stays


def cubes_start_unmatched(states: States) -> bool:
    """Whether a recorded window (26, S) begins with a cube whose pose does not match that at the end."""
    return not cubes_match_goal(states[:1], states[-1])[0]


def cube_separations(starts: States, goals: States) -> States:
    """Largest distance of a cube from its place in the goal, m, between starts (T, S) and goals (U, S): (T, U)."""
    return cube_distances(starts[:, None], goals).max(axis=-1)


def gripper_at_cube(state: States) -> bool:
    """Whether the gripper is within 4 cm of a cube in a state (S,), which makes a start easier."""
    gaps = np.linalg.norm(cube_positions(state) - effector_position(state), axis=-1)
    return bool(gaps.min() <= AT_CUBE_DISTANCE)


def at_rest(state: States) -> States:
    """The same configuration without motion: the start of a ``moderate`` or ``strict`` trial.

    A single goal frame does not show velocities, and an agent that has seen a single frame cannot know its own.
    """
    resting = np.array(state, dtype=np.float64)
    resting[..., JOINT_VELOCITIES] = 0.0
    cube_values(resting)[..., CUBE_VELOCITY] = 0.0
    return resting


def _relative(goal: States, states: States) -> States:
    """Quaternions (T, n, 4) of the turns from goal (n, 4) to states (T, n, 4), in the frame of the goal's cube."""
    w, x, y, z = np.moveaxis(goal * np.array([1.0, -1.0, -1.0, -1.0]), -1, 0)
    a, b, c, d = np.moveaxis(states, -1, 0)
    return np.stack(
        [
            w * a - x * b - y * c - z * d,
            w * b + x * a + y * d - z * c,
            w * c - x * d + y * a + z * b,
            w * d + x * c - y * b + z * a,
        ],
        axis=-1,
    )


class QuickCubeExpert(CubeExpert):
    """The cube expert without noise, and with the quicker of OGBench's oracles (``markov``) in every episode.

    The other one (``plan``) takes 64 steps from wherever it is to where it sets down the cube, which is more than the
    budget of most protocols.
    """

    def __init__(self, env: Environment) -> None:
        """Create the expert for one environment. Raises ``TypeError`` if it is not a cube environment."""
        super().__init__(env, noise=0.0, burst_episodes=0.0)

    def reset(self, seed: int) -> None:
        """Start an episode; all that it draws depends on ``seed`` alone."""
        super().reset(seed)
        self.oracle = "markov"


class CubeView(View):
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
        return 0.5 + self.focus * np.stack([right, -up], axis=-1) / -backwards[..., None]

    def goal_at(self, place: Vector, state: Vector, goal: Vector) -> Vector:
        """The present state with the cube there on the table, within the part where cubes are sampled."""
        right, down = (place - 0.5) / self.focus
        ray = np.array([right, -down, -1.0]) @ self.axes
        height = CUBE_SIZE / 2.0
        distance = (height - self.camera[2]) / min(ray[2], -1e-6)  # above the horizon: far away
        table = np.clip((self.camera + distance * ray)[:2], *SAMPLING_RANGE)
        return with_cube_at(state, [*table, height])


WORLD = World(
    name="cube",
    recorded_from="expert",
    ends_at_success=False,
    paper=Protocol(cubes_at_goal, pool=200),
    moderate=Protocol(cubes_at_goal, cubes_start_apart, start=at_rest),
    strict=Protocol(cubes_stay_at_goal, cubes_start_unmatched, start=at_rest),
    far=Far(cube_separations, moderate=0.1898),
    expert=QuickCubeExpert,
    view=CubeView,
    event=Event("cube_color", (54, 120, 245), moved=slice(55, 74)),  # the whole of the first cube
    thing=Thing(
        ("cube_x", "cube_y", "cube_z"),
        "mm",
        1000.0,
        moves=5.0,
        angle="cube_yaw",
        radian=115.0,
        mover=("effector_x", "effector_y", "effector_z"),
    ),
    starts={
        "starts_at_the_cube": gripper_at_cube,
        "starts_away_from_the_cube": lambda state: not gripper_at_cube(state),
    },
    turns={"cube_yaw": 4, "effector_yaw": 2},
)
