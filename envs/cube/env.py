"""The cube task of OGBench: a robot arm brings cubes to goal positions."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from lewm_agent.envs.cube.scene import CubeCanvas, CubeFactors
from lewm_agent.envs.goal_env import Frame, GoalEnv, Observation, Vector, is_integer
from lewm_agent.envs.mujoco_gl import import_mujoco

MOST_CUBES = 4
SUCCESS_DISTANCE = 0.04
"""Distance, m, up to which a cube counts as at its goal (OGBench, ``manipspace/envs/cube_env.py``)."""
ACTION_SCALE = (0.05, 0.05, 0.05, 0.3, 1.0)
"""What action 1 asks for: m along x, y and z, rad of yaw, the whole way of the gripper (``manipspace_env.py``)."""
CONTROL_TIMESTEP = 0.05
"""Seconds in one environment step: 25 simulator steps of 0.002 s (``manipspace_env.py``)."""
CUBE_SIZE = 0.04
"""Edge of a cube, m."""
CUBE_SPACING = 0.06
"""Least distance, m, between the centers of two sampled cubes: they can be turned any way without touching."""
SAMPLING_RANGE = ((0.3, -0.3), (0.55, 0.3))
"""Lowest and highest x and y of sampled cubes, m (``manipspace_env.py``)."""
EFFECTOR_RANGE = ((0.25, -0.35, 0.2), (0.6, 0.35, 0.35))
"""Lowest and highest x, y and z of the gripper in sampled states, m (``manipspace_env.py``)."""

# Layout of a state. The parts of the robot come first, so they do not move with the number of cubes.
EFFECTOR_POSITION = slice(0, 3)
EFFECTOR_ROTATION = slice(3, 12)
GRIPPER_CONTACT = 12
JOINT_POSITIONS = slice(13, 27)
JOINT_VELOCITIES = slice(27, 41)
JOINT_WARM_START = slice(41, 55)
CUBES = 55
"""Where the cubes begin, ``CUBE_VALUES`` numbers each."""
CUBE_VALUES = 19
CUBE_POSE = slice(0, 7)
CUBE_VELOCITY = slice(7, 13)
CUBE_WARM_START = slice(13, 19)

_JOINTS = 14  # 6 of the arm, 8 of the gripper
_ARM = slice(0, 6)
_GRIPPER_JOINT = 6
_GRIPPER_CLOSED = 0.8  # rad
_FULL_CONTACT = 50.0  # N
_ENVIRONMENT_TYPES = ("single", "double", "triple", "quadruple")
_CUBE_OBSERVATION = np.array([2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 1.0])
_ROBOT_OBSERVATION = np.repeat([2.0 * math.pi, 20.0, 2.0, 1.0, 1.0], [6, 6, 3, 2, 2])


def cube_values(states: npt.ArrayLike) -> Vector:
    """The part of states (..., 55 + 19 n) that tells of the n cubes, (..., n, 19): see "States" in `CubeEnv`."""
    values = np.asarray(states, dtype=np.float64)[..., CUBES:]
    return values.reshape(*values.shape[:-1], -1, CUBE_VALUES)


def cube_positions(states: npt.ArrayLike) -> Vector:
    """Centers of the cubes, (..., n, 3) m, in states (..., 55 + 19 n)."""
    return cube_values(states)[..., 0:3]


def cube_quaternions(states: npt.ArrayLike) -> Vector:
    """Orientations of the cubes, (..., n, 4) unit quaternions w x y z, in states (..., 55 + 19 n)."""
    return cube_values(states)[..., 3:7]


def cube_yaws(states: npt.ArrayLike) -> Vector:
    """Yaws of the cubes, (..., n) rad in [-pi, pi], in states (..., 55 + 19 n)."""
    w, x, y, z = np.moveaxis(cube_quaternions(states), -1, 0)
    return np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def cube_distances(states: npt.ArrayLike, goal: npt.ArrayLike) -> Vector:
    """Distance of every cube from its place in the goal (55 + 19 n,), (..., n) m, in states (..., 55 + 19 n)."""
    return np.linalg.norm(cube_positions(states) - cube_positions(goal), axis=-1)


def effector_position(states: npt.ArrayLike) -> Vector:
    """The point between the fingertips, (..., 3) m, in states (..., 55 + 19 n)."""
    return np.asarray(states, dtype=np.float64)[..., EFFECTOR_POSITION]


def effector_yaw(states: npt.ArrayLike) -> Any:
    """Yaw of the gripper, rad in [-pi, pi], in states (..., 55 + 19 n)."""
    rotation = np.asarray(states, dtype=np.float64)[..., EFFECTOR_ROTATION]
    return np.arctan2(rotation[..., 3], rotation[..., 0])


def gripper_closure(states: npt.ArrayLike) -> Any:
    """How far the gripper is closed, from 0 (open) to 1, in states (..., 55 + 19 n)."""
    joint = np.asarray(states, dtype=np.float64)[..., JOINT_POSITIONS][..., _GRIPPER_JOINT]
    return np.clip(joint / _GRIPPER_CLOSED, 0.0, 1.0)


def with_cube_at(state: npt.ArrayLike, position: npt.ArrayLike, yaw: float = 0.0, cube: int = 0) -> Vector:
    """A copy of a state (55 + 19 n,) with one cube at rest, flat on a face, somewhere else: a way to write a goal.

    Args:
        state: a state from ``info``.
        position: center of the cube, (3,) m; on the floor its z is 0.02.
        yaw: its turn about the vertical, rad.
        cube: number of the cube, from 0.
    """
    changed = np.array(state, dtype=np.float64)
    quaternion = [math.cos(yaw / 2.0), 0.0, 0.0, math.sin(yaw / 2.0)]
    cube_values(changed)[cube] = np.concatenate([np.asarray(position, dtype=np.float64), quaternion, np.zeros(12)])
    return changed


class CubeEnv(GoalEnv[CubeFactors]):
    """Bring one to four cubes to goal positions with a robot arm.

    ## Description

    A UR5e arm with a Robotiq gripper stands at a table with cubes, 4 cm wide. Every cube is to come to its place in the
    goal, which is never drawn: a picture of arm and cubes in the goal state is given by `goal_frame()`. Motion is that
    of OGBench's cube environments, bit for bit: their model, controller and 25 simulator steps to an action. x points
    from the arm's foot to the camera, y to the right in the picture, z upwards.

    ## Action Space

    `Box(-1, 1, (5,), float32)`: where the gripper should be after 0.05 s, relative to where it is. Values outside the
    range are clipped.

    | Num | Action                                | Min | Max |
    |-----|---------------------------------------|-----|-----|
    | 0   | motion of the gripper along x (5 cm)  | -1  | 1   |
    | 1   | motion along y (5 cm)                 | -1  | 1   |
    | 2   | motion along z (5 cm)                 | -1  | 1   |
    | 3   | turn about the vertical (0.3 rad)     | -1  | 1   |
    | 4   | closing of the gripper (its whole way)| -1  | 1   |

    ## Observation Space

    `Box(float32)` of shape (19 + 12 n,) for n cubes, clipped to its bounds. For pixels, wrap the environment
    (`lewm_agent.envs.make_pixel_env`).

    | Num   | Observation                                        | Min   | Max  | Unit  |
    |-------|----------------------------------------------------|-------|------|-------|
    | 0-5   | angles of the arm's joints                         | -2 pi | 2 pi | rad   |
    | 6-11  | their velocities                                   | -20   | 20   | rad/s |
    | 12-14 | position of the gripper                            | -2    | 2    | m     |
    | 15-16 | cosine and sine of its yaw                         | -1    | 1    |       |
    | 17    | how far it is closed, from 0 (open) to 1           | -1    | 1    |       |
    | 18    | force on its right finger, 1 for 50 N and more     | -1    | 1    |       |
    | 19-21 | position of the first cube; others follow likewise | -2    | 2    | m     |
    | 22-25 | its orientation, a quaternion w x y z              | -1    | 1    |       |
    | 26-28 | its position in the goal                           | -2    | 2    | m     |
    | 29-30 | cosine and sine of its yaw in the goal             | -1    | 1    |       |

    `info` holds `state` and `goal_state` (see "States"), `is_success` (bool), `distance` (float, m, of the cube that is
    farthest from its goal) and `physics`; quantities of further cubes are named `cube_2_x` and so on:

    | Quantity        | Meaning                                         | Unit |
    |-----------------|-------------------------------------------------|------|
    | effector_x      | position of the point between the fingertips    | m    |
    | effector_y      | position of the point between the fingertips    | m    |
    | effector_z      | position of the point between the fingertips    | m    |
    | effector_yaw    | turn of the gripper about the vertical          | rad  |
    | gripper_closure | how far it is closed, from 0 (open) to 1        |      |
    | gripper_contact | force on its right finger, 1 for 50 N and more  |      |
    | cube_x          | center of the cube                              | m    |
    | cube_y          | center of the cube                              | m    |
    | cube_z          | center of the cube, 0.02 on the table           | m    |
    | cube_yaw        | turn of the cube about the vertical             | rad  |

    ## States

    A state is float64 of shape (55 + 19 n,), and is all that the simulation carries from one step to the next: the same
    state and the same actions give the same trajectory, bit for bit, also from the middle of an episode. The gripper's
    pose is part of it because OGBench's controller measures it one simulator step late; the solver's warm starts are,
    because they decide the last bits of contact forces.

    | Num         | Value                                                     | Unit        |
    |-------------|-----------------------------------------------------------|-------------|
    | 0-2         | position of the gripper, between the fingertips           | m           |
    | 3-11        | its rotation matrix, row by row                           |             |
    | 12          | force on its right finger, 1 for 50 N and more            |             |
    | 13-26       | angles of the joints, 6 of the arm and 8 of the gripper   | rad         |
    | 27-40       | their velocities                                          | rad/s       |
    | 41-54       | their accelerations, the solver's warm start              | rad/s^2     |
    | 55-57       | position of the first cube's center; others follow by 19s | m           |
    | 58-61       | its orientation, a quaternion w x y z                     |             |
    | 62-67       | its velocity and angular velocity                         | m/s, rad/s  |
    | 68-73       | their rates, the solver's warm start                      | m/s^2, ...  |

    Of a goal state, only the cubes' positions count for success; the whole of it is drawn. `with_cube_at` makes other
    goals from a state.

    ## Rewards

    Minus the distance of the cube that is farthest from its goal, m.

    ## Starting State

    As in OGBench's data collection: the gripper hovers anywhere above the table, at z from 0.2 to 0.35 m, turned any
    way; every cube lies with x uniform in [0.3, 0.55] m, y in [-0.3, 0.3] m and any yaw. The goal is drawn in the same
    way: places for all cubes, and a pose of the arm for its picture. Unlike OGBench's, several cubes never overlap.

    `reset(options={"state": s, "goal_state": g, "factors": {...}})` sets any of them exactly. Factors not named are
    those given to the constructor.

    ## Episode End

    With `terminate_on_success=True` the episode terminates when every cube is within 0.04 m of its goal after a step
    (not at reset). Otherwise it never does, so that the expert can go on to further targets as in OGBench's data.
    Through `gymnasium.make` it is truncated after 200 steps; the expert takes about 90 for a cube.

    ## Arguments

    * `render_mode`: `None` or `"rgb_array"`.
    * `image_size`: height and width of frames in pixels, at least 16.
    * `cubes`: how many, 1 to 4.
    * `terminate_on_success`: whether reaching the goal ends the episode.
    * `factors`: a `CubeFactors`, or a mapping with some of its fields: colors of cubes, floor and light, the
      light's direction, and what all worlds have: light, camera and clutter (`lewm_agent.envs.factors.Factors`).
    * `drawn_looks`: whether every reset that is given no `factors` draws other colors, for training data.

    Frames need EGL or OSMesa (see `lewm_agent.envs.mujoco_gl`), and vectorized environments in processes must be
    spawned (`vector_kwargs={"context": "spawn"}`): after a fork the drawing library hangs. They show OGBench's camera
    for pixel tasks, drawn with a lighter copy of the model (see `lewm_agent.envs.cube.scene`).

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("lewm_agent.envs:lewm/Cube-v0", render_mode="rgb_array", image_size=64)
    >>> env.reset(seed=0)[0].shape, env.render().shape
    ((31,), (64, 64, 3))
    >>> env.close()

    ```

    ## Version History

    * v0: initial version.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (an instance variable in gym.Env)
    has_camera = True

    def __init__(
        self,
        render_mode: str | None = None,
        image_size: int = 224,
        cubes: int = 1,
        terminate_on_success: bool = False,
        factors: CubeFactors | Mapping[str, Any] | None = None,
        drawn_looks: bool = False,
    ) -> None:
        """Create the environment; see the class for the arguments.

        Raises:
            RuntimeError: if ``MUJOCO_GL`` names an OpenGL library that is not installed.
            ValueError: if an argument is outside its range.
        """
        super().__init__(render_mode, image_size, terminate_on_success, CubeFactors.from_given(factors), drawn_looks)
        if not is_integer(cubes) or not 1 <= cubes <= MOST_CUBES:
            raise ValueError(f"cubes must be an integer from 1 to {MOST_CUBES}, got {cubes!r}")
        self.cubes = int(cubes)
        bounds = np.concatenate([_ROBOT_OBSERVATION, *[_CUBE_OBSERVATION] * self.cubes]).astype(np.float32)
        self.observation_space = spaces.Box(-bounds, bounds, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (5,), np.float32)
        self._simulation: _Simulation = _Simulation(self.cubes)
        self._canvas: CubeCanvas | None = None

    def close(self) -> None:
        """Free what drawing holds. The environment can still be used, and closed again."""
        if self._canvas is not None:
            self._canvas.close()
            self._canvas = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out canvas and simulation; a copy makes its own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_canvas", "_simulation")}

    def __setstate__(self, values: dict[str, Any]) -> None:
        """Continue where the original stood."""
        self.__dict__.update(values)
        self._canvas = None
        self._simulation = _Simulation(self.cubes)
        if self._state is not None:
            self._simulation.restore(self._state)

    def _sample(self) -> tuple[Vector, Vector]:
        return self._simulation.sample(self.np_random), self._simulation.sample(self.np_random)

    def _checked_state(self, name: str, value: npt.ArrayLike) -> Vector:
        state = np.array(value, dtype=np.float64)
        shape = (CUBES + CUBE_VALUES * self.cubes,)
        if state.shape != shape:
            given = f"({self.cubes} cube(s)), got shape {state.shape}"
            raise ValueError(f"reset option {name!r} must have shape {shape} {given}")
        if not np.isfinite(state).all():
            raise ValueError(f"reset option {name!r} must be finite, got {state.tolist()}")
        lengths = np.linalg.norm(cube_quaternions(state), axis=-1)
        if (np.abs(lengths - 1.0) > 1e-3).any():
            least = lengths.min()
            raise ValueError(f"reset option {name!r} must hold unit quaternions for its cubes, got length {least}")
        return state

    def _restore(self, state: Vector) -> None:
        self._simulation.restore(state)

    def _advance(self, state: Vector, action: Vector) -> Vector:
        return self._simulation.step(action)

    def _observation(self) -> Observation:
        state = self._current_state()
        yaw = effector_yaw(state)
        joints = np.concatenate([state[JOINT_POSITIONS][_ARM], state[JOINT_VELOCITIES][_ARM]])
        gripper = [np.cos(yaw), np.sin(yaw), gripper_closure(state), state[GRIPPER_CONTACT]]
        poses, goal_yaws = cube_values(state)[:, CUBE_POSE], cube_yaws(self._goal)[:, None]
        cubes = np.hstack([poses, cube_positions(self._goal), np.cos(goal_yaws), np.sin(goal_yaws)])
        values = np.concatenate([joints, effector_position(state), gripper, cubes.ravel()])
        space: Any = self.observation_space
        return np.clip(values.astype(np.float32), space.low, space.high)

    def reached(self, states: npt.ArrayLike, goals: npt.ArrayLike) -> Any:
        """See the base class."""
        return cube_distances(states, goals).max(axis=-1) <= SUCCESS_DISTANCE

    def _outcome(self, state: Vector) -> dict[str, Any]:
        distance = float(cube_distances(state, self._goal).max())
        return {"is_success": bool(self.reached(state, self._goal)), "distance": distance, "physics": _physics(state)}

    def _draw(self, state: Vector) -> Frame:
        if self._canvas is not None and self._canvas.floor_color != self._factors.floor_color:
            self.close()
        if self._canvas is None:
            self._canvas = self._simulation.canvas(self.image_size, self._factors.floor_color)
        positions = np.concatenate([state[JOINT_POSITIONS], cube_values(state)[:, CUBE_POSE].ravel()])
        return self._canvas.draw(positions, self._factors)


class _Simulation:
    """OGBench's simulation, in step with our states.

    Its environment is used for the model, the controller and sampling only: its `reset` and `step` also compute what
    is not needed here, and its `render` draws the target.
    """

    def __init__(self, cubes: int) -> None:
        template = _ogbench_env(cubes)
        ik = template._ik
        self._env: Any = copy.copy(template)  # shares the models, which never change, but not the data
        self._env._data = import_mujoco().MjData(template.model)
        self._env._ik = type(ik)(model=ik._model, sites=["attachment_site"])
        self._site = template._pinch_site_id

    def sample(self, generator: np.random.Generator) -> Vector:
        """A starting state of OGBench's data collection, in which no cubes overlap."""
        self._env.np_random = generator
        self._initialize_episode()
        while crowded_cubes(self._state()).any():
            self._initialize_episode()
        return self._state()

    def restore(self, state: Vector) -> None:
        """Put the simulator into a state, so that it continues as it did when the state was read."""
        data, cubes = self._env.data, cube_values(state)
        import_mujoco().mj_resetData(self._env.model, data)
        data.qpos[:] = np.concatenate([state[JOINT_POSITIONS], cubes[:, CUBE_POSE].ravel()])
        data.qvel[:] = np.concatenate([state[JOINT_VELOCITIES], cubes[:, CUBE_VELOCITY].ravel()])
        data.qacc_warmstart[:] = np.concatenate([state[JOINT_WARM_START], cubes[:, CUBE_WARM_START].ravel()])
        data.site_xpos[self._site] = state[EFFECTOR_POSITION]
        data.site_xmat[self._site] = state[EFFECTOR_ROTATION]

    def step(self, action: Vector) -> Vector:
        """Apply an action (5,) and return the state it led to."""
        mujoco, model, data = import_mujoco(), self._env.model, self._env.data
        self._env.set_control(action)
        mujoco.mj_step(model, data, nstep=round(CONTROL_TIMESTEP / model.opt.timestep))
        mujoco.mj_rnePostConstraint(model, data)  # contact forces
        return self._state()

    def canvas(self, size: int, floor_color: tuple[int, int, int]) -> CubeCanvas:
        """Something to draw on. It takes the environment that all simulations share, so they share a drawn model."""
        return CubeCanvas(_ogbench_env(self._env._num_cubes), size, floor_color)

    def _initialize_episode(self) -> None:
        """What OGBench's reset does once the model is compiled."""
        mujoco, model, data = import_mujoco(), self._env.model, self._env.data
        mujoco.mj_resetData(model, data)
        mujoco.mj_forward(model, data)
        self._env.initialize_episode()
        mujoco.mj_forward(model, data)

    def _state(self) -> Vector:
        data = self._env.data
        force = np.linalg.norm(data.body("ur5e/robotiq/right_pad").cfrc_ext) / _FULL_CONTACT
        robot = [
            data.site_xpos[self._site],
            data.site_xmat[self._site],
            [np.clip(force, 0.0, 1.0)],
            *(values[:_JOINTS] for values in (data.qpos, data.qvel, data.qacc_warmstart)),
        ]
        cubes = np.hstack(
            [
                data.qpos[_JOINTS:].reshape(-1, 7),
                data.qvel[_JOINTS:].reshape(-1, 6),
                data.qacc_warmstart[_JOINTS:].reshape(-1, 6),
            ]
        )
        return np.concatenate([*robot, cubes.ravel()])


@functools.cache
def _ogbench_env(cubes: int) -> Any:
    """OGBench's environment with its compiled models, in about a second; nobody steps it."""
    import_mujoco()  # before OGBench does, for the choice of the OpenGL library
    from ogbench.manipspace.envs.cube_env import CubeEnv as OGBenchCubeEnv

    env = OGBenchCubeEnv(
        _ENVIRONMENT_TYPES[cubes - 1], mode="data_collection", visualize_info=False, control_timestep=CONTROL_TIMESTEP
    )
    env.reset(seed=0)
    return env


def crowded_cubes(states: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which cubes may touch another one, seen from above, (..., n), in states (..., 55 + 19 n)."""
    positions = cube_positions(states)[..., :2]
    gaps = np.linalg.norm(positions[..., :, None, :] - positions[..., None, :, :], axis=-1)
    itself = np.eye(positions.shape[-2], dtype=np.bool_)
    return ((gaps < CUBE_SPACING) & ~itself).any(axis=-1)


def _physics(state: Vector) -> dict[str, float]:
    x, y, z = effector_position(state).tolist()
    quantities = {
        "effector_x": x,
        "effector_y": y,
        "effector_z": z,
        "effector_yaw": float(effector_yaw(state)),
        "gripper_closure": float(gripper_closure(state)),
        "gripper_contact": float(state[GRIPPER_CONTACT]),
    }
    for cube, (position, yaw) in enumerate(zip(cube_positions(state), cube_yaws(state), strict=True)):
        name = f"cube_{cube + 1}" if cube else "cube"
        x, y, z = position.tolist()
        quantities |= {f"{name}_x": x, f"{name}_y": y, f"{name}_z": z, f"{name}_yaw": float(yaw)}
    return quantities
