"""Behavior on the cube task: OGBench's oracles reach goals, build towers, and depend on their seed alone."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from lewm_agent.agents.behavior.cube_expert import ORACLES, CubeExpert
from lewm_agent.agents.behavior.weak_cube import WeakCube
from lewm_agent.envs.cube.env import GRIPPER_CONTACT, CubeEnv, with_cube_at


@pytest.mark.parametrize("oracle", ORACLES)
def test_expert_reaches_goals_and_goes_on_to_new_targets(oracle: str, cube_expert_of: Any) -> None:
    env = CubeEnv()
    reached, places = 0, []
    for seed in range(4):
        _, info = env.reset(seed=seed)
        expert = cube_expert_of(oracle, env, burst_episodes=0.0)
        successes = []
        for _ in range(200):
            info = env.step(expert(None, info))[4]
            successes.append(info["is_success"])
        reached += any(successes)
        places.append(info["distance"])
    assert reached == 4
    assert max(places) > 0.1  # the cube has left its goal again


@pytest.mark.parametrize("oracle", ORACLES)
def test_expert_builds_a_tower(oracle: str, cube_expert_of: Any) -> None:
    env = CubeEnv(cubes=2, terminate_on_success=True)
    state = env.reset(seed=0)[1]["state"]
    goal = with_cube_at(state, [0.42, 0.0, 0.06], cube=0)
    goal = with_cube_at(goal, [0.42, 0.0, 0.02], cube=1)
    _, info = env.reset(options={"state": state, "goal_state": goal})
    expert = cube_expert_of(oracle, env, noise=0.0, burst_episodes=0.0)
    for _ in range(250):
        _, _, terminated, _, info = env.step(expert(None, info))
        if terminated:
            break
    assert info["is_success"]
    assert info["physics"]["cube_z"] > 0.04


@pytest.mark.parametrize("policy_class", [CubeExpert, WeakCube])
def test_policies_depend_on_their_seed_alone_and_can_be_pickled(policy_class: type[CubeExpert]) -> None:
    env = CubeEnv()
    _, info = env.reset(seed=0)
    expert = policy_class(env)

    def actions(seed: int) -> list[list[float]]:
        expert.reset(seed)
        return [expert(None, info).tolist() for _ in range(3)]

    kinds = {seed: (actions(seed), expert.oracle) for seed in range(8)}
    assert {oracle for _, oracle in kinds.values()} == set(ORACLES)
    assert len({str(drawn) for drawn, _ in kinds.values()}) == 8
    for seed, (drawn, _) in kinds.items():
        assert actions(seed) == drawn
        copied = pickle.loads(pickle.dumps(expert))
        np.testing.assert_array_equal(copied(None, info), expert(None, info))
    action = expert(None, info)
    assert action.dtype == np.float32
    assert env.action_space.contains(action)


def test_weak_policy_moves_the_cube_and_loses_track_of_it() -> None:
    env = CubeEnv()
    weak = WeakCube(env)
    _, info = env.reset(seed=0)
    weak.reset(1)
    heights, contacts = [], []
    for _ in range(300):
        info = env.step(weak(None, info))[4]
        heights.append(info["physics"]["cube_z"])
        contacts.append(info["state"][GRIPPER_CONTACT] > 0)
    assert max(heights) > 0.05  # it was lifted
    assert 0.1 < np.mean(contacts) < 0.9
    assert np.count_nonzero(np.diff(np.array(heights) > 0.03)) > 1  # and let go again


def test_some_episodes_have_bursts_of_one_random_action(cube_expert_of: Any) -> None:
    env = CubeEnv()
    _, info = env.reset(seed=0)
    for share, longest in ((0.0, 0), (1.0, 8)):
        expert = cube_expert_of("markov", env, burst_episodes=share)
        actions = np.array([expert(None, info) for _ in range(150)])  # the noise makes all others differ
        same = "".join("r" if repeat else "." for repeat in (actions[1:] == actions[:-1]).all(axis=1))
        lengths = [len(run) + 1 for run in same.split(".") if run]
        assert max(lengths, default=0) <= longest
        assert bool(lengths) == bool(longest)
        assert min(lengths, default=3) >= 3


def test_expert_refuses_other_environments_and_bad_arguments() -> None:
    with pytest.raises(TypeError, match="needs a cube environment"):
        CubeExpert(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="noise must be zero or more, got -1"):
        CubeExpert(CubeEnv(), noise=-1.0)
    with pytest.raises(ValueError, match=r"burst_episodes must lie in \[0, 1\], got 2"):
        CubeExpert(CubeEnv(), burst_episodes=2.0)
