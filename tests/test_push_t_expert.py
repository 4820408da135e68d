"""Behavior in the Push-T world: the expert solves it, keeps clear of the block on its way, and is seeded."""

from __future__ import annotations

import itertools
import math
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from lewm_agent.agents.behavior.push_t_expert import PushTExpert, WeakPush
from lewm_agent.agents.behavior.push_t_routes import CLEARANCE, in_picture, moved_clear, route, touching_points
from lewm_agent.envs.push_t.env import PushTEnv
from lewm_agent.envs.push_t.simulation import distance_to_block


def play(policy: Any, env: gym.Env[Any, Any], seed: int, steps: int = 200) -> tuple[np.ndarray, np.ndarray, bool]:
    """Actions, states and whether the episode was solved."""
    observation, info = env.reset(seed=seed)
    policy.reset(seed)
    actions, states = [], [info["state"]]
    for _ in range(steps):
        action = policy(observation, info)
        assert env.action_space.contains(action)
        observation, _, terminated, _, info = env.step(action)
        actions.append(action)
        states.append(info["state"])
        if terminated:
            return np.array(actions), np.array(states), True
    return np.array(actions), np.array(states), False


@pytest.mark.parametrize(("kwargs", "needed"), [({}, 9), ({"action_noise": 0.0}, 9)])
def test_expert_brings_block_and_agent_to_the_goal(kwargs: dict[str, Any], needed: int) -> None:
    env = PushTEnv()
    expert = PushTExpert(env, **kwargs)
    assert sum(play(expert, env, seed)[2] for seed in range(10)) >= needed


def test_expert_reaches_the_mark_in_the_classic_task() -> None:
    env = PushTEnv(block_goal="mark")
    expert = PushTExpert(env, action_noise=0.0)
    _, states, solved = play(expert, env, seed=1)
    assert solved
    assert math.dist(states[-1][2:4], (256.0, 256.0)) < 20.0


@pytest.mark.parametrize("policy_class", [PushTExpert, WeakPush])
def test_policies_depend_on_their_seed_alone_and_survive_pickling(policy_class: Any) -> None:
    env = PushTEnv()
    policy = policy_class(env)
    before_reset = pickle.loads(pickle.dumps(policy))
    first = play(policy, env, 3, steps=40)[0]
    np.testing.assert_array_equal(first, play(policy, env, 3, steps=40)[0])
    np.testing.assert_array_equal(first, play(before_reset, env, 3, steps=40)[0])
    policy.reset(4)
    info = env.reset(seed=3)[1]
    others = []
    for _ in range(40):
        others.append(policy(None, info))
        info = env.step(others[-1])[4]
    assert not np.array_equal(first, np.array(others))


def test_a_policy_pickled_within_an_episode_goes_on_alike() -> None:
    env = PushTEnv()
    expert = PushTExpert(env)
    play(expert, env, 5, steps=15)
    info = env.reset(seed=5)[1]
    copied = pickle.loads(pickle.dumps(expert))
    for _ in range(10):
        action = expert(None, info)
        np.testing.assert_array_equal(action, copied(None, info))
        info = env.step(action)[4]


def test_expert_with_the_block_in_place_walks_round_without_touching_it() -> None:
    env = PushTEnv()
    expert = PushTExpert(env, action_noise=0.0)
    start = np.array([256.0, 225.0, 256.0, 250.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    goal = start.copy()
    goal[:2] = 256.0, 400.0  # behind the block
    _, info = env.reset(options={"state": start, "goal_state": goal})
    for _ in range(40):
        *_, terminated, _, info = env.step(expert(None, info))
        assert distance_to_block(info["state"][:2], info["state"][2:5]) > 15.0
        if terminated:
            break
    assert terminated
    np.testing.assert_allclose(info["state"][2:5], start[2:5], atol=1e-9)


def test_without_noise_the_expert_draws_nothing() -> None:
    env = PushTEnv()
    expert = PushTExpert(env, action_noise=0.0)
    observation, info = env.reset(seed=2)
    played = []
    for seed in (0, 1):
        expert.reset(seed)
        actions = []
        observation, info = env.reset(seed=2)
        for _ in range(60):
            actions.append(expert(observation, info))
            observation, *_, info = env.step(actions[-1])
        played.append(actions)
    np.testing.assert_array_equal(*played)


def test_strokes_are_straight() -> None:
    """An action while the agent touches the block is usually the one before it."""
    env = PushTEnv()
    changes = []
    for seed in range(4):
        actions, states, _ = play(PushTExpert(env, action_noise=0.0), env, seed)
        touching = [distance_to_block(each[:2], each[2:5]) < 15.5 for each in states[1:-1]]
        changes.append(np.linalg.norm(np.diff(actions, axis=0), axis=1)[touching])
    assert np.mean(np.concatenate(changes) < 1e-6) > 0.6


def test_noise_has_the_size_asked_for() -> None:
    env = PushTEnv()
    info = env.reset(seed=0)[1]
    info["goal_state"] = info["state"].copy()  # nothing to do
    expert = PushTExpert(env, action_noise=0.2)
    actions = np.array([expert(None, info) for _ in range(2000)])
    np.testing.assert_allclose(actions.std(axis=0), 0.2, rtol=0.1)
    np.testing.assert_allclose(actions.mean(axis=0), 0.0, atol=0.02)


def test_weak_pushing_stays_near_the_block_and_touches_it() -> None:
    env = PushTEnv(terminate_on_success=False)
    states = np.concatenate([play(WeakPush(env), env, seed, steps=60)[1][10:] for seed in range(8)])
    assert np.abs(states[:, :2] - states[:, 2:4]).max() < 150.0
    assert states[:, :2].min() > 10.0
    assert states[:, :2].max() < 502.0
    touching = np.mean([distance_to_block(each[:2], each[2:5]) < 15.5 for each in states])
    assert 0.1 < touching < 0.8


def test_routes_keep_clear_of_the_block() -> None:
    generator = np.random.default_rng(0)
    detours = 0
    for _ in range(100):
        pose = (*generator.uniform(180, 330, 2).tolist(), generator.uniform(0, math.tau))
        start, goal = (moved_clear(generator.uniform(60, 450, 2), pose, 20.0) for _ in range(2))
        way = [start, *route(start, goal, pose)]
        assert way[-1] == goal
        for begin, end in itertools.pairwise(way):
            points = np.linspace(begin, end, 60)
            assert min(distance_to_block(point, pose) for point in points) > CLEARANCE - 1.0
        detours += len(way) > 2
    assert 10 < detours < 90


def test_points_beside_the_block_surround_it() -> None:
    points = touching_points(20.0, 20.0)
    here = (0.0, 0.0, 0.0)
    for point, inward in points:
        assert distance_to_block(point, here) == pytest.approx(20.0)
        nearer = point[0] + 5.0 * inward[0], point[1] + 5.0 * inward[1]
        assert distance_to_block(nearer, here) == pytest.approx(15.0)
    directions = {inward for _, inward in points}
    assert directions == {(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)}


def test_a_point_in_the_block_is_moved_out_of_it() -> None:
    for point in ((256.0, 260.0), (256.0, 340.0), (200.0, 265.0), (275.0, 285.0)):
        assert distance_to_block(moved_clear(point, (256.0, 250.0, 0.0), 16.0), (256.0, 250.0, 0.0)) >= 15.9
    assert in_picture((256.0, 10.0))
    assert not in_picture((256.0, -1.0))


def test_bad_arguments_are_told() -> None:
    with pytest.raises(TypeError, match="needs a Push-T environment"):
        PushTExpert(gym.make("CartPole-v1"))
    with pytest.raises(TypeError, match="needs a Push-T environment"):
        WeakPush(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="action_noise must be zero or more, got -1"):
        PushTExpert(PushTEnv(), action_noise=-1.0)
