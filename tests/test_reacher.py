"""The reacher: dynamics, exact restore, goals and drawing."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm_agent.envs import mujoco_gl
from lewm_agent.envs.reacher.env import (
    WRIST_LIMIT,
    ReacherEnv,
    ReacherFactors,
    fingertip_position,
    joint_errors,
    wrapped_angle,
)

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


# States, goals, success


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
    hidden = {"arm_color": black, "hand_color": black, "background_color": black}
    factors = ReacherFactors(fingertip_color=(255, 255, 255), **hidden)  # the fingertip is all that can be seen
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
    colors = {"arm_color": blue, "hand_color": blue, "fingertip_color": white, "background_color": white}
    factors = ReacherFactors(**colors, arm_radius=0.01)
    plain, other = drawing(), drawing(factors=factors)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (20, 2))
    assert episode(other, actions).tobytes() == episode(plain, actions).tobytes()
    assert not np.array_equal(other.render(), plain.render())


# Errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"factors": {"arm_colour": (0, 0, 0)}}, r"unknown factor 'arm_colour'; the factors are .*arm_color"),
        ({"factors": {"arm_color": (0, 0, 256)}}, "arm_color must be three integers from 0 to 255"),
        ({"factors": {"arm_radius": 0.03}}, "arm_radius must be a number from 0.01 to 0.025, got 0.03"),
        ({"factors": {"arm_radius": float("nan")}}, "arm_radius must be a number from 0.01 to 0.025, got nan"),
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
    ],
)
def test_bad_options_are_told_and_leave_the_episode_alone(options: dict[str, Any], message: str) -> None:
    env = placed()
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    assert env.step(STAY)[4]["state"].tolist() == AT
