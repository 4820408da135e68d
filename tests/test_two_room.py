"""The two-room world: motion, exact restore, geometry and drawing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lewm_agent.envs import TwoRoomEnv, environment_id
from lewm_agent.envs.two_room.geometry import (
    Geometry,
    count_legal_crossings,
    disk_is_clear,
    move_swept,
    nearest_clear,
    route_is_clear,
    segment_is_clear,
)

RIGHT, LEFT, STAY = np.array([1.0, 0.0]), np.array([-1.0, 0.0]), np.zeros(2)
BOTH_AXES = pytest.mark.parametrize("wall_axis", ["vertical", "horizontal"])


def placed(position: Any, goal: Any = (180.0, 180.0), **kwargs: Any) -> TwoRoomEnv:
    env = TwoRoomEnv(**kwargs)
    env.reset(seed=0, options={"state": np.array(position, dtype=float), "goal_state": np.array(goal, dtype=float)})
    return env


def along(wall_axis: str, across: float, beside: float) -> list[float]:
    """Return xy from the coordinates across and along the wall."""
    return [across, beside] if wall_axis == "vertical" else [beside, across]


def overlap(position: np.ndarray, radius: float, door: float = 49.0) -> float:
    """How deep, px, a disk reaches into the vertical wall or the border; written without the code under test."""
    x, y = position
    depth = max(14 + radius - x, x - (210 - radius), 14 + radius - y, y - (210 - radius))
    for y_min, y_max in ((0.0, door - 14), (door + 14, 224.0)):
        gap = math.hypot(max(107 - x, 0, x - 117), max(y_min - y, 0, y - y_max))
        depth = max(depth, radius - gap)
    return float(depth)


def test_names_of_environments() -> None:
    assert environment_id("two_room") == environment_id("lewm/TwoRoom-v0") == "lewm/TwoRoom-v0"
    assert environment_id("CartPole-v1") == "CartPole-v1"
    with pytest.raises(ValueError, match="no environment `two_rom`; did you mean `two_room`"):
        environment_id("two_rom")
    with pytest.raises(ValueError, match="did you mean `lewm/TwoRoom-v0`"):
        environment_id("lewm/TwoRoom-v7")
    with pytest.raises(ValueError, match=r"this package has .*two_room"):
        environment_id("xyz")


@BOTH_AXES
def test_sampled_states_cover_the_released_range_and_starts_avoid_the_wall_band(wall_axis: str) -> None:
    env = TwoRoomEnv(factors={"wall_axis": wall_axis})
    infos = [env.reset(seed=seed)[1] for seed in range(400)]
    starts = np.array([info["state"] for info in infos])
    goals = np.array([info["goal_state"] for info in infos])
    across = 0 if wall_axis == "vertical" else 1
    assert not np.any((starts[:, across] >= 100) & (starts[:, across] <= 124))
    assert np.any((goals[:, across] >= 100) & (goals[:, across] <= 124))
    for states in (starts, goals):
        assert 14 <= states.min() < 21
        assert 203 < states.max() <= 209


def test_a_step_moves_five_pixels_per_unit_and_clips_the_action() -> None:
    env = placed([50.0, 150.0])
    _, reward, _, _, info = env.step(np.array([0.5, -3.0]))
    assert info["state"].tolist() == [52.5, 145.0]
    assert info["physics"] == {"agent_x": 52.5, "agent_y": 145.0, "velocity_x": 2.5, "velocity_y": -5.0}
    assert info["distance"] == math.dist([52.5, 145.0], [180.0, 180.0])
    assert reward == -info["distance"] / 224


def test_success_is_nearer_than_the_radius_and_may_not_terminate() -> None:
    for kwargs, position, success, terminated in (
        ({}, [164.0, 180.0], False, False),  # exactly 16 px
        ({}, [164.01, 180.0], True, True),
        ({"success_radius": 8.0}, [164.01, 180.0], False, False),
        ({"terminate_on_success": False}, [164.01, 180.0], True, False),
    ):
        _, _, ended, _, info = placed(position, **kwargs).step(STAY)
        assert (info["is_success"], ended) == (success, terminated)


@pytest.mark.parametrize("collision", ["released", "swept"])
def test_restored_state_replays_bit_for_bit(collision: Any) -> None:
    env = TwoRoomEnv(collision=collision)
    _, info = env.reset(seed=1)
    actions = np.random.default_rng(2).normal(0.4, 1.0, (60, 2)).astype(np.float32)
    recorded = [info["state"]] + [env.step(action)[4]["state"] for action in actions]
    again = TwoRoomEnv(collision=collision)
    for start in (0, 17, 40):
        _, restored = again.reset(seed=99, options={"state": recorded[start], "goal_state": info["goal_state"]})
        replay = [restored["state"]] + [again.step(action)[4]["state"] for action in actions[start:]]
        assert np.array(replay).tobytes() == np.array(recorded[start:]).tobytes()
        assert restored["goal_state"].tobytes() == info["goal_state"].tobytes()


@BOTH_AXES
@pytest.mark.parametrize("collision", ["released", "swept"])
def test_wall_blocks_and_door_passes(wall_axis: str, collision: str) -> None:
    forward = np.array(along(wall_axis, 1.0, 0.0))
    for door, beside, passes in ((49.0, 150.0, False), (49.0, 49.0, True), (150.0, 150.0, True), (150.0, 49.0, False)):
        env = placed(
            along(wall_axis, 80.0, beside), collision=collision, factors={"wall_axis": wall_axis, "door_position": door}
        )
        for _ in range(12):
            info = env.step(forward)[4]
        assert (env.geometry.room(info["state"]) == 1) == passes


def test_released_collision_looks_at_the_end_point_only() -> None:
    into_wall = placed([98.0, 150.0])
    assert into_wall.step(RIGHT)[4]["state"].tolist() == [99.5, 150.0]
    from_the_right = placed([126.0, 150.0])
    assert from_the_right.step(LEFT)[4]["state"].tolist() == [124.5, 150.0]
    for beside, across in ((64.75, 103.0), (64.76, 99.5), (33.25, 103.0), (33.24, 99.5)):
        clips_the_edge = placed([98.0, beside])  # the disk's center passes beside the door, its rim does not
        assert clips_the_edge.step(RIGHT)[4]["state"].tolist() == [across, beside]
    corner = placed([205.0, 14.0])
    assert corner.step(STAY)[4]["state"].tolist() == [203.0, 21.0]


@pytest.mark.parametrize(("radius", "door"), [(7.0, 49.0), (13.0, 49.0), (7.0, 196.0), (4.0, 120.0)])
def test_swept_disk_never_overlaps(radius: float, door: float) -> None:
    env = TwoRoomEnv(collision="swept", factors={"agent_radius": radius, "door_position": door})
    generator = np.random.default_rng(0)
    _, info = env.reset(seed=0)
    previous, contacts, rooms = info["state"], 0, set()
    for step in range(2000):
        if step % 20 == 0:
            pull = (env.geometry.door_center - previous) / 40 + generator.normal(0.0, 0.8, 2)
        state = env.step(pull + generator.normal(0.0, 0.5, 2))[4]["state"]
        depths = [overlap(previous + part * (state - previous), radius, door) for part in np.linspace(0, 1, 15)]
        assert max(depths) < 1e-5
        assert segment_is_clear(previous, state, env.geometry)
        contacts += overlap(state, radius, door) > -1e-3
        rooms.add(env.geometry.room(state))
        previous = state
    assert contacts > 50
    assert rooms == {0, 1}


def test_swept_disk_slides_along_the_wall_and_around_the_door_edge() -> None:
    env = placed([99.0, 150.0], collision="swept")
    state = env.step(np.array([1.0, -1.0]))[4]["state"]
    np.testing.assert_allclose(state, [100.0, 145.0], atol=1e-4)
    for _ in range(60):
        state = env.step(np.array([1.0, -1.0 if state[1] > 52 else 0.0]))[4]["state"]
    assert state[0] > 124


def test_swept_disk_put_into_the_wall_is_first_moved_out() -> None:
    geometry = Geometry()
    for position in ([112.5, 150.0], [103.0, 100.0], [110.0, 60.0], [15.0, 216.0]):
        assert not disk_is_clear(position, geometry)
        assert disk_is_clear(nearest_clear(position, geometry), geometry)
    start = np.array([103.0, 150.0])
    np.testing.assert_allclose(move_swept(start, start, geometry), [100.0, 150.0], atol=1e-4)


def test_clearance_of_disks_segments_and_routes() -> None:
    geometry = Geometry()
    assert disk_is_clear([100.0, 150.0], geometry)
    assert not disk_is_clear([100.1, 150.0], geometry)
    assert disk_is_clear([112.0, 56.0], geometry)
    assert not disk_is_clear([112.0, 56.1], geometry)
    assert not disk_is_clear([20.9, 150.0], geometry)
    assert segment_is_clear([90.0, 49.0], [130.0, 49.0], geometry)
    assert not segment_is_clear([90.0, 150.0], [130.0, 150.0], geometry)  # both ends are clear
    before_the_edge, behind_it = [100.0, 62.0], [107.0, 56.0]
    assert disk_is_clear(before_the_edge, geometry)
    assert disk_is_clear(behind_it, geometry)
    assert not segment_is_clear(before_the_edge, behind_it, geometry)
    there_and_back = [[95.0, 49.0], [130.0, 49.0], [95.0, 49.0]]
    assert route_is_clear(there_and_back, geometry)
    assert count_legal_crossings(there_and_back, geometry) == 2
    through_the_wall = [[95.0, 150.0], [130.0, 150.0]]
    assert not route_is_clear(through_the_wall, geometry)
    assert count_legal_crossings(through_the_wall, geometry) == 0


@pytest.mark.parametrize("seed", range(3))
def test_clearance_agrees_with_fine_sampling(seed: int) -> None:
    generator = np.random.default_rng(seed)
    geometry = Geometry()
    outcomes = set()
    for _ in range(300):
        start, end = generator.uniform([90, 25], [134, 75], (2, 2))
        deepest = max(overlap(start + part * (end - start), 7.0) for part in np.linspace(0, 1, 400))
        if abs(deepest) > 1e-2:  # sampling cannot decide closer calls
            assert segment_is_clear(start, end, geometry) == (deepest < 0)
            outcomes.add(deepest < 0)
    assert outcomes == {True, False}


def test_frame_at_224_pixels_is_the_released_picture() -> None:
    frame = placed([60.0, 150.0], render_mode="rgb_array").render()
    expected = np.full((224, 224, 3), 255, dtype=np.uint8)
    expected[:, 107:118] = 0
    expected[35:64, 107:118] = 255
    for line in (slice(10, 14), slice(210, 214)):
        expected[line] = expected[:, line] = 0
    rows, columns = np.mgrid[:224, :224]
    alpha = np.exp(-((columns - 60) ** 2 + (rows - 150) ** 2) / (2 * 7.0**2))[..., None]
    blended = np.rint(expected * (1 - alpha) + np.array([255, 0, 0]) * alpha)
    assert np.abs(frame.astype(int) - blended).max() <= 1
    assert frame[150, 60].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [32, 64, 112])
@pytest.mark.parametrize(
    ("low", "high", "tolerance"), [([45, 90], [75, 175], 2), ([21, 21], [203, 203], 20)], ids=["floor", "anywhere"]
)
def test_small_frames_are_the_area_average_of_the_large_one(
    size: int, low: list[float], high: list[float], tolerance: int
) -> None:
    block = 448 // size
    for position in np.random.default_rng(0).uniform(low, high, (20, 2)):
        doubled = np.kron(placed(position, render_mode="rgb_array").render(), np.ones((2, 2, 1)))
        average = doubled.reshape(size, block, size, block, 3).mean(axis=(1, 3))
        small = placed(position, render_mode="rgb_array", image_size=size).render()
        error = np.abs(average - small)
        assert error.mean() < 0.3
        assert error.max() <= tolerance


def test_color_of_the_agent() -> None:
    env = placed([50.0, 60.0], render_mode="rgb_array", factors={"agent_color": (10, 20, 230)})
    assert env.render()[60, 50].tolist() == [10, 20, 230]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"collision": "soft"}, "collision must be 'released' or 'swept', got 'soft'"),
        ({"success_radius": 0.0}, "success_radius must be a positive number"),
        ({"factors": {"agent_colour": (0, 0, 0)}}, r"unknown factor 'agent_colour'; the factors are .*agent_color"),
        ({"factors": {"agent_color": (0, 0, 256)}}, "agent_color must be three integers from 0 to 255"),
        ({"factors": {"door_position": 10}}, "door_position must be a number from 28 to 196, got 10"),
        ({"factors": {"agent_radius": float("nan")}}, "agent_radius must be a number from 4 to 13, got nan"),
        ({"factors": {"wall_axis": "x"}}, "wall_axis must be 'vertical' or 'horizontal', got 'x'"),
    ],
)
def test_bad_arguments_are_told(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwoRoomEnv(**kwargs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": [1.0, 2.0, 3.0]}, r"'state' must have shape \(2,\) .*, got shape \(3,\)"),
        ({"goal_state": [np.nan, 50.0]}, r"'goal_state' must lie in \[0, 223\] px, got \[nan, 50.0\]"),
        ({"state": [50.0, 224.0]}, r"'state' must lie in \[0, 223\] px"),
    ],
)
def test_bad_options_are_told_and_leave_the_episode_alone(options: dict[str, Any], message: str) -> None:
    env = placed([50.0, 60.0])
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    assert env.step(STAY)[4]["state"].tolist() == [50.0, 60.0]
