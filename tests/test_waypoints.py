"""Waypoints: where they come from, how long they are kept, and that each environment has its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.far_goals import Bank, FarGoalsConfig
from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.planning.episodes import EpisodeMemory
from lewm_agent.planning.presets import planner_preset
from lewm_agent.planning.recorded_ways import RecordedWays
from lewm_agent.planning.settings import Waypoints as Kind
from lewm_agent.planning.waypoints import Waypoints

KINDS = get_args(Kind)[1:]


@pytest.fixture(scope="module")
def learned(tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("waypoints")
    far = FarGoalsConfig(fit_steps=40, reach=12, stride=2, bank_megabytes=0.02)
    head = InverseDynamicsConfig(furthest=4, width=16, depth=1, steps=5, batch_size=16)
    planner = dataclasses.replace(tiny_config.planner, proposals="refine", execute=1)
    config = dataclasses.replace(tiny_config, far_goals=far, inverse_dynamics=head, planner=planner)
    agent = LeWMAgent("two_room", config).learn(tiny_dataset, folder / "run", progress=False)
    return agent.save_pretrained(folder / "model")


def planning(folder: Path, kind: Kind, **settings: object) -> LeWMAgent:
    agent = LeWMAgent.from_pretrained(folder)
    return agent.set_planner(dataclasses.replace(agent.config.planner, waypoints=kind, **settings))  # type: ignore[arg-type]


class Line(nn.Module):
    """Blocks to go on a line of latents (..., 1)."""

    near, reached, reach = torch.tensor(3.0), torch.tensor(1.0), 12

    def forward(self, latents: Tensor, goals: Tensor) -> Tensor:
        return (latents - goals).abs().squeeze(-1)


class Ahead(nn.Module):
    """The latent three further on."""

    def forward(self, here: Tensor, goal: Tensor, left: Tensor, noise: Tensor) -> Tensor:
        return here[:, None] + 3


@pytest.fixture
def on_a_line(learned: Path) -> Waypoints:
    """Waypoints are three further on, and kept for four blocks."""
    agent = planning(learned, "expected")
    waypoints = Waypoints(agent.model, agent.config.planner)
    waypoints.far.steps = Line()  # type: ignore[assignment]
    waypoints.far.subgoals = Ahead()  # type: ignore[assignment]
    return waypoints


def at(place: float, memory: EpisodeMemory) -> EpisodeMemory:
    return dataclasses.replace(memory, latents=(torch.tensor([place]),))


def test_a_waypoint_is_kept_until_it_is_reached_or_given_up(on_a_line: Waypoints) -> None:
    goal = torch.tensor([20.0])
    memory = on_a_line.aimed(at(0.0, EpisodeMemory(0, goal_latent=goal, arrival=3)))
    assert memory.target == torch.tensor([3.0]) and memory.patience == 4 and memory.arrival == 0
    kept = on_a_line.aimed(at(1.5, dataclasses.replace(memory, patience=1, arrival=2)))
    assert kept.target == memory.target and kept.arrival == 2
    assert on_a_line.aimed(at(2.5, kept)).target == torch.tensor([5.5])  # reached
    assert on_a_line.aimed(at(0.2, kept)).target == memory.target
    assert on_a_line.aimed(at(-0.2, kept)).target == torch.tensor([2.8])  # farther than it has been
    given_up = on_a_line.aimed(at(1.5, dataclasses.replace(kept, patience=0)))
    assert given_up.target == torch.tensor([4.5]) and given_up.patience == 4


def test_the_goal_itself_is_aimed_at_when_it_is_near_and_kept_likewise(on_a_line: Waypoints) -> None:
    goal = torch.tensor([20.0])
    memory = on_a_line.aimed(at(10.0, EpisodeMemory(0, goal_latent=goal)))
    assert memory.target == torch.tensor([13.0])
    near = on_a_line.aimed(at(17.5, memory))
    assert near.target is goal and near.recorded is None and near.patience == 4
    assert on_a_line.aimed(at(15.0, near)).target is goal
    assert on_a_line.aimed(at(15.0, dataclasses.replace(near, patience=0))).target == torch.tensor([18.0])


def test_the_way_most_like_the_one_to_go_is_found_and_its_blocks_follow() -> None:
    """Two episodes: one goes right from 0 to 4, the other left from 4 to 0."""
    bank = Bank(10, 2, 1, 1)
    bank.latents.copy_(torch.tensor([0.0, 1, 2, 3, 4, 4, 3, 2, 1, 0])[:, None])
    bank.blocks.copy_(torch.tensor([1.0, 1, 1, 1, 0, -1, -1, -1, -1, 0])[:, None])
    bank.lengths.copy_(torch.tensor([5, 5]))
    ways = RecordedWays(bank, torch.eye(1))
    for here, goal, latent, blocks in (
        (0.1, 3.2, 2.0, [1.0, 1, 1, 1, 0]),
        (3.1, 0.2, 1.0, [-1.0, -1, -1, 0, 0]),
        (2.0, 3.0, 3.0, [1.0, 1, 0, 0, 0]),  # the way ends before the stride does
    ):
        latents, following = ways.nearest(torch.tensor([here]), torch.tensor([goal]), 3, 2, 5)
        assert latents.shape == (3, 1) and latents[0].item() == latent
        assert following[0, :, 0].tolist() == blocks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("proposals", ["refine", "none"])
def test_each_environment_has_the_plans_that_it_has_alone(
    learned: Path, tiny_dataset: OfflineDataset, kind: Kind, proposals: str
) -> None:
    agent = planning(learned, kind, proposals=proposals)
    agent.model.far_goals.steps.near.fill_(0.5)  # type: ignore[union-attr]
    starts = tiny_dataset.episode_starts[:4]
    goals = tiny_dataset.read_frames(starts + tiny_dataset.episode_lengths[:4] - 1)
    frames = [tiny_dataset.read_frames(starts + step) for step in range(0, 12)]
    together = agent.initial_memories(range(4))
    alone = [agent.initial_memories([seed]) for seed in range(4)]
    targets = 0
    for pixels in frames:
        actions, together = agent.predict({"pixels": pixels, "goal": goals}, together)
        for i in range(4):
            action, alone[i] = agent.predict({"pixels": pixels[i : i + 1], "goal": goals[i : i + 1]}, alone[i])
            np.testing.assert_array_equal(action[0], actions[i])
            targets += alone[i][0].target is not alone[i][0].goal_latent
    assert targets


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_aims_at_the_waypoint(learned: Path, tiny_dataset: OfflineDataset, kind: Kind) -> None:
    agent, aims = planning(learned, kind, metric="steps"), []
    agent.set_planner(agent.config.planner, cost=lambda latents, goals: aims.append(goals) or latents.sum((2, 3)))  # type: ignore[func-returns-value]
    agent.model.far_goals.steps.near.fill_(0.0)  # type: ignore[union-attr]
    last = int(tiny_dataset.episode_lengths[0]) - 1
    agent.act(*tiny_dataset.read_frames(np.array([0, last])))
    memory = agent._memory[0]
    assert memory.target is not None and memory.goal_latent is not None and memory.patience == 3
    assert not torch.equal(memory.target, memory.goal_latent)
    assert all(torch.equal(aim[0], memory.target) for aim in aims) and aims
    assert (memory.recorded is not None) == (kind == "recorded")
    other = tiny_dataset.read_frames(np.array([int(tiny_dataset.episode_starts[3])]))[0]
    agent.act(tiny_dataset.read_frames(np.array([0]))[0], other)
    assert agent._memory[0].target is not memory.target


def test_metric_and_waypoints_may_follow_the_name_of_a_planner(learned: Path) -> None:
    agent = LeWMAgent.from_pretrained(learned, planner="+drawn+steps")
    own = LeWMAgent.from_pretrained(learned).config.planner
    assert agent.config.planner == dataclasses.replace(own, waypoints="drawn", metric="steps")
    assert agent.set_planner("icem+slow").config.planner == dataclasses.replace(planner_preset("icem"), metric="slow")
    for name, message in (("icem+fast", "addition to a planner"), ("fast+slow", "planner")):
        with pytest.raises(ValueError, match=message):
            agent.set_planner(name)
