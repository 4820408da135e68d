"""The scripted oracles of OGBench as an expert for the cube task, with the noise of its data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from lewm_agent.envs.cube.env import (
    ACTION_SCALE,
    CONTROL_TIMESTEP,
    CUBE_SIZE,
    EFFECTOR_RANGE,
    GRIPPER_CONTACT,
    SAMPLING_RANGE,
    SUCCESS_DISTANCE,
    CubeEnv,
    crowded_cubes,
    cube_distances,
    cube_positions,
    cube_yaws,
    effector_position,
    effector_yaw,
    gripper_closure,
    with_cube_at,
)
from lewm_agent.envs.mujoco_gl import import_mujoco

Action = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
Oracle = Literal["plan", "markov"]

ORACLES: tuple[Oracle, ...] = ("plan", "markov")
MARKOV_NOISE = (1.0, 1.0, 1.0, 3.0, 10.0)
"""Noise on each component of the Markov oracle's action, relative to the episode's (``generate_manipspace.py``)."""
STACK_PROBABILITY = ((0.0, 0.0), (0.0, 0.25), (0.05, 0.35), (0.1, 0.5))
"""Range of an episode's chance to put a cube on another one, for 1 to 4 cubes (``generate_manipspace.py``)."""
BURST_PROBABILITY = 0.03
"""Chance of a step, in an episode with bursts, to begin one."""
BURST_STEPS = (3, 8)
"""Least and greatest number of steps in a burst."""

_ON_THE_TABLE = CUBE_SIZE / 2.0
_STACKED = 0.02  # m; a cube is on another one if their centers are as close as this, seen from above


@dataclass(frozen=True)
class _Target:
    """Where one cube should go."""

    cube: int
    position: Vector
    yaw: float


class CubeExpert:
    """Brings cubes to the goal and then to one random target after the other, noisily, with OGBench's oracles.

    Every episode is played by one of the two: `plan` follows keyframes in time, with smooth noise; `markov` decides by
    phases from what it sees, with white noise on its actions, at a level that differs between episodes. In some
    episodes there are bursts of a random action that is held for a few steps. Cubes that are not at their goal come
    first; then the next target is drawn as in OGBench's data collection.

    State and goal are ``info["state"]`` and ``info["goal_state"]``. Before the first ``reset`` it acts as after
    ``reset(0)``.
    """

    def __init__(self, env: gym.Env[Any, Any], noise: float = 0.1, burst_episodes: float = 0.35) -> None:
        """Create the expert for one environment.

        Args:
            env: a cube environment, wrapped or not.
            noise: of the oracles, as in OGBench's data: for `plan` the standard deviation before smoothing, for
                `markov` the largest of an episode, in units of the action.
            burst_episodes: share of the episodes that have bursts of random actions.

        Raises:
            TypeError: if ``env`` is not a cube environment.
            ValueError: if the noise is negative or the share is outside [0, 1].
        """
        base = env.unwrapped
        if not isinstance(base, CubeEnv):
            raise TypeError(f"the cube expert needs a cube environment, got {base}")
        if not (np.isfinite(noise) and noise >= 0.0):
            raise ValueError(f"noise must be zero or more, got {noise}")
        if not 0.0 <= burst_episodes <= 1.0:
            raise ValueError(f"burst_episodes must lie in [0, 1], got {burst_episodes}")
        self.cubes = base.cubes
        self.noise = float(noise)
        self.burst_episodes = float(burst_episodes)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start an episode; which oracle acts and all that it draws depend on ``seed`` alone."""
        self._generator = np.random.default_rng(seed)
        self.oracle: Oracle = ORACLES[self._generator.integers(len(ORACLES))]
        self._markov_noise = self._generator.uniform(0.0, self.noise) * np.array(MARKOV_NOISE)
        self._has_bursts = self._generator.uniform() < self.burst_episodes
        self._stack_probability = self._generator.uniform(*STACK_PROBABILITY[self.cubes - 1])
        self._acting: Any = None
        self._target = _Target(0, np.zeros(3), 0.0)
        self._waiting: list[_Target] | None = None
        self._steps = 0
        self._burst_action = np.zeros(5)
        self._burst_steps = 0

    def __call__(self, observation: Any, info: dict[str, Any]) -> Action:
        """Return the action, (5,) float32 in [-1, 1]; the observation is not used."""
        state = np.asarray(info["state"], dtype=np.float64)
        if self._acting is None or self._acting.done:
            self._take_next_target(state, np.asarray(info["goal_state"], dtype=np.float64))
        action = self._burst_action if self._in_burst() else self._oracle_action(state)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _in_burst(self) -> bool:
        if self._burst_steps > 0:
            self._burst_steps -= 1
        elif self._has_bursts and self._generator.uniform() < BURST_PROBABILITY:
            self._burst_steps = int(self._generator.integers(*BURST_STEPS, endpoint=True))
            self._burst_action = self._generator.uniform(-1.0, 1.0, 5)
        return self._burst_steps > 0

    def _oracle_action(self, state: Vector) -> Vector:
        action: Vector = self._acting.select_action(None, self._oracle_info(state))
        self._steps += 1
        if self.oracle == "plan":
            return action
        return action + self._generator.normal(0.0, self._markov_noise)

    def _take_next_target(self, state: Vector, goal: Vector) -> None:
        if self._waiting is None:
            self._waiting = _targets_of_goal(state, goal)
        self._target = self._waiting.pop(0) if self._waiting else self._random_target(state)
        self._steps = 0
        if self._acting is None:
            self._acting = _make_oracle(self.oracle, self.noise)
        with _numpy_seeded(int(self._generator.integers(2**32))):  # where the oracles draw from
            self._acting.reset(None, self._oracle_info(state))

    def _random_target(self, state: Vector) -> _Target:
        """A target as in OGBench's data: a cube that carries none, to the table or, at times, onto another such."""
        tops = _top_cubes(state)
        cube = int(self._generator.choice(tops))
        yaw = float(self._generator.uniform(0.0, 2.0 * np.pi))
        others = [top for top in tops if top != cube]
        if others and self._generator.uniform() < self._stack_probability:
            below = cube_positions(state)[self._generator.choice(others)]
            return _Target(cube, below + np.array([0.0, 0.0, CUBE_SIZE]), yaw)
        return _Target(cube, self._free_place(state, cube), yaw)

    def _free_place(self, state: Vector, cube: int) -> Vector:
        """A place on the table for a cube, clear of the others."""
        while True:
            place = np.array([*self._generator.uniform(*SAMPLING_RANGE), _ON_THE_TABLE])
            if not crowded_cubes(with_cube_at(state, place, cube=cube))[cube]:
                return place

    def _oracle_info(self, state: Vector) -> dict[str, Any]:
        """What the oracles look at, under OGBench's names."""
        info: dict[str, Any] = {
            "time": np.array([self._steps * CONTROL_TIMESTEP]),
            "proprio/effector_pos": effector_position(state),
            "proprio/effector_yaw": np.array([effector_yaw(state)]),
            "proprio/gripper_opening": np.array([gripper_closure(state)]),
            "proprio/gripper_contact": state[GRIPPER_CONTACT],
            "privileged/target_block": self._target.cube,
            "privileged/target_block_pos": self._target.position,
            "privileged/target_block_yaw": np.array([self._target.yaw]),
        }
        for cube, (position, yaw) in enumerate(zip(cube_positions(state), cube_yaws(state), strict=True)):
            info[f"privileged/block_{cube}_pos"] = position
            info[f"privileged/block_{cube}_yaw"] = np.array([yaw])
        return info


class _OracleWorld:
    """All that the oracles ask of an environment, so that they can be pickled without one."""

    def __init__(self) -> None:
        self._control_timestep = CONTROL_TIMESTEP
        self._arm_sampling_bounds = np.array(EFFECTOR_RANGE)

    @property
    def unwrapped(self) -> _OracleWorld:
        """Itself."""
        return self

    def normalize_action(self, action: Vector) -> Vector:
        """From m, rad and way of the gripper to units of the action."""
        return np.clip(action / np.array(ACTION_SCALE), -1.0, 1.0)


def _make_oracle(oracle: Oracle, noise: float) -> Any:
    import_mujoco()  # before OGBench does, for the choice of the OpenGL library
    if oracle == "plan":
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

        return CubePlanOracle(env=_OracleWorld(), noise=noise)
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

    return CubeMarkovOracle(env=_OracleWorld())


def _targets_of_goal(state: Vector, goal: Vector) -> list[_Target]:
    """The cubes that are not at their goal, those that rise last: a tower is taken from its top and built upwards."""
    positions, yaws = cube_positions(goal), cube_yaws(goal)
    rises = positions[:, 2] - cube_positions(state)[:, 2]
    away = cube_distances(state, goal) > SUCCESS_DISTANCE
    return [_Target(int(cube), positions[cube], float(yaws[cube])) for cube in np.argsort(rises) if away[cube]]


def _top_cubes(state: Vector) -> list[int]:
    """The cubes on which no other one lies."""
    positions = cube_positions(state)
    near = np.linalg.norm(positions[:, None, :2] - positions[None, :, :2], axis=-1) < _STACKED
    covered = (near & (positions[None, :, 2] > positions[:, None, 2])).any(axis=1)
    return [int(cube) for cube in np.flatnonzero(~covered)]


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator for a while, and then leave it as it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
