"""The reacher: Gymnasium's contract, dynamics, exact restore, goals, factors and drawing."""

from __future__ import annotations

import importlib.util
import math
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as stable_baselines_check_env

from lewm_agent.envs import mujoco_gl
from lewm_agent.envs.reacher import (
    WRIST_LIMIT,
    ReacherEnv,
    ReacherFactors,
    fingertip_position,
    joint_errors,
    wrapped_angle,
)
from lewm_agent.envs.wrappers import make_pixel_env

STAY = np.zeros(2)
AT = [0.8, 1.2, 0.0, 0.0]
GOAL = [-1.0, -0.5, 0.0, 0.0]


def placed(state: Any = AT, goal: Any = GOAL, **kwargs: Any) -> ReacherEnv:
    env = ReacherEnv(**kwargs)
    env.reset(seed=0, options={"state": state, "goal_state": goal})
    return env


def episode(env: ReacherEnv, actions: np.ndarray) -> np.ndarray:
    return np.array([env.step(action)[4]["state"] for action in actions])


@pytest.fixture
def mujoco() -> Any:
    return mujoco_gl.import_mujoco()


@pytest.fixture
def drawing() -> Any:
    """Makes environments that draw, at 64 px unless told otherwise, and closes them."""
    made: list[ReacherEnv] = []

    def make(state: Any = AT, goal: Any = GOAL, image_size: int = 64, **kwargs: Any) -> ReacherEnv:
        made.append(placed(state, goal, render_mode="rgb_array", image_size=image_size, **kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()


# Gymnasium's contract


@pytest.mark.parametrize("kwargs", [{}, {"wrap_shoulder": False}])
def test_passes_both_environment_checkers(kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check_env(gym.make("lewm/Reacher-v0", **kwargs).unwrapped)
        stable_baselines_check_env(gym.make("lewm/Reacher-v0", render_mode="rgb_array", image_size=64, **kwargs))


def test_is_made_by_its_qualified_id_and_truncated_after_200_steps() -> None:
    env = gym.make("lewm_agent.envs:lewm/Reacher-v0", terminate_on_success=False)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(200)]
    assert ends == [(False, False)] * 199 + [(False, True)]


# A fork after drawing hangs, so processes are spawned.
@pytest.mark.parametrize(("mode", "vector_kwargs"), [("sync", {}), ("async", {"context": "spawn"})])
def test_runs_vectorized_with_frames_and_rows_equal_single_environments(mode: Any, vector_kwargs: Any) -> None:
    vector: Any = gym.make_vec(
        "lewm/Reacher-v0",
        num_envs=2,
        vectorization_mode=mode,
        vector_kwargs=vector_kwargs,
        render_mode="rgb_array",
        image_size=32,
    )
    single = gym.make("lewm/Reacher-v0", render_mode="rgb_array", image_size=32)
    try:
        observations, info = vector.reset(seed=[5, 6])
        expected, expected_info = single.reset(seed=6)
        np.testing.assert_array_equal(observations[1], expected)
        np.testing.assert_array_equal(info["state"][1], expected_info["state"])
        action = np.array([0.3, -0.4], dtype=np.float32)
        observations, rewards, *_, info = vector.step(np.stack([action, action]))
        expected, reward, *_, expected_info = single.step(action)
        np.testing.assert_array_equal(observations[1], expected)
        assert rewards[1] == reward
        assert info["physics"]["fingertip_x"][1] == expected_info["physics"]["fingertip_x"]
        np.testing.assert_array_equal(vector.render()[1], single.render())
    finally:
        vector.close()
        single.close()


def test_pixels_come_from_the_wrappers() -> None:
    env = make_pixel_env("reacher", image_size=32)
    observation, _ = env.reset(seed=0)
    assert observation["pixels"].shape == observation["goal"].shape == (32, 32, 3)
    assert not np.array_equal(observation["pixels"], observation["goal"])
    env.close()


def test_making_other_environments_does_not_import_mujoco() -> None:
    program = (
        "import sys, gymnasium, lewm_agent.envs.reacher, lewm_agent.agents.reacher_expert; "
        "gymnasium.make('lewm_agent.envs:lewm/TwoRoom-v0'); "
        "assert not any(name.split('.')[0] in ('mujoco', 'OpenGL') for name in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# States, goals, success


def test_seed_decides_start_and_goal() -> None:
    first, second, other = (ReacherEnv().reset(seed=seed)[1] for seed in (3, 3, 4))
    assert first["state"].tobytes() == second["state"].tobytes()
    assert first["goal_state"].tobytes() == second["goal_state"].tobytes()
    assert not np.array_equal(first["state"], other["state"])
    assert not np.array_equal(first["state"], first["goal_state"])


def test_starts_and_goals_cover_both_ranges_at_rest() -> None:
    env = ReacherEnv()
    infos = [env.reset(seed=seed)[1] for seed in range(400)]
    for name in ("state", "goal_state"):
        states = np.array([info[name] for info in infos])
        assert not states[:, 2:].any()
        for angle, limit in zip(states[:, :2].T, (math.pi, WRIST_LIMIT), strict=True):
            assert -limit <= angle.min() < -0.95 * limit
            assert 0.95 * limit < angle.max() <= limit


def test_success_needs_both_joints_within_the_tolerance_and_may_not_terminate() -> None:
    for kwargs, offset, success, terminated in (
        ({}, [0.049, -0.049], True, True),
        ({}, [0.051, 0.0], False, False),
        ({}, [0.0, -0.051], False, False),
        ({"terminate_on_success": False}, [0.0, 0.0], True, False),
    ):
        env = placed([GOAL[0] + offset[0], GOAL[1] + offset[1], 0.0, 0.0], **kwargs)
        _, reward, ended, truncated, info = env.step(STAY)
        assert (info["is_success"], ended, truncated) == (success, terminated, False)
        assert info["distance"] == pytest.approx(np.abs(offset).max(), abs=1e-12)
        assert reward == -info["distance"] / math.pi


def test_only_a_wrapped_shoulder_forgives_whole_turns_and_no_wrist_does() -> None:
    turned = [GOAL[0] - 4.0 * math.pi, GOAL[1], 0.0, 0.0]
    assert placed(turned).step(STAY)[4]["is_success"]
    raw = placed(turned, wrap_shoulder=False).step(STAY)
    assert not raw[4]["is_success"]
    assert raw[4]["distance"] == pytest.approx(4.0 * math.pi)
    assert raw[0][5] == pytest.approx(4.0 * math.pi, rel=1e-6)
    wrist = placed([0.0, -2.7, 0.0, 0.0], [0.0, 2.7, 0.0, 0.0]).step(STAY)[4]
    assert wrist["distance"] == pytest.approx(5.4)


def test_wrapped_angles_lie_within_half_a_turn() -> None:
    angles = np.linspace(-20.0, 20.0, 401)
    wrapped = wrapped_angle(angles)
    assert wrapped.min() >= -math.pi
    assert wrapped.max() < math.pi
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * angles), atol=1e-12)
    errors = joint_errors([[3.1, 0.0, 0.0, 0.0]], [-3.1, 1.0, 0.0, 0.0], wrap_shoulder=True)
    np.testing.assert_allclose(errors, [[2.0 * math.pi - 6.2, 1.0]])


def test_info_names_the_physical_quantities() -> None:
    state = [math.pi / 2 + 2.0 * math.pi, -math.pi / 2, 1.5, -2.5]
    observation, info = ReacherEnv().reset(options={"state": state, "goal_state": GOAL})
    assert info["physics"] == pytest.approx(
        {
            "shoulder_angle": math.pi / 2,
            "wrist_angle": -math.pi / 2,
            "shoulder_velocity": 1.5,
            "wrist_velocity": -2.5,
            "fingertip_x": 0.12,
            "fingertip_y": 0.12,
        }
    )
    error = -1.0 - math.pi / 2
    expected = [0.0, 1.0, -math.pi / 2, 1.5, -2.5, error, -0.5 + math.pi / 2]
    np.testing.assert_allclose(observation, expected, atol=1e-6)
    assert ReacherEnv().observation_space.contains(observation)


# Motion


def dm_control_model(mujoco: Any) -> Any:
    package = importlib.util.find_spec(
        "dm_control"
    )  # its suite cannot be imported beside MuJoCo 4, its file can be read
    if package is None or package.origin is None:
        pytest.skip("dm_control is not installed")
    suite = Path(package.origin).parent / "suite"
    common = {f"./common/{file.name}": file.read_bytes() for file in (suite / "common").glob("*.xml")}
    return mujoco.MjModel.from_xml_string((suite / "reacher.xml").read_text(), common)


def test_moves_as_the_arm_of_dm_control(mujoco: Any) -> None:
    model = dm_control_model(mujoco)
    data = mujoco.MjData(model)
    env = ReacherEnv(terminate_on_success=False)
    rng = np.random.default_rng(0)
    touched_the_limit = False
    for seed in range(4):
        start = env.reset(seed=seed)[1]["state"]
        mujoco.mj_resetData(model, data)
        data.qpos[:] = start[:2]
        for _ in range(100):
            action = np.sign(rng.uniform(-1.0, 1.0, 2)) if seed % 2 else rng.uniform(-1.0, 1.0, 2)
            data.ctrl[:] = action
            mujoco.mj_step(model, data, 2)
            state = env.step(action)[4]["state"]
            touched_the_limit |= abs(state[1]) > WRIST_LIMIT
            np.testing.assert_allclose(state, [*data.qpos, *data.qvel], rtol=0.0, atol=1e-9)
    assert touched_the_limit


def test_torques_are_clipped_and_turn_their_joint() -> None:
    for joint in (0, 1):
        torque = np.zeros(2)
        torque[joint] = 1.0
        state = placed().step(torque)[4]["state"]
        assert state[joint] > AT[joint]
        np.testing.assert_array_equal(placed().step(5.0 * torque)[4]["state"], state)
        assert placed().step(-torque)[4]["state"][joint] < AT[joint]


def test_restored_states_replay_bit_for_bit_also_at_the_wrist_limit() -> None:
    env = ReacherEnv(terminate_on_success=False)
    rng = np.random.default_rng(2)
    actions = rng.uniform([-1.0, -0.4], [1.0, 1.0], (120, 2)).astype(np.float32)
    _, info = env.reset(seed=1)
    recorded = np.array([info["state"], *episode(env, actions)])
    assert recorded[:, 1].max() > WRIST_LIMIT
    again = ReacherEnv(terminate_on_success=False)
    episode_of_another_kind = rng.uniform(-1.0, 1.0, (7, 2))
    for start in range(0, 120, 7):
        again.reset(seed=99)
        episode(again, episode_of_another_kind)
        options = {"state": recorded[start], "goal_state": info["goal_state"]}
        _, restored = again.reset(seed=99, options=options)
        replay = np.array([restored["state"], *episode(again, actions[start:])])
        assert replay.tobytes() == recorded[start:].tobytes()
        assert restored["goal_state"].tobytes() == info["goal_state"].tobytes()


def test_a_moving_goal_is_kept_as_it_was_recorded() -> None:
    goal = np.array([0.1, 0.2, 3.0, -4.0])
    assert ReacherEnv().reset(options={"goal_state": goal})[1]["goal_state"].tobytes() == goal.tobytes()


def test_info_and_options_do_not_share_memory_with_the_environment() -> None:
    state, goal = np.array(AT), np.array(GOAL)
    env = ReacherEnv()
    _, info = env.reset(options={"state": state, "goal_state": goal})
    for array in (state, goal, info["state"], info["goal_state"]):
        array[:] = 0.0
    info = env.step(STAY)[4]
    assert info["state"].tolist() == AT
    assert info["goal_state"].tolist() == GOAL


def test_a_pickled_environment_continues_alike(drawing: Any) -> None:
    env = drawing()
    frame = env.render()
    copied = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(copied.render(), frame)
    copied.close()
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (20, 2))
    assert episode(copied, actions).tobytes() == episode(env, actions).tobytes()


def test_fingertip_is_where_mujoco_puts_it(mujoco: Any) -> None:
    env = ReacherEnv()
    states = np.random.default_rng(0).uniform([-9.0, -2.8, 0.0, 0.0], [9.0, 2.8, 1.0, 1.0], (20, 4))
    places = []
    for state in states:
        env.reset(options={"state": state})
        mujoco.mj_kinematics(env._model, env._data)
        places.append(env._data.body("finger").xpos[:2].copy())
    np.testing.assert_allclose(fingertip_position(states), places, atol=1e-12)
    np.testing.assert_allclose(fingertip_position(states[0]), places[0], atol=1e-12)


# Drawing


def test_frames_show_the_fingertip_where_it_is(drawing: Any) -> None:
    black = (0, 0, 0)
    factors = ReacherFactors(black, black, (255, 255, 255), black)  # the fingertip is all that can be seen
    half_view = 0.69 * math.tan(math.radians(22.5))  # m, at its height; the camera is 0.69 m above it
    for size in (16, 64, 100, 224):
        for state in ([0.3, 0.0, 0.0, 0.0], [2.5, -1.5, 0.0, 0.0], [-2.0, 2.0, 0.0, 0.0], [-1.2, 0.0, 0.0, 0.0]):
            frame = drawing(state, image_size=size, factors=factors).render()
            assert (frame.shape, frame.dtype) == ((size, size, 3), np.uint8)
            light = frame.mean(axis=-1)
            rows, columns = np.mgrid[:size, :size] + 0.5
            seen = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
            x, y = size / 2 * fingertip_position(state) / half_view
            np.testing.assert_allclose(seen, [size / 2 + x, size / 2 - y], atol=0.1 + 0.005 * size)


def test_the_whole_arm_is_within_the_frame_whichever_way_it_points(drawing: Any) -> None:
    for radius in (0.02, 0.025):
        for angle in np.arange(4) * math.pi / 2:
            frame = drawing([angle, 0.0, 0.0, 0.0], factors={"arm_radius": radius}).render()
            edge = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]]).astype(int)
            assert np.ptp(edge, axis=0).max() <= 2


@pytest.mark.parametrize("joint", [0, 1])
def test_half_the_tolerance_can_be_seen_at_64_pixels(drawing: Any, joint: int) -> None:
    turned = np.array(AT)
    turned[joint] += 0.025
    difference = np.abs(drawing().render().astype(int) - drawing(turned).render())
    assert difference.max() > 40


def test_goal_frame_is_the_frame_at_the_goal_and_disturbs_nothing(drawing: Any) -> None:
    env, undisturbed, at_goal = drawing(), placed(), drawing(GOAL)
    np.testing.assert_array_equal(env.goal_frame(), at_goal.render())
    assert not np.array_equal(env.goal_frame(), env.render())
    for action in np.random.default_rng(0).uniform(-1.0, 1.0, (10, 2)):
        assert env.step(action)[4]["state"].tobytes() == undisturbed.step(action)[4]["state"].tobytes()
        before = env.render()
        env.goal_frame()
        np.testing.assert_array_equal(env.render(), before)


def test_a_returned_frame_may_be_written_to(drawing: Any) -> None:
    env = drawing()
    first = env.render()
    kept = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(env.render(), kept)


def test_closing_frees_the_canvas_and_the_environment_can_go_on(drawing: Any) -> None:
    env = drawing()
    frame = env.render()
    closed = env._canvas.close
    env.close()
    assert not closed.alive
    env.close()
    np.testing.assert_array_equal(env.render(), frame)


@pytest.mark.parametrize(
    "change",
    [
        {"arm_color": (0, 0, 255)},
        {"hand_color": [0, 200, 0]},
        {"fingertip_color": (255, 255, 255)},
        {"background_color": (200, 220, 255)},
        {"arm_radius": 0.01},
    ],
)
def test_every_factor_changes_the_picture_by_each_way_of_setting_it_and_not_the_motion(
    drawing: Any, change: dict[str, Any]
) -> None:
    options = {"state": AT, "goal_state": GOAL}
    env = drawing()
    plain = env.render()
    env.set_factors(**change)
    changed = env.render()
    assert np.abs(changed.astype(int) - plain).max() > 50
    env.reset(options=options)
    np.testing.assert_array_equal(env.render(), plain)  # a reset undoes it
    env.reset(options={**options, "factors": change})
    np.testing.assert_array_equal(env.render(), changed)
    built = drawing(factors=ReacherFactors(**change))
    np.testing.assert_array_equal(built.render(), changed)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (20, 2))
    assert episode(built, actions).tobytes() == episode(placed(), actions).tobytes()


# Errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array', got 'human'"),
        ({"image_size": 15}, "image_size must be an integer of at least 16, got 15"),
        ({"image_size": 64.0}, "image_size must be an integer"),
        ({"factors": {"arm_colour": (0, 0, 0)}}, "unknown factor 'arm_colour'; the factors are arm_color"),
        ({"factors": {"arm_color": (0, 0, 256)}}, "arm_color must be three integers from 0 to 255"),
        ({"factors": {"arm_radius": 0.03}}, "arm_radius must be a number from 0.01 to 0.025, got 0.03"),
        ({"factors": {"arm_radius": float("nan")}}, "arm_radius must be a number from 0.01 to 0.025, got nan"),
        ({"factors": "red"}, "factors must be a mapping"),
    ],
)
def test_bad_arguments_are_told(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReacherEnv(**kwargs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": [1.0, 2.0]}, r"'state' must have shape \(4,\) .*, got shape \(2,\)"),
        ({"goal_state": [np.nan, 0.0, 0.0, 0.0]}, r"'goal_state' must be finite, .* got \[nan, 0.0, 0.0, 0.0\]"),
        ({"state": [0.0, 3.2, 0.0, 0.0]}, r"'state' must be finite, with a wrist angle in \[-pi, pi\] rad"),
        ({"state": [0.0, 0.0, 0.0, 21.0]}, r"velocities in \[-20, 20\] rad/s"),
        ({"goal": AT}, "unknown reset option 'goal'; the options are state, goal_state, factors"),
        ({"factors": [1]}, "reset option 'factors' must be a mapping"),
        ({"factors": {"size": 1}}, "unknown factor 'size'"),
    ],
)
def test_bad_options_are_told_and_leave_the_episode_alone(options: dict[str, Any], message: str) -> None:
    env = placed()
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    assert env.step(STAY)[4]["state"].tolist() == AT


@pytest.mark.parametrize(
    ("action", "message"), [([1.0], r"shape \(2,\), got shape \(1,\)"), ([np.nan, 0.0], "must be finite")]
)
def test_bad_actions_are_told(action: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        placed().step(action)


def test_frames_need_a_render_mode_and_everything_needs_a_reset() -> None:
    env = placed()
    for draw in (env.render, env.goal_frame):
        with pytest.raises(ValueError, match='frames need render_mode="rgb_array"'):
            draw()
    fresh = ReacherEnv(render_mode="rgb_array")
    for use in (fresh.render, fresh.goal_frame, lambda: fresh.step(STAY)):
        with pytest.raises(gym.error.ResetNeeded, match="call reset"):
            use()
