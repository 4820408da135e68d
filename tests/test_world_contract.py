"""What every world of this package keeps: Gymnasium's contract, exact restore, goal frames, factors and errors."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as stable_baselines_check_env

from lewm_agent.envs import ENVIRONMENTS, TwoRoomEnv
from lewm_agent.envs.cube.env import CubeEnv
from lewm_agent.envs.push_t.env import PushTEnv
from lewm_agent.envs.reacher.env import ReacherEnv
from lewm_agent.envs.wrappers import make_pixel_env


@dataclass(frozen=True)
class World:
    """One world, and what is its own in these tests."""

    make: Callable[..., Any]
    steps: int
    """After which an episode is truncated."""
    quantity: str
    """One of its physical quantities."""
    variants: tuple[dict[str, Any], ...]
    """Arguments with which it passes the environment checkers too."""
    factors: tuple[dict[str, Any], ...]
    """Changes that can be seen."""
    all_visible: dict[str, Any]
    """Arguments with which all factors can be seen."""


WORLDS = {
    "two_room": World(
        TwoRoomEnv,
        100,
        "agent_x",
        ({"collision": "swept"}, {"factors": {"wall_axis": "horizontal"}}),
        (
            {"agent_color": (0, 0, 255)},
            {"background_color": [200, 220, 255]},
            {"wall_color": (0, 90, 0)},
            {"agent_radius": 10.0},
            {"door_position": 150.0},
            {"wall_axis": "horizontal"},
        ),
        {},
    ),
    "push_t": World(
        PushTEnv,
        200,
        "agent_x",
        ({"block_goal": "mark"},),
        (
            {"agent_color": (0, 200, 0)},
            {"block_color": [200, 0, 0]},
            {"background_color": (200, 220, 255)},
            {"mark_color": (255, 255, 0)},
            {"mark_pose": (150.0, 350.0, 1.0)},
            {"mark_visible": False},
        ),
        {},
    ),
    "reacher": World(
        ReacherEnv,
        200,
        "fingertip_x",
        ({"wrap_shoulder": False},),
        (
            {"arm_color": (0, 0, 255)},
            {"hand_color": [0, 200, 0]},
            {"fingertip_color": (255, 255, 255)},
            {"background_color": (200, 220, 255)},
            {"arm_radius": 0.01},
        ),
        {},
    ),
    "cube": World(
        CubeEnv,
        200,
        "cube_x",
        ({"cubes": 3, "terminate_on_success": True},),
        (
            {"cube_color": (0, 0, 255)},
            {"second_cube_color": [255, 255, 255]},
            {"floor_color": (200, 220, 255)},
            {"light_color": (255, 120, 60)},
        ),
        {"cubes": 2},
    ),
}
EVERY_WORLD = pytest.mark.parametrize("name", WORLDS)


@pytest.fixture
def begun() -> Iterator[Callable[..., Any]]:
    """Makes environments in an episode of seed 0, with other options where given, and closes them."""
    made: list[Any] = []

    def make(name: str, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        made.append(WORLDS[name].make(**kwargs))
        made[-1].reset(seed=0, options=options)
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture
def drawing(begun: Callable[..., Any]) -> Callable[..., Any]:
    """The same, with frames."""

    def make(name: str, options: dict[str, Any] | None = None, image_size: int = 64, **kwargs: Any) -> Any:
        return begun(name, options, render_mode="rgb_array", image_size=image_size, **kwargs)

    return make


def states(env: Any, steps: int = 10) -> np.ndarray[Any, Any]:
    """States that random actions lead to, always the same ones."""
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (steps, *env.action_space.shape))
    return np.array([env.step(action)[4]["state"] for action in actions])


def ends_of(name: str, **kwargs: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Start and goal of the episode of seed 0."""
    info = WORLDS[name].make(**kwargs).reset(seed=0)[1]
    return {"state": info["state"], "goal_state": info["goal_state"]}


def test_no_world_is_left_out() -> None:
    assert set(WORLDS) == set(ENVIRONMENTS)


# Gymnasium


@pytest.mark.parametrize(
    ("name", "kwargs"), [(name, kwargs) for name, world in WORLDS.items() for kwargs in ({}, *world.variants)]
)
def test_passes_both_environment_checkers(name: str, kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if name == "push_t":  # its walls do not stop the agent, so there is no bound
            warnings.filterwarnings("ignore", message=".*infinity")
        gymnasium_check_env(gym.make(ENVIRONMENTS[name], **kwargs).unwrapped)
        env = gym.make(ENVIRONMENTS[name], render_mode="rgb_array", image_size=64, **kwargs)
        stable_baselines_check_env(env)
        env.close()


@EVERY_WORLD
def test_is_made_by_its_qualified_id_and_truncated_after_its_steps(name: str) -> None:
    env = gym.make(f"lewm_agent.envs:{ENVIRONMENTS[name]}", terminate_on_success=False)
    env.reset(seed=0)
    steps = WORLDS[name].steps
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(steps)]
    assert ends == [(False, False)] * (steps - 1) + [(False, True)]


# A fork after drawing hangs, so processes are spawned.
@pytest.mark.parametrize(("mode", "vector_kwargs"), [("sync", {}), ("async", {"context": "spawn"})])
@EVERY_WORLD
def test_rows_of_a_vectorized_environment_equal_single_ones(name: str, mode: Any, vector_kwargs: Any) -> None:
    drawn: dict[str, Any] = {"render_mode": "rgb_array", "image_size": 32}
    vector: Any = gym.make_vec(
        ENVIRONMENTS[name], num_envs=2, vectorization_mode=mode, vector_kwargs=vector_kwargs, **drawn
    )
    single = gym.make(ENVIRONMENTS[name], **drawn)
    quantity = WORLDS[name].quantity
    try:
        observations, info = vector.reset(seed=[5, 6])
        expected, expected_info = single.reset(seed=6)
        np.testing.assert_array_equal(observations[1], expected)
        np.testing.assert_array_equal(info["state"][1], expected_info["state"])
        action = np.linspace(0.3, -0.4, num=single.action_space.sample().size, dtype=np.float32)
        observations, rewards, *_, info = vector.step(np.stack([action, action]))
        expected, reward, *_, expected_info = single.step(action)
        np.testing.assert_array_equal(observations[1], expected)
        assert rewards[1] == reward
        assert info["physics"][quantity][1] == expected_info["physics"][quantity]
        np.testing.assert_array_equal(vector.render()[1], single.render())
    finally:
        vector.close()
        single.close()


@EVERY_WORLD
def test_pixels_come_from_the_wrappers(name: str) -> None:
    env = make_pixel_env(name, image_size=32)
    observation, _ = env.reset(seed=0)
    assert observation["pixels"].shape == observation["goal"].shape == (32, 32, 3)
    assert not np.array_equal(observation["pixels"], observation["goal"])
    env.close()


def test_only_the_worlds_that_need_mujoco_import_it() -> None:
    program = (
        "import sys, gymnasium; from lewm_agent.envs import cube, reacher; "
        "from lewm_agent.agents.behavior import cube_expert, reacher_expert; from lewm_agent.eval.worlds import cube; "
        "gymnasium.make('lewm/TwoRoom-v0'); gymnasium.make('lewm/PushT-v0'); "
        "assert not {'mujoco', 'OpenGL', 'ogbench', 'dm_control'} & {name.split('.')[0] for name in sys.modules}"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# States


@EVERY_WORLD
def test_seed_decides_start_and_goal(name: str) -> None:
    first, second, other = (WORLDS[name].make().reset(seed=seed)[1] for seed in (3, 3, 4))
    assert first["state"].tobytes() == second["state"].tobytes()
    assert first["goal_state"].tobytes() == second["goal_state"].tobytes()
    assert not np.array_equal(first["state"], other["state"])
    assert not np.array_equal(first["state"], first["goal_state"])


@EVERY_WORLD
def test_info_and_options_do_not_share_memory_with_the_environment(name: str, begun: Callable[..., Any]) -> None:
    env, options = begun(name), ends_of(name)
    info = env.reset(options=options)[1]
    for array in (*options.values(), info["state"], info["goal_state"]):
        array[:] = 0.0
    undisturbed = begun(name, ends_of(name))
    assert states(env).tobytes() == states(undisturbed).tobytes()
    stay = np.zeros(env.action_space.shape)
    assert env.step(stay)[4]["goal_state"].tobytes() == ends_of(name)["goal_state"].tobytes()


@EVERY_WORLD
def test_a_pickled_environment_continues_alike(name: str, drawing: Callable[..., Any]) -> None:
    env = drawing(name)
    states(env, 3)
    frame = env.render()
    copied = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(copied.render(), frame)
    copied.close()
    assert states(copied).tobytes() == states(env).tobytes()


# Frames


@pytest.mark.parametrize("size", [16, 64, 224, 300])
@EVERY_WORLD
def test_goal_frame_is_the_frame_at_the_goal_and_disturbs_nothing(
    name: str, size: int, begun: Callable[..., Any], drawing: Callable[..., Any]
) -> None:
    env, undisturbed = drawing(name, image_size=size), begun(name)
    at_goal = drawing(name, {"state": ends_of(name)["goal_state"]}, image_size=size)
    assert env.goal_frame().shape == (size, size, 3)
    assert env.goal_frame().dtype == np.uint8
    np.testing.assert_array_equal(env.goal_frame(), at_goal.render())
    assert not np.array_equal(env.goal_frame(), env.render())
    before = env.render()
    env.goal_frame()
    np.testing.assert_array_equal(env.render(), before)
    assert states(env).tobytes() == states(undisturbed).tobytes()


@pytest.mark.parametrize("size", [64, 128])
@EVERY_WORLD
def test_a_returned_frame_may_be_written_to(name: str, size: int, drawing: Callable[..., Any]) -> None:
    env = drawing(name, image_size=size)
    first = env.render()
    kept = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(env.render(), kept)


@pytest.mark.parametrize(
    ("name", "change"), [(name, change) for name, world in WORLDS.items() for change in world.factors]
)
def test_every_factor_changes_the_picture_by_each_way_of_setting_it(
    name: str, change: dict[str, Any], drawing: Callable[..., Any]
) -> None:
    kwargs = WORLDS[name].all_visible
    options: dict[str, Any] = dict(ends_of(name, **kwargs))
    env = drawing(name, options, **kwargs)
    plain = env.render()
    env.set_factors(**change)
    changed = env.render()
    assert np.abs(changed.astype(int) - plain).max() > 50
    env.reset(options=options)
    np.testing.assert_array_equal(env.render(), plain)  # a reset undoes it
    env.reset(options={**options, "factors": change})
    np.testing.assert_array_equal(env.render(), changed)
    built = drawing(name, options, factors=type(env.factors)(**change), **kwargs)
    np.testing.assert_array_equal(built.render(), changed)


@EVERY_WORLD
def test_drawn_looks_differ_and_change_nothing_else(name: str, drawing: Callable[..., Any]) -> None:
    plain, drawn = drawing(name), drawing(name, drawn_looks=True)
    for env in (plain, drawn):
        env.reset(seed=3)
    look = drawn.factors
    assert look != plain.factors and states(drawn).tobytes() == states(plain).tobytes()
    assert np.abs(drawn.render().astype(int) - plain.render()).max() > 5
    drawn.reset(seed=4)
    assert drawn.factors not in (look, plain.factors)
    drawn.reset(seed=3)
    assert drawn.factors == look
    drawn.reset(options={"factors": {}})
    assert drawn.factors == plain.factors


# Errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array', got 'human'"),
        ({"drawn_looks": 1}, "drawn_looks must be True or False, got 1"),
        ({"image_size": 15}, "image_size must be an integer of at least 16, got 15"),
        ({"image_size": 64.0}, "image_size must be an integer"),
        ({"factors": {"colour": (0, 0, 0)}}, "unknown factor 'colour'; the factors are "),
        ({"factors": "red"}, "factors must be a mapping"),
    ],
)
@EVERY_WORLD
def test_bad_arguments_are_told(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WORLDS[name].make(**kwargs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": [1.0]}, r"'state' must have shape .*, got shape \(1,\)"),
        ({"goal": [0.0]}, "unknown reset option 'goal'; the options are state, goal_state, factors"),
        ({"factors": [1]}, "reset option 'factors' must be a mapping"),
        ({"factors": {"size": 1}}, "unknown factor 'size'"),
    ],
)
@EVERY_WORLD
def test_bad_options_are_told_and_leave_the_episode_alone(
    name: str, options: dict[str, Any], message: str, begun: Callable[..., Any]
) -> None:
    env, undisturbed = begun(name), begun(name)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    with pytest.raises(ValueError, match="'goal_state' must "):
        env.reset(options={"goal_state": np.full_like(ends_of(name)["goal_state"], np.nan)})
    assert states(env, 1).tobytes() == states(undisturbed, 1).tobytes()


@EVERY_WORLD
def test_bad_actions_are_told(name: str, begun: Callable[..., Any]) -> None:
    env = begun(name)
    (width,) = env.action_space.shape
    with pytest.raises(ValueError, match=rf"shape \({width},\), got shape \(1,\)"):
        env.step([1.0])
    with pytest.raises(ValueError, match="must be finite"):
        env.step([np.nan] * width)


@EVERY_WORLD
def test_frames_need_a_render_mode_and_everything_needs_a_reset(name: str, begun: Callable[..., Any]) -> None:
    env = begun(name)
    for draw in (env.render, env.goal_frame):
        with pytest.raises(ValueError, match='frames need render_mode="rgb_array"'):
            draw()
    fresh = WORLDS[name].make(render_mode="rgb_array")
    for use in (fresh.render, fresh.goal_frame, lambda: fresh.step(np.zeros(env.action_space.shape))):
        with pytest.raises(gym.error.ResetNeeded, match="call reset"):
            use()
