"""Environments that this package knows nothing of: any size of frames, choices or vectors, the user's own wrappers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.envs.wrappers import OneHotActions, ResizedRender
from lewm_agent.planning import CEM, ICEM, MPPI, Choices, Mixture
from lewm_agent.tools.frames import resized


def made(name: str, **kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make(name, render_mode="rgb_array", max_episode_steps=40, **kwargs)


def test_from_nothing_to_choices_in_cart_pole(tiny_config: AgentConfig, tmp_path: Path) -> None:
    env = made("CartPole-v1")
    agent = LeWMAgent(env, tiny_config)
    dataset = agent.collect(tmp_path / "data", "random", episodes=12, progress=False)
    assert dataset.frame_shape == (16, 16, 3)
    chosen = dataset.actions[~np.isnan(dataset.actions).any(axis=1)]
    assert set(map(tuple, chosen.tolist())) == {(1.0, 0.0), (0.0, 1.0)}
    agent.learn(dataset, tmp_path / "run", progress=False)

    frame, _ = env.reset(seed=1)
    frame = env.render()
    goal = np.roll(frame, 40, axis=1)
    actions = [agent.act(frame, goal) for _ in range(12)]
    assert all(env.action_space.contains(action) for action in actions)
    loaded = LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path / "model"))
    assert loaded.action_space == env.action_space
    assert [loaded.act(frame, goal) for _ in range(12)] == actions
    assert loaded.env.spec is not None and loaded.env.spec.max_episode_steps == 40
    batch, _ = loaded.predict({"pixels": np.stack([frame] * 3), "goal": np.stack([goal] * 3)})
    assert batch.shape == (3,) and batch.dtype.kind == "i"
    with pytest.raises(ValueError, match="cannot choose among discrete actions"):
        loaded.set_planner("gradient").act(frame, goal)


def test_data_do_not_depend_on_the_number_of_processes(tiny_config: AgentConfig, tmp_path: Path) -> None:
    agent = LeWMAgent(made("CartPole-v1"), tiny_config)
    sets = [agent.collect(tmp_path / str(n), "random", episodes=3, num_envs=n, progress=False).metadata for n in (1, 2)]
    assert sets[0] is not None and sets[1] is not None
    assert [shard.sha256 for shard in sets[0].shards] == [shard.sha256 for shard in sets[1].shards]


def test_a_stable_baselines_model_of_choices_collects(tiny_config: AgentConfig, tmp_path: Path) -> None:
    from stable_baselines3 import DQN

    env = made("CartPole-v1")
    model = DQN("MlpPolicy", env, seed=0, device="cpu")
    dataset = LeWMAgent(env, tiny_config).collect(tmp_path / "data", model, episodes=2, progress=False)
    assert dataset.actions.shape[1] == 2


class Darker(gym.Wrapper[Any, Any, Any, Any]):
    """The user's own wrapper, which no name can make again."""

    def render(self) -> Any:
        return np.asarray(self.env.render()) // 2


def test_the_users_own_wrapped_environment_is_used_and_stays_open(tiny_config: AgentConfig, tmp_path: Path) -> None:
    env = Darker(made("Pendulum-v1"))
    agent = LeWMAgent(env, tiny_config)
    dataset = agent.collect(tmp_path / "data", "random", episodes=3, progress=False)
    assert dataset.episode_lengths.tolist() == [41] * 3
    assert dataset.episode(0)["pixels"].max() <= 127
    env.reset(seed=0)
    assert env.render().shape == (500, 500, 3)
    assert agent.act(env.render(), env.render()).shape == (1,)
    with pytest.raises(ValueError, match="use num_envs=1"):
        agent.collect(tmp_path / "more", "random", episodes=3, num_envs=2)
    saved = LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path / "model"))
    with pytest.raises(ValueError, match="cannot be made by name"):
        _ = saved.env


def test_an_environment_that_draws_in_another_size(tiny_config: AgentConfig, tmp_path: Path) -> None:
    env = gym.make("lewm/TwoRoom-v0", image_size=40, render_mode="rgb_array")
    agent = LeWMAgent(env, tiny_config)
    for processes in (1, 2):
        data = agent.collect(tmp_path / str(processes), episodes=2, num_envs=processes, progress=False)
        assert data.frame_shape == (16, 16, 3)


def test_frames_are_averaged_down_and_stretched() -> None:
    frames = np.zeros((2, 4, 8, 3), np.uint8)
    frames[:, :, ::2] = 100
    assert resized(frames, 2).shape == (2, 2, 2, 3)
    assert (resized(frames, 2) == 50).all()
    env = ResizedRender(made("Pendulum-v1"), 20)
    env.reset(seed=0)
    assert env.render().shape == (20, 20, 3)


def test_one_hot_actions() -> None:
    env = OneHotActions(made("CartPole-v1"))
    assert env.action_space == gym.spaces.Box(0, 1, (2,), np.float32)
    assert [env.action(env.vector(choice)) for choice in (0, 1)] == [0, 1]
    assert env.action(np.array([0.2, 0.7])) == 1
    with pytest.raises(ValueError, match=r"needs a Discrete\(n\) action space"):
        OneHotActions(made("Pendulum-v1"))


def test_choices_are_one_hot_vectors_that_the_data_have() -> None:
    mean, std = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.5, 1e-6])
    chosen = Choices(mean, std).project(torch.tensor([[0.1, 0.3, 9e9], [2.0, -1.0, 0.0]]))
    torch.testing.assert_close((chosen * std + mean).round(), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))


def test_every_search_over_choices_finds_them(tiny_config: AgentConfig) -> None:
    """With the cost of a rollout replaced by the distance to known choices."""
    wanted = torch.tensor([0, 1, 1, 0])
    half = torch.full((2,), 0.5)
    choices = Choices(half, half)
    for search in (CEM(), ICEM(), MPPI(), Mixture()):
        planner = dataclasses.replace(tiny_config.planner, search=search, samples=200, elites=20, iterations=6)

        def cost(candidates: torch.Tensor) -> torch.Tensor:
            return (candidates.argmax(-1) != wanted).float().sum(-1)

        start, generator = torch.zeros(1, 1, 4, 2), torch.Generator().manual_seed(0)
        plan = search.plan(cost, start, [generator], planner.sampling(choices))
        assert choices.project(plan.actions).argmax(-1)[0].tolist() == wanted.tolist(), search
