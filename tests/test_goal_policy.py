"""Goal-conditioned policies: goals as drawn, losses by hand, teachers that follow, blocks executed whole."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from lewm_agent import AgentConfig
from lewm_agent.agents.rivals.goal_policy import (
    Algorithm,
    GoalPolicy,
    GoalPolicyConfig,
    PolicyConfig,
    cloning_weights,
    expectile_loss,
)
from lewm_agent.agents.rivals.goal_policy_agent import GoalPolicyAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.batch import GoalBatch
from lewm_agent.datasets.goals import GoalClips, GoalMixture


def policy(base: AgentConfig, algorithm: Algorithm) -> GoalPolicy:
    torch.manual_seed(0)
    config = GoalPolicyConfig.like(base, algorithm)
    small = dataclasses.replace(config.policy, width=16, depth=1)
    return GoalPolicy(dataclasses.replace(config, policy=small))


def batch(goals: int) -> GoalBatch[torch.Tensor]:
    frames = torch.randint(0, 256, (6, 2 + goals, 16, 16, 3), dtype=torch.uint8)
    return GoalBatch(frames[:, :2], torch.rand(6, 1, 5, 2), frames[:, 2:], torch.arange(6).expand(goals, 6).T == 0)


def test_expectile_by_hand() -> None:
    assert expectile_loss(torch.tensor([2.0, -2.0]), 0.9).item() == pytest.approx((0.9 * 4 + 0.1 * 4) / 2)


def test_cloning_weights_by_hand() -> None:
    weights = cloning_weights(torch.tensor([0.0, 0.5, 9.0]), 3.0)
    expected = torch.tensor([1.0, float(np.exp(1.5)), 100.0])
    torch.testing.assert_close(weights, expected / expected.mean())


def test_cloning_is_the_error_of_the_block(tiny_config: AgentConfig) -> None:
    model = policy(tiny_config, "gcbc").eval()
    given = batch(1)
    latents, goals = model.encode(given.frames[:, 0]), model.encode(given.goals[:, 0])
    error = model.block(latents, goals) - model.codec.blocks(given.actions[:, 0])
    torch.testing.assert_close(model.loss(given).total, error.square().mean())


def test_values_by_hand(tiny_config: AgentConfig) -> None:
    model = policy(tiny_config, "gciql").eval()
    given = batch(2)
    frames = torch.cat([given.frames, given.goals], dim=1)
    z, following, goal, policy_goal = (model.encode(frames[:, i]) for i in range(4))
    blocks = model.codec.blocks(given.actions[:, 0])
    target = 0.95 * model.value_teacher(following, goal) - 1
    target[0] = 0.0  # the goal is the frame itself
    loss = model.loss(given)
    critic = (model.critic(z, goal, blocks) - target).square().mean()
    torch.testing.assert_close(loss.terms["critic"], critic)
    gap = model.critic_teacher(z, goal, blocks) - model.value(z, goal)
    torch.testing.assert_close(loss.terms["value"], expectile_loss(gap, 0.9))
    advantage = model.critic(z, policy_goal, blocks) - model.value(z, policy_goal)
    torch.testing.assert_close(loss.terms["advantage"], advantage.mean())
    normal = torch.distributions.Normal(model.actor(z, policy_goal), 1.0)
    likelihood = normal.log_prob(blocks).sum(-1)
    weights = torch.exp(10 * advantage).clamp(max=100)
    expected = -(weights / weights.mean() * likelihood).mean()
    torch.testing.assert_close(loss.terms["policy"], expected)
    torch.testing.assert_close(loss.total, loss.terms["critic"] + loss.terms["value"] + loss.terms["policy"])
    gcivl = policy(tiny_config, "gcivl").eval()
    z, following, goal, policy_goal = (gcivl.encode(frames[:, i]) for i in range(4))
    gain = gcivl.value(following, policy_goal) - gcivl.value(z, policy_goal)
    torch.testing.assert_close(gcivl.loss(given).terms["advantage"], gain.mean())


def test_only_the_policy_loss_reaches_the_actor_and_teachers_follow(tiny_config: AgentConfig) -> None:
    model = policy(tiny_config, "gciql")
    loss = model.loss(batch(2))
    loss.terms["policy"].backward(retain_graph=True)
    assert model.actor.layers[0].weight.grad is not None
    assert model.encoder.projector[0].weight.grad is not None
    assert model.value.layers[0].weight.grad is None and model.critic.layers[0].weight.grad is None
    loss.terms["value"].backward(retain_graph=True)
    assert model.critic.layers[0].weight.grad is None
    loss.terms["critic"].backward()
    assert model.value_teacher.layers[0].weight.grad is None
    before = model.value_teacher.layers[0].bias.clone()
    with torch.no_grad():
        model.value.layers[0].bias += 1.0
    model.after_step(0.5)
    torch.testing.assert_close(model.value_teacher.layers[0].bias, before + 0.005)


def test_goals_come_in_their_shares(tiny_dataset: OfflineDataset) -> None:
    episodes = np.arange(tiny_dataset.num_episodes)
    kinds = ("random", "geometric", "uniform", "current")
    pure = [GoalMixture(**{kind: 1.0}) for kind in kinds]
    clips = GoalClips(tiny_dataset, episodes, 5, [*pure, GoalMixture(random=0.3, geometric=0.5, current=0.2)], 0.5)
    drawn: list[Any] = []
    clips._frames = lambda rows: drawn.append(rows) or np.zeros((*rows.shape, 1, 1, 3), np.uint8)  # type: ignore
    reached = clips.fetch(np.arange(len(clips))).reached
    (rows,) = drawn
    first, following, goals = rows[:, 0], rows[:, 1], rows[:, 2:]
    np.testing.assert_array_equal(following - first, 5)
    located, offsets = clips.locate(np.arange(len(clips)))
    left = (tiny_dataset.episode_lengths[located] - 1 - offsets) // 5
    geometric, uniform = (goals[:, 1] - first) // 5, (goals[:, 2] - first) // 5
    assert ((geometric >= 1) & (geometric <= left)).all() and ((uniform >= 1) & (uniform <= left)).all()
    far = left >= 4
    assert (geometric[far] == 1).mean() == pytest.approx(0.5, abs=0.1)
    assert (geometric[far] == 2).mean() == pytest.approx(0.25, abs=0.1)
    assert (uniform / left).mean() == pytest.approx(((left + 1) / 2 / left).mean(), abs=0.05)
    np.testing.assert_array_equal(goals[:, 3], first)
    assert reached[:, 3].all() and not reached[:, 1:3].any()
    assert reached[:, 4].mean() == pytest.approx(0.2, abs=0.07)
    assert set(goals[:, 0]) <= set(tiny_dataset.frame_rows(episodes)) and len(set(goals[:, 0])) > len(clips) / 3


def test_goals_depend_on_the_batch_alone(tiny_dataset: OfflineDataset) -> None:
    clips = GoalClips(tiny_dataset, np.arange(8), 5, [GoalMixture(random=1.0)], 0.9)
    one, two, other = clips.fetch([3, 5]), clips.fetch([3, 5]), clips.fetch([3, 6])
    np.testing.assert_array_equal(one.goals, two.goals)
    assert not np.array_equal(one.goals[0], other.goals[0])


def test_a_block_is_executed_whole_and_another_goal_ends_it(tiny_config: AgentConfig) -> None:
    agent = GoalPolicyAgent("two_room", GoalPolicyConfig.like(tiny_config, "gcbc"), device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    memories = agent.initial_memories([0])
    needed = []
    for _ in range(6):
        needed.append(agent.controller.needs_frame(memories[0]))
        _, memories = agent.predict({"pixels": frames[:1], "goal": frames[1:2]}, memories)
    assert needed == [True, False, False, False, False, True]
    _, memories = agent.predict({"pixels": frames[:1], "goal": frames[2:]}, memories)
    assert memories[0].plans == 3 and len(memories[0].queue) == 4


def test_settings_are_checked(tiny_config: AgentConfig) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        GoalMixture(random=0.5)
    with pytest.raises(ValueError, match=r"expectile must be in \(0, 1\), got 1"):
        PolicyConfig(expectile=1)
    with pytest.raises(ValueError, match="sees one frame"):
        GoalPolicyConfig(model=tiny_config.model)
