"""The Push-T world: released dynamics, exact restore, drawing and evaluation rules."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pymunk
import pytest

from lewm_agent.envs.push_t.env import PushTEnv
from lewm_agent.envs.push_t.simulation import Simulation, advance, distance_to_block, is_free, to_block, to_world
from lewm_agent.eval.worlds import push_t as push_t_rules

RIGHT, STAY = np.array([1.0, 0.0]), np.zeros(2)
GOAL = [400.0, 400.0, 120.0, 130.0, 0.5]


def state(*numbers: float) -> np.ndarray[Any, Any]:
    """Return a state at rest, or with the velocities given."""
    return np.array([*numbers, *[0.0] * (10 - len(numbers))])


def placed(start: Any, goal: Any = GOAL, **kwargs: Any) -> PushTEnv:
    env = PushTEnv(**kwargs)
    env.reset(seed=0, options={"state": state(*start), "goal_state": state(*goal)})
    return env


def pushing(seed: int, steps: int = 60) -> tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    """States and actions of an episode with much contact: the agent heads for places in and near the block."""
    env = PushTEnv(terminate_on_success=False)
    generator = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    states, actions = [info["state"]], []
    for _ in range(steps):
        aim = states[-1][2:4] + generator.normal(0.0, 60.0, 2) - states[-1][:2]
        actions.append(np.clip(aim / 100.0, -1.0, 1.0).astype(np.float32))
        states.append(env.step(actions[-1])[4]["state"])
    return states, actions


def test_sampled_states_cover_the_released_range_and_are_free() -> None:
    env = PushTEnv()
    infos = [env.reset(seed=seed)[1] for seed in range(300)]
    for name in ("state", "goal_state"):
        states = np.array([info[name] for info in infos])
        assert 50 <= states[:, :2].min() < 60
        assert 440 < states[:, :2].max() <= 450
        assert 100 <= states[:, 2:4].min() < 110
        assert 390 < states[:, 2:4].max() <= 400
        assert states[:, 4].min() < 0.2
        assert 6.0 < states[:, 4].max() < math.tau
        assert not states[:, 5:].any()
        assert all(is_free(each) for each in states)
    again = PushTEnv().reset(seed=7)[1]
    assert again["state"].tobytes() == infos[7]["state"].tobytes()
    assert again["goal_state"].tobytes() == infos[7]["goal_state"].tobytes()


def test_goal_at_the_mark() -> None:
    env = PushTEnv(block_goal="mark")
    agents = set()
    for seed in range(20):
        goal = env.reset(seed=seed, options={"factors": {"mark_pose": (200.0, 300.0, -1.0)}})[1]["goal_state"]
        np.testing.assert_allclose(goal[2:5], [200.0, 300.0, math.tau - 1.0])
        assert distance_to_block(goal[:2], goal[2:5]) >= 15.0
        agents.add(goal[0])
    assert len(agents) == 20


def test_a_free_agent_follows_its_controller() -> None:
    """The recurrence in numbers: 100 px ahead, 10 substeps of 10 ms."""
    position = speed = 0.0
    for _ in range(10):
        speed += (100.0 * (50.0 - position) - 20.0 * speed) * 0.01
        position += speed * 0.01
    after = placed([200.0, 400.0, 150.0, 150.0, 0.0]).step([0.5, 0.0])[4]["state"]
    np.testing.assert_allclose(
        after, [200.0 + position, 400.0, 150.0, 150.0, 0.0, speed, 0.0, 0.0, 0.0, 0.0], rtol=1e-12
    )
    clipped = placed([200.0, 400.0, 150.0, 150.0, 0.0]).step([7.0, 0.0])[4]["state"]
    full = placed([200.0, 400.0, 150.0, 150.0, 0.0]).step(RIGHT)[4]["state"]
    np.testing.assert_array_equal(clipped, full)


def test_pushing_the_middle_of_the_bar_moves_the_block_straight_and_its_end_turns_it() -> None:
    straight = placed([256.0, 230.0, 256.0, 250.0, 0.0])
    turning = placed([200.0, 230.0, 256.0, 250.0, 0.0])
    for _ in range(6):
        moved = straight.step([0.0, 0.5])[4]["state"]
        turned = turning.step([0.0, 0.5])[4]["state"]
    np.testing.assert_allclose([moved[2], math.remainder(moved[4], math.tau)], [256.0, 0.0], atol=1e-6)
    assert moved[3] - moved[1] == pytest.approx(15.0, abs=2.5)  # the disk touches the bar's edge
    assert moved[3] > 270.0
    assert math.remainder(turned[4], math.tau) < -0.3  # its left end was pushed down


def test_block_rests_when_nothing_pushes_and_walls_hold_it() -> None:
    env = placed([400.0, 400.0, 150.0, 150.0, 0.3])
    for _ in range(3):
        after = env.step([0.3, 0.3])[4]["state"]
    np.testing.assert_allclose(after[2:5], [150.0, 150.0, 0.3], atol=1e-9)
    env = placed([256.0, 170.0, 256.0, 40.0, 0.0])
    for _ in range(20):
        after = env.step([0.0, -0.05])[4]["state"]  # from below, against the stem
    top = to_world([(-60.0, 0.0), (60.0, 0.0)], after[2:5])[:, 1]
    np.testing.assert_allclose(top, 7.0, atol=1.5)


def test_dynamics_are_those_of_a_world_that_lives_on() -> None:
    """Against one pymunk world with the released masses and shapes, written out here."""
    space = pymunk.Space()
    space.damping = 0
    for ends in (((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506))):
        space.add(pymunk.Segment(space.static_body, *ends, 2))
    agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
    agent.position = (256, 400)
    space.add(agent, pymunk.Circle(agent, 15))
    bar, stem = [(-60, 30), (60, 30), (60, 0), (-60, 0)], [(-15, 30), (-15, 120), (15, 120), (15, 30)]
    block = pymunk.Body(1, 2 * pymunk.moment_for_poly(1, bar))
    shapes = [pymunk.Poly(block, corners) for corners in (bar, stem)]
    block.center_of_gravity = (0, 45)
    block.angle = 0.4
    block.position = (256, 230)
    space.add(block, *shapes)
    ours = placed([256.0, 400.0, 256.0, 230.0, 0.4])
    deviations = []
    for step in range(25):
        action = (0.08 * math.sin(step / 4), -0.3)
        target = agent.position + 100 * pymunk.Vec2d(*action)
        for _ in range(10):
            agent.velocity += (100 * (target - agent.position) - 20 * agent.velocity) * 0.01
            space.step(0.01)
        after = ours.step(action)[4]["state"]
        deviations.append(
            math.dist(after[2:4], block.position) + 60 * abs(math.remainder(after[4] - block.angle, math.tau))
        )
    assert math.dist(block.position, (256, 230)) > 60
    assert max(deviations) < 1.0
    np.testing.assert_allclose(after[:2], agent.position, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_state_replays_bit_for_bit_in_contact_or_not(seed: int) -> None:
    states, actions = pushing(seed)
    contact = [distance_to_block(each[:2], each[2:5]) < 15.5 for each in states]
    starts = [0, contact[5:35].index(True) + 5, contact[5:35].index(False) + 5]
    env = PushTEnv(terminate_on_success=False)
    for start in starts:
        _, info = env.reset(seed=99, options={"state": states[start]})
        replay = [info["state"]] + [env.step(action)[4]["state"] for action in actions[start : start + 25]]
        assert np.array(replay).tobytes() == np.array(states[start : start + 26]).tobytes()


def test_released_states_of_seven_numbers_are_taken_with_the_block_at_rest() -> None:
    released = np.array([200.0, 210.0, 300.0, 310.0, -0.5, 3.0, -4.0])
    _, info = PushTEnv().reset(options={"state": released, "goal_state": released})
    assert info["state"].tolist() == [200.0, 210.0, 300.0, 310.0, math.tau - 0.5, 3.0, -4.0, 0.0, 0.0, 0.0]
    assert info["state"].tolist() == info["goal_state"].tolist()
    assert info["is_success"] is True


def test_info_names_what_the_state_holds() -> None:
    env = placed([256.0, 225.0, 256.0, 250.0, 0.1])
    observation, reward, _, _, info = env.step([0.1, 0.6])
    assert list(info["physics"].values()) == info["state"].tolist()
    assert info["physics"]["block_y"] == info["state"][3]
    assert info["physics"]["block_velocity_y"] > 1.0
    np.testing.assert_allclose(observation, np.concatenate([info["state"][:7], GOAL]), rtol=1e-6)
    assert info["distance"] == pytest.approx(np.linalg.norm(info["state"][:4] - GOAL[:4]))
    assert info["angle_error"] == pytest.approx(abs(info["state"][4] - 0.5))
    assert reward == -info["distance"] / 512


@pytest.mark.parametrize(
    ("kwargs", "start", "success"),
    [
        ({}, [400.0, 400.0, 139.9, 130.0, 0.5], True),
        ({}, [400.0, 400.0, 140.1, 130.0, 0.5], False),
        ({}, [414.2, 400.0, 120.0, 144.2, 0.5], False),  # 14.2 px each, 20.1 px together
        ({}, [400.0, 400.0, 120.0, 130.0, 0.5 + math.radians(19.9)], True),
        ({}, [400.0, 400.0, 120.0, 130.0, 0.5 - math.radians(20.1)], False),
        ({}, [400.0, 400.0, 120.0, 130.0, 0.5 + math.tau - 0.01], True),
        ({"success_radius": 30.0}, [400.0, 400.0, 140.1, 130.0, 0.5], True),
        ({"success_angle": 0.1}, [400.0, 400.0, 120.0, 130.0, 0.65], False),
    ],
)
def test_success_takes_agent_block_and_angle_around_the_circle(
    kwargs: dict[str, Any], start: list[float], success: bool
) -> None:
    info = placed(start, **kwargs).reset(options={"state": state(*start), "goal_state": state(*GOAL)})[1]
    assert info["is_success"] is success
    assert placed(start, **kwargs).step(STAY)[2] is success
    assert placed(start, terminate_on_success=False, **kwargs).step(STAY)[2] is False
    if not kwargs:
        assert push_t_rules.near_goal(info["state"][None], info["goal_state"])[0] == success


def test_success_counts_angles_across_the_turn() -> None:
    nearly = [400.0, 400.0, 120.0, 130.0, math.tau - 0.1]
    info = PushTEnv().reset(options={"state": state(*nearly), "goal_state": state(400.0, 400.0, 120.0, 130.0, 0.1)})[1]
    assert info["angle_error"] == pytest.approx(0.2)
    assert info["is_success"] is True


def test_an_environment_pickled_in_contact_continues_alike() -> None:
    env = placed([256.0, 225.0, 256.0, 250.0, 0.1])
    env.step([0.0, 0.6])
    copied = pickle.loads(pickle.dumps(env))
    ours, theirs = (each.step([0.2, 0.6])[4]["state"] for each in (env, copied))
    assert ours.tobytes() == theirs.tobytes()


def test_geometry_of_the_block() -> None:
    pose = (200.0, 300.0, 1.1)
    there = to_world([(10.0, -20.0)], pose)[0]
    np.testing.assert_allclose(to_block(there, pose), (10.0, -20.0), atol=1e-9)
    for point, expected in (((0.0, -7.0), 7.0), ((63.0, 34.0), 5.0), ((0.0, 60.0), 0.0), ((25.0, 60.0), 10.0)):
        assert distance_to_block(to_world([point], pose)[0], pose) == pytest.approx(expected, abs=1e-9)
    simulation = Simulation()
    simulation.restore(state(50.0, 50.0, *pose))
    np.testing.assert_allclose(simulation.state[:5], [50.0, 50.0, *pose], rtol=1e-12)
    assert not is_free(state(400.0, 400.0, 100.0, 30.0, math.pi))  # the stem reaches through the wall
    assert not is_free(state(200.0, 290.0, *pose))
    assert advance(state(50.0, 50.0, *pose), [0.0, 0.0])[:4].tolist() == pytest.approx([50.0, 50.0, 200.0, 300.0])


def test_frame_shows_agent_block_mark_walls_and_floor_where_they_are() -> None:
    frame = placed([100.0, 400.0, 380.0, 100.0, 0.0], render_mode="rgb_array", image_size=512).render()

    def color(x: float, y: float) -> list[int]:
        return frame[int(y), int(x)].tolist()

    assert color(100, 400) == [78, 126, 255]  # inside of the agent, 1.2 times (65, 105, 225)
    assert color(380, 115) == color(380, 180) == [142, 163, 183]
    assert color(380, 99) == color(380, 221) == color(319, 115) == color(441, 115) == [119, 136, 153]
    assert color(380, 96) == color(380, 224) == color(316, 115) == color(444, 115) == [255, 255, 255]
    assert color(87, 400) == color(112, 400) == [65, 105, 225]
    assert color(83, 400) == color(116, 400) == [255, 255, 255]
    assert color(256 - 40, 256 + 40) == [144, 238, 144]
    assert color(340, 180) == color(380, 90) == [255, 255, 255]
    assert color(256, 5) == color(5, 256) == [211, 211, 211]


@pytest.mark.parametrize("size", [16, 64, 100, 300])
def test_frames_of_any_size_show_the_same(size: int) -> None:
    start = [100.0, 400.0, 380.0, 130.0, 0.7]
    small = placed(start, render_mode="rgb_array", image_size=size).render()
    large = placed(start, render_mode="rgb_array", image_size=size * 4).render()
    assert small.shape == (size, size, 3)
    assert small.dtype == np.uint8
    average = large.reshape(size, 4, size, 4, 3).mean(axis=(1, 3))
    assert np.abs(average - small).mean() < 2.0


def test_an_agent_far_outside_is_not_seen_but_drawn_without_error() -> None:
    outside = placed([1e9, -1e12, 300.0, 300.0, 0.0], render_mode="rgb_array").render()
    beside = placed([-40.0, 256.0, 300.0, 300.0, 0.0], render_mode="rgb_array").render()
    np.testing.assert_array_equal(outside, beside)


def test_drawing_needs_no_display_and_is_silent() -> None:
    script = (
        "import os, sys\n"
        "from lewm_agent.envs.push_t.env import PushTEnv\n"
        "assert 'pygame' not in sys.modules\n"
        "env = PushTEnv(render_mode='rgb_array'); env.reset(seed=0)\n"
        "assert env.render().std() > 0\n"
        "import pygame\n"
        "assert not pygame.display.get_init() and 'SDL_VIDEODRIVER' not in os.environ\n"
    )
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([sys.executable, "-c", script], check=True, env=env, capture_output=True, text=True)
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"block_goal": "fixed"}, "block_goal must be 'random' or 'mark', got 'fixed'"),
        ({"success_radius": 0.0}, "success_radius must be a positive number of pixels, got 0.0"),
        ({"success_angle": 4.0}, "success_angle must be an angle above 0 and at most pi, in rad, got 4.0"),
        ({"factors": {"agent_colour": (0, 0, 0)}}, r"unknown factor 'agent_colour'; the factors are .*agent_color"),
        ({"factors": {"block_color": (0, 0, 256)}}, "block_color must be three integers from 0 to 255"),
        ({"factors": {"mark_pose": (0.0, 1.0)}}, "mark_pose must be three finite numbers"),
        ({"factors": {"mark_visible": "no"}}, "mark_visible must be True or False, got 'no'"),
    ],
)
def test_bad_arguments_are_told(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PushTEnv(**kwargs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": [1.0, 2.0, 3.0]}, r"'state' must have shape \(10,\), or \(7,\) .*, got shape \(3,\)"),
        ({"goal_state": [np.nan] * 10}, "'goal_state' must be finite"),
    ],
)
def test_bad_options_are_told_and_leave_the_episode_alone(options: dict[str, Any], message: str) -> None:
    env = placed([60.0, 60.0, 300.0, 300.0, 0.0])
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    assert env.step(STAY)[4]["state"][:2].tolist() == [60.0, 60.0]


def test_strict_rule_wants_the_block_alone_for_three_states_in_a_row() -> None:
    goal = state(*GOAL)
    on, off = state(0.0, 0.0, 129.0, 130.0, 0.5 + math.radians(9.9)), state(0.0, 0.0, 131.0, 130.0, 0.5)
    turned = state(0.0, 0.0, 120.0, 130.0, 0.5 + math.radians(10.1))
    visited = np.array([on, on, off, on, on, on, on, turned, on, on, on])
    expected = [False] * 5 + [True, True] + [False] * 3 + [True]
    assert push_t_rules.block_stays_at_goal(visited, goal).tolist() == expected
    assert push_t_rules.block_stays_at_goal(visited[:2], goal).tolist() == [False, False]


def test_pairs_that_are_solved_at_the_start_do_not_count() -> None:
    goal, near, far = state(*GOAL), state(405.0, 400.0, 125.0, 130.0, 0.5), state(440.0, 400.0, 125.0, 130.0, 0.5)
    for start, moderate, strict in ((near, False, False), (far, True, False), (state(*GOAL[:4], 1.0), True, True)):
        window = np.array([start, *[goal] * 25])
        assert push_t_rules.unsolved_start(window) is moderate
        assert push_t_rules.block_unsolved_start(window) is strict


def test_rest_keeps_positions_and_angle() -> None:
    moving = np.arange(1.0, 11.0)
    assert push_t_rules.at_rest(moving).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert moving[5] == 6.0
