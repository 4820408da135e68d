"""The cube task: OGBench's motion, exact restore, goals and drawing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lewm_agent.agents.behavior.cube_expert import CubeExpert
from lewm_agent.envs.cube import scene as cube_scene
from lewm_agent.envs.cube.env import (
    ACTION_SCALE,
    CONTROL_TIMESTEP,
    CUBE_SPACING,
    CUBES,
    EFFECTOR_RANGE,
    GRIPPER_CONTACT,
    JOINT_POSITIONS,
    SAMPLING_RANGE,
    CubeEnv,
    cube_positions,
    cube_values,
    cube_yaws,
    effector_position,
    effector_yaw,
    gripper_closure,
    with_cube_at,
)
from lewm_agent.envs.cube.scene import CubeFactors

STAY = np.zeros(5)
PLACE = np.array([0.45, -0.1, 0.02])
ELSEWHERE = np.array([0.35, 0.2, 0.02])


def start(seed: int = 0, cubes: int = 1) -> np.ndarray:
    return CubeEnv(cubes=cubes).reset(seed=seed)[1]["state"]


def placed(place: Any = PLACE, goal: Any = ELSEWHERE, **kwargs: Any) -> CubeEnv:
    """One cube at ``place``; everything else as with seed 0."""
    env = CubeEnv(**kwargs)
    state = start()
    env.reset(seed=0, options={"state": with_cube_at(state, place), "goal_state": with_cube_at(state, goal)})
    return env


def episode(env: CubeEnv, actions: np.ndarray) -> np.ndarray:
    return np.array([env.step(action)[4]["state"] for action in actions])


@pytest.fixture
def drawing() -> Any:
    """Makes environments that draw, at 64 px unless told otherwise, and closes them."""
    made: list[CubeEnv] = []

    def make(place: Any = PLACE, goal: Any = ELSEWHERE, image_size: int = 64, **kwargs: Any) -> CubeEnv:
        made.append(placed(place, goal, render_mode="rgb_array", image_size=image_size, **kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()


# OGBench


@pytest.mark.parametrize(("cubes", "kind"), [(1, "single"), (2, "double")])
def test_starts_and_moves_bit_for_bit_as_ogbench(cubes: int, kind: str) -> None:
    env = CubeEnv(cubes=cubes)
    info = env.reset(seed=3)[1]
    from ogbench.manipspace.envs.cube_env import CubeEnv as OGBenchCubeEnv

    reference = OGBenchCubeEnv(kind, mode="data_collection", terminate_at_goal=False)
    reference.reset(seed=3)
    for action in [STAY, *np.random.default_rng(0).uniform(-1.2, 1.2, (40, 5))]:
        cube = cube_values(info["state"])
        assert reference.data.qpos.tobytes() == np.append(info["state"][JOINT_POSITIONS], cube[:, :7]).tobytes()
        assert reference.data.qvel[14:].tobytes() == cube[:, 7:13].tobytes()
        measured = reference.compute_ob_info()
        np.testing.assert_array_equal(effector_position(info["state"]), measured["proprio/effector_pos"])
        np.testing.assert_allclose(effector_yaw(info["state"]), measured["proprio/effector_yaw"][0], atol=1e-9)
        np.testing.assert_allclose(gripper_closure(info["state"]), measured["proprio/gripper_opening"][0])
        np.testing.assert_allclose(cube_yaws(info["state"])[0], measured["privileged/block_0_yaw"][0], atol=1e-9)
        assert info["state"][GRIPPER_CONTACT] == measured["proprio/gripper_contact"][0]
        reference.step(np.clip(action, -1.0, 1.0))
        info = env.step(action)[4]
    np.testing.assert_array_equal(reference.action_high, ACTION_SCALE)
    np.testing.assert_array_equal(reference._arm_sampling_bounds, EFFECTOR_RANGE)
    np.testing.assert_array_equal(reference._target_sampling_bounds, SAMPLING_RANGE)
    assert reference.control_timestep() == CONTROL_TIMESTEP


def test_neither_environment_nor_expert_touches_the_global_generator() -> None:
    results = []
    for seed in (1, 2):
        np.random.seed(seed)
        before = np.random.get_state()[1].tobytes()
        env = CubeEnv()
        _, info = env.reset(seed=4)
        expert = CubeExpert(env)
        states = []
        for policy_seed in (0, 1, 2, 3):
            expert.reset(policy_seed)
            for _ in range(20):
                info = env.step(expert(None, info))[4]
            states.append(info["state"])
        results.append(np.array(states).tobytes())
        assert np.random.get_state()[1].tobytes() == before
    assert results[0] == results[1]


# States, goals, success


def test_starts_and_goals_cover_the_table_and_cubes_do_not_overlap() -> None:
    env = CubeEnv(cubes=4)
    infos = [env.reset(seed=seed)[1] for seed in range(60)]
    low, high = np.array(SAMPLING_RANGE)
    for name in ("state", "goal_state"):
        places = np.array([cube_positions(info[name]) for info in infos])
        assert (places[..., :2].min(axis=(0, 1)) < low + 0.02).all()
        assert (places[..., :2].max(axis=(0, 1)) > high - 0.02).all()
        gaps = np.linalg.norm(places[:, :, None, :2] - places[:, None, :, :2], axis=-1) + np.eye(4)
        assert gaps.min() >= CUBE_SPACING
        grippers = effector_position([info[name] for info in infos])
        assert (grippers > np.array(EFFECTOR_RANGE[0]) - 1e-3).all()
        assert (grippers < np.array(EFFECTOR_RANGE[1]) + 1e-3).all()


def test_success_needs_the_cube_within_4_cm_and_terminates_only_if_told_to() -> None:
    for kwargs, offset, success, terminated in (
        ({"terminate_on_success": True}, [0.0, 0.039, 0.0], True, True),
        ({"terminate_on_success": True}, [0.0, 0.041, 0.0], False, False),
        ({}, [0.0, 0.0, 0.0], True, False),
    ):
        env = placed(PLACE + offset, PLACE, **kwargs)
        _, reward, ended, truncated, info = env.step(STAY)
        assert (info["is_success"], ended, truncated) == (success, terminated, False)
        assert info["distance"] == pytest.approx(np.linalg.norm(offset), abs=2e-4)
        assert reward == -info["distance"]


def test_the_farthest_cube_decides() -> None:
    state = start(cubes=3)
    goal = state
    for cube, offset in enumerate((0.01, 0.03, 0.02)):
        goal = with_cube_at(goal, cube_positions(state)[cube] + [0.0, 0.0, offset], cube=cube)
    env = CubeEnv(cubes=3)
    _, info = env.reset(options={"state": state, "goal_state": goal})
    assert info["distance"] == pytest.approx(0.03)
    assert info["is_success"]
    goal = with_cube_at(goal, cube_positions(state)[2] + [0.05, 0.0, 0.0], cube=2)
    assert not env.reset(options={"state": state, "goal_state": goal})[1]["is_success"]


def test_restores_any_state_of_an_episode_bit_for_bit(recorded_cube: dict[str, np.ndarray]) -> None:
    states, actions = recorded_cube["states"], recorded_cube["actions"]
    assert states[:, CUBES + 2].max() > 0.08  # it is lifted
    env = CubeEnv()
    for first in range(0, 90, 11):
        env.reset(seed=99)
        episode(env, np.random.default_rng(first).uniform(-1.0, 1.0, (7, 5)))
        _, info = env.reset(seed=99, options={"state": states[first], "goal_state": recorded_cube["goal"]})
        replay = np.array([info["state"], *episode(env, actions[first:])])
        assert replay.tobytes() == states[first:].tobytes()
        assert info["goal_state"].tobytes() == recorded_cube["goal"].tobytes()


def test_two_environments_do_not_share_a_simulation() -> None:
    first, second, alone = placed(), placed(ELSEWHERE), placed()
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (10, 5))
    expected = episode(alone, actions)
    for action, state in zip(actions, expected, strict=True):
        second.step(-action)
        assert first.step(action)[4]["state"].tobytes() == state.tobytes()


def test_physics_names_what_the_state_holds() -> None:
    env = CubeEnv(cubes=2)
    _, info = env.reset(seed=0)
    physics, state = info["physics"], info["state"]
    assert [physics[f"cube_2_{axis}"] for axis in "xyz"] == cube_positions(state)[1].tolist()
    assert physics["cube_yaw"] == cube_yaws(state)[0]
    for _ in range(10):
        physics = env.step(np.array([0.0, 0.0, 1.0, 0.0, 1.0]))[4]["physics"]
    assert physics["gripper_closure"] > 0.9
    assert physics["effector_z"] > info["physics"]["effector_z"]


# Drawing


def test_frames_show_the_cube_where_it_is(drawing: Any) -> None:
    right, up = np.array([0.0, 1.0, 0.0]), np.array([-0.628, 0.001, 0.778])
    up = up / np.linalg.norm(up)
    camera, back = np.array([1.053, -0.014, 0.639]), np.cross(right, up)
    for size in (32, 100, 128):
        env = drawing(image_size=size, factors={"cube_color": (255, 0, 0)})
        for place in ([0.32, 0.28, 0.02], [0.5, -0.25, 0.02], [0.5, 0.2, 0.02]):
            env.reset(options={"state": with_cube_at(start(), place)})
            frame = env.render()
            assert (frame.shape, frame.dtype) == ((size, size, 3), np.uint8)
            red = np.clip(frame[..., 0].astype(float) - frame[..., 2] - 30.0, 0.0, None)
            rows, columns = np.mgrid[:size, :size] + 0.5
            seen = np.array([(red * columns).sum(), (red * rows).sum()]) / red.sum()
            away = np.array(place) - camera
            scale = size / 2 / math.tan(math.radians(22.5)) / -(away @ back)
            expected = size / 2 + scale * np.array([away @ right, -(away @ up)])
            np.testing.assert_allclose(seen, expected, atol=0.02 * size)


def test_the_lighter_model_looks_like_the_original(drawing: Any) -> None:
    env = drawing(image_size=128)
    from ogbench.manipspace.envs.cube_env import CubeEnv as OGBenchCubeEnv

    original = OGBenchCubeEnv(
        "single", mode="data_collection", ob_type="pixels", visualize_info=False, width=128, height=128
    )
    original.reset(seed=0)
    original.data.qpos[:] = np.append(start()[JOINT_POSITIONS], cube_values(with_cube_at(start(), PLACE))[:, :7])
    original.set_state(original.data.qpos, original.data.qvel)
    difference = np.abs(env.render().astype(int) - original.render())
    assert difference.mean() < 1.0
    assert np.median(difference) <= 1.0
    assert cube_scene.drawn_model(env._simulation._env).nmeshface < 18_000 < original.model.nmeshface / 10


def test_the_goal_is_not_in_the_frame(drawing: Any) -> None:
    np.testing.assert_array_equal(drawing(goal=ELSEWHERE).render(), drawing(goal=PLACE + 0.03).render())


def test_closing_frees_the_canvas_and_the_environment_can_go_on(drawing: Any) -> None:
    env = drawing()
    frame = env.render()
    closed = env._canvas.close
    env.close()
    assert not closed.alive
    env.close()
    np.testing.assert_array_equal(env.render(), frame)


def test_factors_change_the_picture_and_not_the_motion(drawing: Any) -> None:
    blue, white = (0, 0, 255), (255, 255, 255)
    factors = CubeFactors(cube_color=blue, second_cube_color=white, floor_color=white, light_color=(255, 120, 60))
    plain, other = drawing(), drawing(factors=factors)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 5))
    assert episode(other, actions).tobytes() == episode(plain, actions).tobytes()
    assert not np.array_equal(other.render(), plain.render())


def test_merging_vertices_keeps_what_spans_cells_and_drops_what_collapses() -> None:
    vertices = np.array([[0.1, 0.1, 0.1], [0.3, 0.3, 0.3], [1.5, 0.5, 0.5], [0.5, 1.5, 0.5], [0.5, 1.5, 0.7]])
    faces = np.array([[0, 2, 3], [2, 4, 1], [0, 3, 4], [3, 2, 0], [0, 1, 2]])
    merged, kept = cube_scene.merge_vertices(vertices, faces, 1.0)
    np.testing.assert_allclose(merged, [[0.2, 0.2, 0.2], [0.5, 1.5, 0.6], [1.5, 0.5, 0.5]])
    assert sorted(kept.tolist()) == [[0, 1, 2], [0, 2, 1]]  # one triangle, seen from both sides


# Errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"cubes": 5}, "cubes must be an integer from 1 to 4, got 5"),
        ({"cubes": True}, "cubes must be an integer from 1 to 4, got True"),
        ({"factors": {"cube_colour": (0, 0, 0)}}, r"unknown factor 'cube_colour'; the factors are .*cube_color"),
        ({"factors": {"floor_color": (0, 0, 256)}}, "floor_color must be three integers from 0 to 255"),
    ],
)
def test_bad_arguments_are_told(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CubeEnv(**kwargs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": [1.0, 2.0]}, r"'state' must have shape \(74,\) \(1 cube\(s\)\), got shape \(2,\)"),
        ({"goal_state": np.full(74, np.nan)}, r"'goal_state' must be finite"),
        ({"state": np.zeros(74)}, "'state' must hold unit quaternions for its cubes, got length 0.0"),
    ],
)
def test_bad_options_are_told_and_leave_the_episode_alone(options: dict[str, Any], message: str) -> None:
    env, undisturbed = placed(), placed()
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    assert env.step(STAY)[4]["state"].tobytes() == undisturbed.step(STAY)[4]["state"].tobytes()
