"""Replays of demonstrations in the Push-T world."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from lewm_agent import LeWMAgent
from lewm_agent.agents.behavior.push_t_expert import PushTExpert
from lewm_agent.agents.behavior.push_t_replays import PushTReplays
from lewm_agent.datasets import rollout
from lewm_agent.envs import make_pixel_env
from lewm_agent.envs.push_t.env import PushTEnv


def test_without_noise_a_replay_is_what_the_expert_does() -> None:
    env = make_pixel_env("push_t", image_size=16)
    shown = rollout(env, PushTExpert(env, action_noise=0.0), 5, 0, None)
    replayed = rollout(env, PushTReplays(env, most_noise=0.0), 5, 1, None)
    assert shown["terminated"].any()
    for name, values in shown.items():
        np.testing.assert_allclose(replayed[name], values, atol=1e-3, err_msg=name)


def test_noise_is_drawn_by_seed_and_the_episode_ends_with_its_demonstration() -> None:
    env = gym.make("lewm/PushT-v0")
    policy = PushTReplays(env, most_noise=0.3)
    shown = rollout(env, PushTExpert(env, action_noise=0.0), 5, 0, None)
    first, second, again = (rollout(env, policy, 5, seed, None) for seed in (3, 4, 3))
    np.testing.assert_array_equal(first["state"], again["state"])
    assert np.abs(first["action"][0] - second["action"][0]).max() > 0.0
    for episode in (first, second):
        np.testing.assert_array_equal(episode["state"][0], shown["state"][0])
        assert len(episode["state"]) <= len(shown["state"])
        assert episode["terminated"].any() != episode["truncated"].any()
        assert np.linalg.norm(episode["state"][20, :2] - shown["state"][20, :2]) < 60.0


def test_collected_families(tmp_path: Path) -> None:
    agent = LeWMAgent("push_t", "small", image_size=16, device="cpu")
    data = agent.collect(tmp_path, "replays", episodes=4, families=2, frame_interval=5, progress=False)
    assert data.metadata is not None and data.metadata.policy == "replays, 2 families"
    goals = [data.episode(index)["goal_state"][0] for index in range(4)]
    assert [int(data.episode(index)["family"][0]) for index in range(4)] == [0, 1, 0, 1]
    np.testing.assert_array_equal(goals[:2], goals[2:])
    assert [len(side) for side in data.split(0.1, 0)] == [2, 2]


def test_what_cannot_be_replayed_is_told() -> None:
    with pytest.raises(ValueError, match=r"need an environment that was made by gymnasium\.make"):
        PushTReplays(PushTEnv())
    with pytest.raises(ValueError, match="most_noise must be zero or more, got -1"):
        PushTReplays(gym.make("lewm/PushT-v0"), most_noise=-1.0)
    with pytest.raises(TypeError, match="needs a Push-T environment"):
        PushTReplays(gym.make("CartPole-v1"))
