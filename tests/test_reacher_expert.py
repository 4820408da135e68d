"""Behavior on the reacher: the controller reaches every goal and depends on its seed alone."""

from __future__ import annotations

import pickle

import gymnasium as gym
import numpy as np
import pytest

from lewm_agent.agents.behavior.reacher_expert import ReacherExpert
from lewm_agent.envs.reacher.env import ReacherEnv


@pytest.mark.parametrize("wrap_shoulder", [True, False])
@pytest.mark.parametrize("action_noise", [0.0, 0.5])
def test_expert_reaches_every_goal(wrap_shoulder: bool, action_noise: float) -> None:
    env = ReacherEnv(wrap_shoulder=wrap_shoulder)
    expert = ReacherExpert(env, action_noise=action_noise)
    steps = []
    for seed in range(30):
        observation, info = env.reset(seed=seed)
        expert.reset(seed)
        for step in range(1, 101):
            observation, _, terminated, _, info = env.step(expert(observation, info))
            if terminated:
                steps.append(step)
                break
    assert len(steps) == 30
    assert np.median(steps) < 25


def test_expert_turns_the_shoulder_the_way_that_counts() -> None:
    info = {"state": np.array([3.0, 0.0, 0.0, 0.0]), "goal_state": np.array([-3.0, 0.0, 0.0, 0.0])}
    assert ReacherExpert(ReacherEnv(), action_noise=0.0)(None, info)[0] == 1.0
    assert ReacherExpert(ReacherEnv(wrap_shoulder=False), action_noise=0.0)(None, info)[0] == -1.0


def test_expert_depends_on_its_seed_alone_and_can_be_pickled() -> None:
    env = ReacherEnv()
    goal = [-1.0, -0.5, 0.0, 0.0]
    info = env.reset(options={"state": goal, "goal_state": goal})[1]  # where all torque is noise
    expert = ReacherExpert(gym.make("lewm/Reacher-v0"))
    expert.reset(7)
    first = [expert(None, info) for _ in range(5)]
    copied = pickle.loads(pickle.dumps(expert))
    np.testing.assert_array_equal(copied(None, info), expert(None, info))
    expert.reset(7)
    np.testing.assert_array_equal([expert(None, info) for _ in range(5)], first)
    expert.reset(8)
    assert not np.array_equal([expert(None, info) for _ in range(5)], first)
    assert first[0].dtype == np.float32
    assert env.action_space.contains(first[0])


def test_expert_refuses_other_environments_and_bad_noise() -> None:
    with pytest.raises(TypeError, match="needs a reacher environment"):
        ReacherExpert(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="action_noise must be zero or more, got -1"):
        ReacherExpert(ReacherEnv(), action_noise=-1.0)
