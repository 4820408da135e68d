"""Policies that act by turns."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from lewm_agent.agents.behavior.mixed import Mixed
from lewm_agent.agents.behavior.policies import SCRIPTED
from lewm_agent.datasets import rollout


class Constant:
    """Does the same in every episode."""

    def __init__(self, value: float) -> None:
        self.value, self.seeds = value, list[int]()

    def reset(self, seed: int) -> None:
        self.seeds.append(seed)

    def __call__(self, observation: Any, info: dict[str, Any]) -> np.ndarray:
        return np.array([self.value, self.seeds[-1]], np.float32)


def actor_and_seed(policy: Any, seed: int) -> tuple[float, float]:
    policy.reset(seed)
    actor, given = policy(None, {})
    return float(actor), float(given)


def test_every_episode_is_of_one_of_the_two_by_its_seed() -> None:
    mixed = Mixed(Constant(1), Constant(0), 0.25)
    played = [actor_and_seed(mixed, seed) for seed in range(400)]
    assert [seed for _, seed in played] == list(range(400))
    assert 60 < sum(actor for actor, _ in played) < 140
    data = rollout(gym.make("lewm/TwoRoom-v0"), mixed, 0, 1, frame_interval=None)
    assert data["expert"].tolist() == [mixed.is_expert] * len(data["action"])
    assert played[::-1] == [actor_and_seed(pickle.loads(pickle.dumps(mixed)), seed) for seed in range(399, -1, -1)]


def test_a_share_is_between_nothing_and_all() -> None:
    with pytest.raises(ValueError, match=r"expert_share must be between 0 and 1, got 1\.5"):
        Mixed(Constant(1), Constant(0), 1.5)


def test_what_can_be_weak_can_be_mixed() -> None:
    assert SCRIPTED["mixed"].keys() == SCRIPTED["weak"].keys() <= SCRIPTED["expert"].keys()
