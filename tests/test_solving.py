"""Playing the shipped pairs only until they are solved."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest

from lewm_agent import LeWMAgent
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.protocols import ProtocolName, protocol
from lewm_agent.eval.rollouts import Player, make_environment
from lewm_agent.eval.solving import play_shipped

WORLD = "lewm/TwoRoom-v0"
EPISODES = 6


@pytest.fixture(scope="module")
def agent() -> Iterator[LeWMAgent]:
    """An agent that solves some pairs sooner and some later, and others never: its plans are cut short."""
    yield LeWMAgent.from_pretrained("two_room", planner="amortised", device="cpu")


@pytest.mark.parametrize("name", ["paper", "strict"])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_a_pair_is_played_until_it_is_solved(agent: LeWMAgent, name: ProtocolName, num_envs: int) -> None:
    rules, pairs = protocol(WORLD, name), shipped(WORLD, name).first(EPISODES).pairs
    kwargs = {**agent.description.environment_kwargs, **rules.environment_kwargs}
    make = functools.partial(make_environment, WORLD, kwargs)
    whole = Player(make, agent, seed=0, budget=rules.budget).play(range(EPISODES), pairs)
    played = list(play_shipped(agent, WORLD, name, EPISODES, num_envs=num_envs))
    assert len(played) == EPISODES
    for (trace, solved), full, pair in zip(played, whole, pairs, strict=True):
        success = rules.success(np.stack(full.states), pair.goal_state)[1:]
        assert solved == success.any()
        steps = int(success.argmax()) + 1 if solved else rules.budget
        np.testing.assert_array_equal(np.stack(trace.states), np.stack(full.states)[: steps + 1])
        assert trace.plans <= full.plans and trace.seconds > 0
    assert any(len(trace.states) < rules.budget for trace, _ in played)
