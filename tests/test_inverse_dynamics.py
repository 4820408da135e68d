"""The inverse-dynamics head: what it learns from, what it proposes, and how planners use it."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lewm_agent import AgentConfig, CheckpointError, LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.batch import ClipBatch
from lewm_agent.models.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning import ICEM, Gradient, Mixture, Search
from lewm_agent.planning.controller import Controller
from lewm_agent.planning.episodes import Memories
from lewm_agent.planning.imagination import imagine
from lewm_agent.planning.presets import planner_preset
from lewm_agent.planning.settings import PlannerConfig, Proposals
from lewm_agent.training import slow_metric
from lewm_agent.training.encoding import Latents, encode_all
from lewm_agent.training.hindsight import HindsightPairs, fit

HEAD = InverseDynamicsConfig(furthest=4, width=32, depth=2, steps=60, batch_size=64, dropout=0.0, latent_noise=0.0)


@pytest.fixture(scope="module")
def config(tiny_config: AgentConfig) -> AgentConfig:
    planner = dataclasses.replace(tiny_config.planner, proposals="refine")
    return dataclasses.replace(tiny_config, planner=planner, inverse_dynamics=HEAD)


@pytest.fixture(scope="module")
def learned(config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    agent = LeWMAgent("two_room", config).learn(tiny_dataset, folder / "run", progress=False)
    return agent.save_pretrained(folder / "model").parent


def test_pairs_are_later_frames_of_the_same_episode_and_the_block_between(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset
) -> None:
    model = WorldModel(tiny_config.model).eval()
    pairs = HindsightPairs(Latents(model, tiny_dataset), np.array([3, 5]))
    latents, goals, left, blocks = pairs.draw(200, 4, np.random.default_rng(0))
    assert set(left.tolist()) == {1, 2, 3, 4}
    columns = [tiny_dataset.episode(index) for index in (3, 5)]
    with torch.inference_mode():
        encoded = [model.encode(torch.as_tensor(column["pixels"])) for column in columns]
    for row in range(20):
        distance = [(latent - latents[row]).abs().sum(1) for latent in encoded]
        episode = int(distance[1].min() < distance[0].min())
        start = int(distance[episode].argmin())
        torch.testing.assert_close(encoded[episode][start + 5 * int(left[row])], goals[row])
        actions = torch.as_tensor(columns[episode]["action"][start : start + 5])
        torch.testing.assert_close(model.codec.blocks(actions), blocks[row])


def test_the_head_is_trained_once_a_planner_uses_it(
    config: AgentConfig, tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    agent = LeWMAgent("two_room", dataclasses.replace(config, planner=tiny_config.planner))
    agent.learn(tiny_dataset, tmp_path, progress=False)
    weights = {name: value.clone() for name, value in agent.model.state_dict().items()}
    assert agent.description.training is not None and agent.description.training.inverse_dynamics_error is None
    frames = tiny_dataset.read_frames(np.array([0, 5]))
    agent.set_planner(config.planner)
    with pytest.raises(ValueError, match=r"learn\(dataset, output, resume=True\) trains it"):
        agent.act(*frames)
    agent.learn(tiny_dataset, tmp_path, resume=True, progress=False)
    changed = {name for name, value in agent.model.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed and all(name.startswith("inverse_dynamics.") for name in changed)
    assert agent.action_space.contains(agent.act(*frames))


def test_a_frame_is_encoded_once_whoever_asks(tiny_config: AgentConfig, tiny_dataset: OfflineDataset) -> None:
    model = WorldModel(tiny_config.model).eval()
    seen: list[int] = []
    model.encoder.register_forward_hook(lambda module, frames, found: seen.append(len(found)))
    latents = Latents(model, tiny_dataset)
    slow_metric.fit(latents, np.arange(4))
    for episodes in ([0, 1, 2], [2, 3], [3]):
        HindsightPairs(latents, np.array(episodes))
    assert sum(seen) == tiny_dataset.episode_lengths[:4].sum()
    known = encode_all(model, tiny_dataset)
    seen.clear()
    slow_metric.fit(Latents(model, tiny_dataset, known), np.arange(4))
    assert not seen


def test_episodes_shorter_than_a_block_are_refused(tiny_config: AgentConfig, tiny_dataset: OfflineDataset) -> None:
    long_blocks = dataclasses.replace(tiny_config.model, frame_skip=500)
    with pytest.raises(ValueError, match="longer than one action block"):
        HindsightPairs(Latents(WorldModel(long_blocks).eval(), tiny_dataset), np.arange(2))


def test_learns_actions_that_follow_from_the_goal() -> None:
    """Pairs in which the block is a fixed linear function of goal and latent."""
    torch.manual_seed(0)
    model = dataclasses.replace(AgentConfig().model, latent_dim=4, frame_skip=1, action_dim=2)
    weights = torch.randn(4, 2)

    class Pairs:
        def draw(self, count: int, furthest: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
            latents, goals = torch.as_tensor(rng.normal(size=(2, count, 4)), dtype=torch.float32)
            left = torch.as_tensor(1 + rng.integers(furthest, size=count))
            return latents, goals, left, (goals - latents) @ weights / left[:, None]

    config = dataclasses.replace(HEAD, width=64, steps=600, batch_size=128)
    head = InverseDynamics(model.latent_dim, model.block_dim, config)
    before = fit(head, Pairs(), Pairs(), dataclasses.replace(config, steps=1), 0)  # type: ignore[arg-type]
    after = fit(head, Pairs(), Pairs(), config, 0)  # type: ignore[arg-type]
    assert after < 0.1 * before


def test_proposals_act_in_imagination(tiny_config: AgentConfig) -> None:
    torch.manual_seed(0)
    world_model = WorldModel(tiny_config.model, inverse_dynamics=HEAD).eval()
    head = world_model.inverse_dynamics
    assert head is not None
    history, blocks = tiny_config.model.history, tiny_config.model.block_dim
    latents, goals = torch.randn(2, history, 8), torch.randn(2, 8)
    past = torch.randn(2, history - 1, blocks)
    with torch.inference_mode():
        plans = world_model.propose(latents, past, goals, torch.arange(1, 5).expand(2, 4), 3)
        imagined = world_model.rollout(latents, past, plans)
    assert plans.shape == (2, 4, 3, blocks)
    for left in range(1, 5):  # every block is what the head says of the latent imagined before it
        sequence = torch.cat([latents[:, -1:], imagined[:, left - 1]], dim=1)
        for step in range(3):
            remaining = torch.full((2,), max(1, left - step))
            expected = head(sequence[:, step], goals, remaining)
            torch.testing.assert_close(plans[:, left - 1, step], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("proposals", ["follow", "refine", "approach"])
def test_an_arrival_once_chosen_is_kept_until_it_is_due(
    learned: Path, config: AgentConfig, proposals: Proposals
) -> None:
    planner = dataclasses.replace(config.planner, proposals=proposals, execute=1)
    agent = LeWMAgent.from_pretrained(learned / "model", planner=planner)
    frames = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    memories = agent.initial_memories([0])
    arrivals = []
    for frame in frames:
        plans = memories[0].plans
        _, memories = agent.predict({"pixels": frame, "goal": frames[0]}, memories)
        if memories[0].plans > plans:
            arrivals.append(memories[0].arrival)
    assert len(arrivals) == 12
    assert all(after == before - 1 for before, after in itertools.pairwise(arrivals) if before)
    assert sum(arrivals) > 0


def test_an_amortised_action_is_what_the_head_says_of_the_kept_arrival(learned: Path, config: AgentConfig) -> None:
    planner = dataclasses.replace(config.planner, proposals="follow", execute=1, history=1)
    agent = LeWMAgent.from_pretrained(learned / "model", planner=planner)
    model, head = agent.world_model, agent.world_model.inverse_dynamics
    assert head is not None
    frame, goal = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    memory = dataclasses.replace(agent.initial_memories([0])[0], goal=goal, arrival=3)
    with torch.inference_mode():
        latents = model.encode(torch.as_tensor(np.stack([frame, goal])))
        block = head(latents[:1], latents[1:], torch.tensor([3])).view(-1, 2)
        expected = model.codec.denormalize(block).clamp(-1, 1)
        memory = dataclasses.replace(memory, goal_latent=latents[1])
    action, [after] = agent.predict({"pixels": frame, "goal": goal}, [memory])
    np.testing.assert_allclose(action, expected[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.stack(after.queue), expected[1:].numpy(), rtol=1e-5, atol=1e-6)
    assert after.arrival == 2


@pytest.mark.parametrize(
    ("soon", "late", "far"), [(1.9, 1.0, False), (2.1, 1.0, True), (0.0, 0.0, False), (3.0, 9.0, False)]
)
def test_a_proposal_is_followed_while_the_goal_is_out_of_reach(
    learned: Path, config: AgentConfig, soon: float, late: float, far: bool
) -> None:
    """Plans come ``soon`` near within their two blocks, and ``late`` near afterwards."""
    planner = dataclasses.replace(config.planner, proposals="approach", horizon=2, execute=1, history=1)
    agent = LeWMAgent.from_pretrained(learned / "model", planner=planner)
    controller, model = agent.controller, agent.world_model
    frame, goal = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    with torch.inference_mode():
        latents = model.encode(torch.as_tensor(np.stack([frame, goal])))

    def rollout(known: torch.Tensor, past: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        away = torch.tensor([soon, soon, late, late])[: blocks.shape[2]]
        unit = torch.eye(latents.shape[1])[0]
        return (latents[1] + away[:, None] * unit).expand(*blocks.shape[:2], -1, -1)

    controller.rollout = rollout
    _, [memory] = agent.predict({"pixels": frame, "goal": goal}, agent.initial_memories([0]))
    assert (memory.arrival == 0) == far or memory.arrival < 2  # a walk of three blocks ends where two are left
    assert memory.rest is not None
    head = model.inverse_dynamics
    assert head is not None
    block = head(latents[:1], latents[1:], torch.tensor([3])).view(-1, 2)
    proposed = model.codec.denormalize(block).clamp(-1, 1).detach().numpy()
    assert np.allclose(np.stack(memory.queue), proposed[1:], atol=1e-5) == far


def acted(learned: Path, planner: str | PlannerConfig, frames: NDArray[np.uint8], at_once: int) -> NDArray[np.float32]:
    """Actions (T, N, A) on frames (T, N, H, W, 3) of N environments, planned for so many at once."""
    agent = LeWMAgent.from_pretrained(learned / "model", planner=planner)
    agent.controller.problems_at_once = at_once
    memories = agent.initial_memories(list(range(frames.shape[1])))
    actions = []
    for pixels in frames:
        action, memories = agent.predict({"pixels": pixels, "goal": frames[0]}, memories)
        actions.append(action)
    return np.stack(actions)


@pytest.mark.parametrize("planner", ["small", "hybrid", "approach", "amortised", "icem", "mixture", "wide"])
def test_environments_planned_for_in_one_batch_act_as_one_by_one(learned: Path, planner: str) -> None:
    """What a GPU does; on the CPU the controller plans for one after the other."""
    frames = np.random.default_rng(0).integers(0, 256, (12, 3, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_allclose(*(acted(learned, planner, frames, at_once) for at_once in (1, 256)), atol=1e-3)


@pytest.mark.parametrize("search", [ICEM(), Mixture(components=3), Gradient()])
def test_who_follows_a_proposal_beside_who_searches_acts_as_alone(
    learned: Path, config: AgentConfig, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followed plans leave one rest, and a search may leave several."""

    def aiming(self: Controller, memories: Memories) -> Memories:
        return [dataclasses.replace(m, arrival=1 if (m.seed + m.plans) % 3 else 4) for m in memories]

    monkeypatch.setattr(Controller, "_aiming", aiming)
    planner = dataclasses.replace(
        config.planner, proposals="approach", search=search, samples=12, elites=6, horizon=2, execute=1, history=1
    )
    frames = np.random.default_rng(0).integers(0, 256, (16, 2, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_allclose(*(acted(learned, planner, frames, at_once) for at_once in (1, 256)), atol=1e-3)


def test_learned_head_is_saved_and_plans_alike(learned: Path, config: AgentConfig) -> None:
    agent, twin = (LeWMAgent.from_pretrained(learned / "model") for _ in range(2))
    assert 0 < agent.description.origin["inverse_dynamics_error"] < 2
    frame, goal = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    actions = agent.act(frame, goal)
    np.testing.assert_array_equal(actions, twin.act(frame, goal))
    unrefined = dataclasses.replace(config.planner, proposals="follow")
    amortised = twin.set_planner(unrefined).act(frame, goal)
    assert not np.array_equal(amortised, actions)


def test_same_seed_same_head(config: AgentConfig, learned: Path, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    again = LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "run", progress=False)
    assert_same_weights(LeWMAgent.from_pretrained(learned / "model"), again)


def assert_same_weights(one: LeWMAgent, other: LeWMAgent) -> None:
    theirs = other.world_model.state_dict()
    for name, value in one.world_model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_a_resumed_run_learns_the_head_anew(
    config: AgentConfig, learned: Path, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    agent = LeWMAgent("two_room", config)
    agent.learn(tiny_dataset, learned / "run", resume=True, progress=False)
    assert_same_weights(LeWMAgent.from_pretrained(learned / "model"), agent)


def test_a_model_without_the_head_refuses_its_planners(tiny_agent: LeWMAgent) -> None:
    with pytest.raises(ValueError, match="needs a model with inverse_dynamics"):
        tiny_agent.set_planner("hybrid")


def test_what_an_amortised_plan_leads_to_is_imagined_beyond_the_next_block(learned: Path) -> None:
    agent = LeWMAgent.from_pretrained(learned / "model", device="cpu")
    agent.set_planner(dataclasses.replace(planner_preset("amortised", agent.config.model), cost="terminal"))
    frame, goal = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 200, np.uint8)
    horizon, memories = agent.config.planner.horizon, None
    plans = []
    for _ in range(1 + agent.config.model.frame_skip):
        before = memories[0].plans if memories else 0
        _, memories = agent.predict({"pixels": frame, "goal": goal}, memories)
        if memories[0].plans > before:
            plans.append(imagine(agent.world_model, agent.config.planner, memories[0]))
    assert [len(actions) for actions, _ in plans] == [len(latents) for _, latents in plans] == [horizon, horizon]


def test_a_checkpoint_from_before_the_head_was_trained_does_not_act_on_it(learned: Path) -> None:
    unfinished = LeWMAgent.from_pretrained(learned / "run" / "checkpoints" / "last", device="cpu")
    frame = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="head is trained when the rest has been"):
        unfinished.act(frame, frame)
    assert unfinished.set_planner("small").act(frame, frame).shape == (2,)


def test_weights_of_a_head_that_the_configuration_lacks_are_refused(learned: Path, tmp_path: Path) -> None:
    agent = LeWMAgent.from_pretrained(learned / "model").set_planner("small")
    bare = dataclasses.replace(agent.config, inverse_dynamics=None)
    agent.description = dataclasses.replace(agent.description, agent=bare)
    with pytest.raises(CheckpointError, match=r"unknown \['inverse_dynamics"):
        LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path))


def test_settings_are_checked(tiny_config: AgentConfig) -> None:
    with pytest.raises(ValueError, match="furthest must be at least 1"):
        InverseDynamicsConfig(furthest=0)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        dataclasses.replace(tiny_config.planner, iterations=0)
    with pytest.raises(ValueError, match="initial_std must be positive"):
        dataclasses.replace(tiny_config.planner, initial_std=0.0)


def test_inverse_loss_is_that_of_every_block_towards_the_goal(tiny_config: AgentConfig) -> None:
    torch.manual_seed(0)
    objective = dataclasses.replace(tiny_config.objective, inverse_weight=0.5)
    model = WorldModel(tiny_config.model, objective, HEAD).eval()
    assert model.inverse_dynamics is not None
    frames = torch.randint(0, 256, (3, 5, 16, 16, 3), dtype=torch.uint8)
    actions = torch.randn(3, 3, 5, 2)
    loss = model.loss(ClipBatch(frames[:, :4], actions, frames[:, 4], torch.tensor([0, 1, 2])))
    latents, blocks = model.encode(frames), model.codec.blocks(actions)
    errors = [
        (model.inverse_dynamics(latents[[i], t], latents[[i], 4], torch.tensor([i + 3 - t])) - blocks[i, t]).square()
        for i in range(3)
        for t in range(3)
    ]
    torch.testing.assert_close(loss.terms["inverse"], torch.cat(errors).mean())
    torch.manual_seed(1)
    with_goal = model.loss(ClipBatch(frames[:, :4], actions, frames[:, 4], torch.tensor([0, 1, 2])))
    torch.manual_seed(1)
    without = model.loss(ClipBatch(frames[:, :4], actions))
    torch.testing.assert_close(with_goal.total, without.total + 0.5 * with_goal.terms["inverse"])
    loss.total.backward()
    assert model.encoder.projector[0].weight.grad is not None


def test_a_joint_training_shapes_the_latents(
    config: AgentConfig, tiny_dataset: OfflineDataset, learned: Path, tmp_path: Path
) -> None:
    objective = dataclasses.replace(config.objective, inverse_weight=1.0)
    joint = LeWMAgent("two_room", dataclasses.replace(config, objective=objective))
    joint.learn(tiny_dataset, tmp_path / "run", progress=False)
    apart = LeWMAgent.from_pretrained(learned / "model").world_model.encoder.state_dict()
    encoder = joint.world_model.encoder.state_dict()
    assert any(not torch.equal(value, apart[name]) for name, value in encoder.items())
    assert '"inverse": 0.0' not in (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=r"inverse_weight needs inverse_dynamics"):
        dataclasses.replace(
            joint.config, inverse_dynamics=None, planner=dataclasses.replace(config.planner, proposals="none")
        )
