"""The rules of evaluation on the cube task: what is solved, and which pairs count."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation

from lewm_agent.envs.cube.env import CUBES, CubeEnv, cube_distances, cube_positions, with_cube_at
from lewm_agent.eval.worlds import cube as cube_rules

PLACE = np.array([0.45, -0.1, 0.02])


def start(cubes: int = 1) -> np.ndarray:
    return CubeEnv(cubes=cubes).reset(seed=0)[1]["state"]


def test_rule_of_the_cubes_is_the_success_of_the_environment(recorded_cube: dict[str, np.ndarray]) -> None:
    states, goal = recorded_cube["states"], recorded_cube["goal"]
    env = CubeEnv()
    told = [env.reset(options={"state": state, "goal_state": goal})[1]["is_success"] for state in states]
    assert cube_rules.cubes_at_goal(states, goal).tolist() == told
    assert set(told) == {True, False}


def test_angle_between_cubes_is_modulo_the_turns_of_a_cube() -> None:
    rng = np.random.default_rng(0)
    assert cube_rules.CUBE_ROTATIONS.shape == (24, 4)
    group = Rotation.create_group("O")
    goal, states = start(), np.repeat(start()[None], 40, axis=0)
    turned = Rotation.random(40, rng=rng)
    goal_turn = Rotation.random(rng=rng)
    goal[CUBES + 3 : CUBES + 7] = goal_turn.as_quat(scalar_first=True)
    states[:, CUBES + 3 : CUBES + 7] = (goal_turn * turned).as_quat(scalar_first=True)
    expected = np.min([(turned * turn).magnitude() for turn in group], axis=0)
    np.testing.assert_allclose(cube_rules.cube_angles(states, goal)[:, 0], expected, atol=1e-6)


def test_strict_rule_wants_place_and_turn_for_three_steps_in_a_row() -> None:
    state = start()
    quarter, degree = math.pi / 2, math.pi / 180
    goal = with_cube_at(state, PLACE, yaw=0.3)
    near = with_cube_at(state, PLACE + np.array([0.029, 0.0, 0.0]), yaw=0.3 + quarter + 14 * degree)
    far = with_cube_at(state, PLACE + np.array([0.031, 0.0, 0.0]), yaw=0.3)
    turned = with_cube_at(state, PLACE, yaw=0.3 - 16 * degree)
    states = np.array([near, near, far, near, near, near, near, turned, near])
    match = [True, True, False, True, True, True, True, False, True]
    assert cube_rules.cubes_match_goal(states, goal).tolist() == match
    stays = [False, False, False, False, False, True, True, False, False]
    assert cube_rules.cubes_stay_at_goal(states, goal).tolist() == stays
    assert not cube_rules.cubes_stay_at_goal(states[:2], goal).any()


def test_pairs_that_start_solved_do_not_count() -> None:
    state = start()

    def window(offset: float, yaw: float = 0.0) -> np.ndarray:
        ends = [with_cube_at(state, PLACE + np.array([offset, 0.0, 0.0]), yaw), with_cube_at(state, PLACE)]
        return np.linspace(*ends, 26)

    assert cube_rules.cubes_start_apart(window(0.041))
    assert not cube_rules.cubes_start_apart(window(0.039))
    assert cube_rules.cubes_start_unmatched(window(0.031))
    assert not cube_rules.cubes_start_unmatched(window(0.029))
    assert cube_rules.cubes_start_unmatched(window(0.0, yaw=0.4))


def test_every_cube_counts_in_the_rules() -> None:
    state = start(cubes=2)
    goal = with_cube_at(state, cube_positions(state)[1] + [0.0, 0.05, 0.0], cube=1)
    assert not cube_rules.cubes_at_goal(state[None], goal)[0]
    assert not cube_rules.cubes_match_goal(state[None], goal)[0]
    np.testing.assert_allclose(cube_distances(state, goal), [0.0, 0.05])


def test_at_rest_stops_arm_and_cubes_where_they_are(recorded_cube: dict[str, np.ndarray]) -> None:
    states = recorded_cube["states"][30:60]
    before = states.copy()
    resting = cube_rules.at_rest(states)
    changed = (resting != states).any(axis=0)
    velocities = [*range(27, 41), *range(62, 68)]
    assert set(np.flatnonzero(changed)) <= set(velocities)
    assert not resting[:, velocities].any()
    assert cube_rules.at_rest(states[0]).tobytes() == resting[0].tobytes()
    assert states.tobytes() == before.tobytes()
    CubeEnv().reset(options={"state": resting[0]})


def test_starts_at_the_cube_are_told_from_those_away(recorded_cube: dict[str, np.ndarray]) -> None:
    states = recorded_cube["states"]
    told = [cube_rules.gripper_at_cube(state) for state in states]
    assert not told[0]
    lifted = states[:, CUBES + 2] > 0.08
    assert all(np.array(told)[lifted])
