"""The pixel wrappers: what an agent sees."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.wrappers import AddRenderObservation
from stable_baselines3.common.env_checker import check_env as stable_baselines_check_env

from lewm_agent.envs import AddGoalFrame, TwoRoomEnv, make_pixel_env

OPTIONS = {"state": np.array([50.0, 60.0]), "goal_state": np.array([170.0, 80.0])}


def test_pixel_environment_passes_both_checkers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stable_baselines_check_env(make_pixel_env("two_room"))
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        gymnasium_check_env(make_pixel_env("two_room"), skip_render_check=True)


def test_observation_is_frame_and_goal_frame() -> None:
    env = make_pixel_env("two_room", image_size=48, collision="swept")
    world = env.unwrapped
    assert isinstance(world, TwoRoomEnv)
    assert world.collision == "swept"
    observation, _ = env.reset(seed=0, options=OPTIONS)
    image = spaces.Box(0, 255, (48, 48, 3), np.uint8)
    assert env.observation_space == spaces.Dict({"pixels": image, "goal": image})
    for _ in range(3):
        np.testing.assert_array_equal(observation["pixels"], world.render())
        np.testing.assert_array_equal(observation["goal"], world.goal_frame())
        assert env.observation_space.contains(observation)
        observation = env.step(np.array([1.0, 0.0], dtype=np.float32))[0]


def test_goal_is_drawn_once_per_episode() -> None:
    env = make_pixel_env("two_room")
    world = env.unwrapped
    assert isinstance(world, TwoRoomEnv)
    calls = []
    draw = world.goal_frame
    world.goal_frame = lambda: calls.append(1) or draw()
    first, _ = env.reset(seed=0, options=OPTIONS)
    world.set_factors(agent_color=(0, 0, 255))
    later = env.step(np.zeros(2, dtype=np.float32))[0]
    assert len(calls) == 1
    np.testing.assert_array_equal(later["goal"], first["goal"])
    assert not np.array_equal(later["pixels"], first["pixels"])
    second, _ = env.reset(seed=0, options={**OPTIONS, "goal_state": np.array([40.0, 190.0])})
    assert len(calls) == 2
    assert not np.array_equal(second["goal"], first["goal"])


def test_writing_into_an_observation_does_not_spoil_the_next() -> None:
    env = make_pixel_env("two_room")
    first, _ = env.reset(seed=0, options=OPTIONS)
    kept = first["goal"].copy()
    first["goal"][:] = 0
    np.testing.assert_array_equal(env.step(np.zeros(2, dtype=np.float32))[0]["goal"], kept)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_runs_vectorized(mode: str) -> None:
    vector: Any = gym.make_vec(
        "lewm/TwoRoom-v0",
        num_envs=2,
        vectorization_mode=mode,
        wrappers=[AddRenderObservation, AddGoalFrame],
        render_mode="rgb_array",
        image_size=32,
    )
    single = make_pixel_env("two_room", image_size=32)
    try:
        observations, _ = vector.reset(seed=[1, 2])
        expected, _ = single.reset(seed=2)
        for key in ("pixels", "goal"):
            assert observations[key].shape == (2, 32, 32, 3)
            np.testing.assert_array_equal(observations[key][1], expected[key])
    finally:
        vector.close()


def test_environment_without_goal_frame_is_told() -> None:
    env = gym.make("CartPole-v1")
    with pytest.raises(TypeError, match=r"needs an environment with a goal_frame\(\) method"):
        AddGoalFrame(env)


def test_state_observations_are_told() -> None:
    env = gym.make("lewm/TwoRoom-v0", render_mode="rgb_array")
    with pytest.raises(ValueError, match=r"needs image observations.*AddRenderObservation"):
        AddGoalFrame(env)


def test_missing_render_mode_is_told() -> None:
    with pytest.raises(ValueError, match="needs render_mode='rgb_array', got render_mode=None"):
        AddGoalFrame(gym.make("lewm/TwoRoom-v0"))


def test_frames_of_another_size_than_the_goal_are_told() -> None:
    class Cropped(gym.ObservationWrapper[Any, Any, Any]):
        def __init__(self, env: gym.Env[Any, Any]) -> None:
            super().__init__(env)
            self.observation_space = spaces.Box(0, 255, (20, 20, 3), np.uint8)

        def observation(self, observation: Any) -> Any:
            return observation[:20, :20]

    env = AddGoalFrame(
        Cropped(AddRenderObservation(gym.make("lewm/TwoRoom-v0", render_mode="rgb_array", image_size=32)))
    )
    with pytest.raises(ValueError, match=r"goal frame is uint8 of shape \(32, 32, 3\), but the observed frame"):
        env.reset(seed=0)


def test_unknown_name_and_argument_are_told() -> None:
    with pytest.raises(ValueError, match="did you mean `two_room`"):
        make_pixel_env("tworoom")
    with pytest.raises(ValueError, match="at least 16, got 8"):
        make_pixel_env("two_room", image_size=8)
