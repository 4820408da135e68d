"""What is kept of an episode to be looked through: that it went as it was played, and how it is drawn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lewm_agent import LeWMAgent
from lewm_agent.eval.pairs import shipped
from lewm_agent.evaluation.playing import Player, Trace
from lewm_agent.evaluation.rollouts import Strip, Thoughts, nearest_seen, rollout, thoughts_on, with_plans
from lewm_agent.evaluation.suite import Suite
from lewm_agent.evaluation.videos import film

STEPS = 12


@pytest.fixture
def agent(tiny_agent: LeWMAgent) -> LeWMAgent:
    tiny_agent.set_action_statistics([0.0, 0.0], [1.0, 1.0])
    return tiny_agent


@pytest.fixture
def suite(agent: LeWMAgent) -> Suite:
    pairs = shipped("two_room", "moderate").first(2)
    return dataclasses.replace(pairs.suite({"image_size": agent.config.model.image_size}), budget=STEPS)


def played(suite: Suite, agent: LeWMAgent) -> tuple[Player, Trace]:
    player = Player(suite.make, agent, suite.success, 0, suite.budget)
    return player, player.play([0, 1], suite.trials)[0]


def test_a_rollout_has_what_was_seen_and_what_every_plan_expects(suite: Suite, agent: LeWMAgent) -> None:
    player, trace = played(suite, agent)
    env, trial = suite.make(), suite.trials[0]
    shot, thoughts = film(env, trial, trace), thoughts_on(player, 0, trial, trace)
    assert not thoughts.fault and [look.step for look in thoughts.looks] == [0, 5, 10]
    kept = rollout(shot, thoughts, {"first_success_step": None}, trace.distances)
    draws = nearest_seen(agent.world_model, env, suite.trials, [shot])
    whole = with_plans(kept, thoughts, draws)
    assert kept.imagined is None and whole.imagined is not None and whole.frames.count == STEPS + 1
    assert [plan.step for plan in whole.plans] == [0, 10]
    assert whole.imagined.count == sum(plan.frames for plan in whole.plans)
    latents = agent.world_model.encode(torch.as_tensor(shot.frames)).detach().double().numpy()
    np.testing.assert_array_equal(draws(latents), shot.frames)


def test_an_episode_that_goes_otherwise_when_it_is_played_once_more_says_so(suite: Suite, agent: LeWMAgent) -> None:
    player, trace = played(suite, agent)
    other = dataclasses.replace(trace, actions=[-action for action in trace.actions])
    nearer = dataclasses.replace(trace, latent_distances=[0.0 for _ in trace.latent_distances])
    for changed in (other, nearer):
        thoughts = thoughts_on(player, 0, suite.trials[0], changed)
        assert "went otherwise" in thoughts.fault and not thoughts.looks and not thoughts.plans


def test_an_episode_without_plans_is_kept_without(suite: Suite, agent: LeWMAgent) -> None:
    _, trace = played(suite, agent)
    shot = film(suite.make(), suite.trials[0], trace)
    kept = rollout(shot, Thoughts(agent), {"first_success_step": 3}, trace.distances)
    assert with_plans(kept, Thoughts(agent), lambda latents: shot.frames) == kept and kept.plans == []


@pytest.mark.parametrize(("count", "side"), [(51, 160), (1000, 50)])
def test_long_episodes_are_kept_in_less_detail(count: int, side: int) -> None:
    strip = Strip.of(np.zeros((count, 200, 100, 3), np.uint8))
    assert (strip.height, strip.width, strip.count) == (side, side // 2, count)
