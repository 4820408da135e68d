"""TD-MPC2 learns online from rewards, goes on after a kill, and acts as any other agent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from lewm_agent import cli, environment
from lewm_agent.agents import load_agent, make_agent
from lewm_agent.agents.registry import agent_config
from lewm_agent.agents.rivals import online
from lewm_agent.agents.rivals.online_run import OnlineRun, Replay
from lewm_agent.agents.rivals.tdmpc2 import TDMPC2, Sequences, TDMPC2Config, TDMPC2Model, TDMPC2Planner, shifted
from lewm_agent.agents.rivals.tdmpc2_agent import TDMPC2Agent, plan
from lewm_agent.commands import learn
from lewm_agent.datasets import OfflineDataset
from lewm_agent.presets import PRESETS, preset
from lewm_agent.training.metrics_log import read_rows

PLANNER = TDMPC2Planner(horizon=2, iterations=2, samples=8, elites=4, policy_samples=2)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "RANDOM_STEPS", 40)
    monkeypatch.setattr(online, "RANDOM_EPISODES", 2)
    monkeypatch.setattr(online, "LOG_EVERY", 1)


def small(base: Any, **changes: Any) -> TDMPC2Config:
    """A few thousand parameters, on frames of 40 px."""
    sizes = {"channels": 4, "encoder_width": 16, "width": 16, "latent_dim": 16, "frame_skip": 5, "image_size": 40}
    config = TDMPC2Config(planner=PLANNER, training=dataclasses.replace(base.training, batch_size=4), **changes)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **sizes))


def two_room(steps: int = 20) -> environment.Environment:
    return environment.make("two_room", 40, max_episode_steps=steps)


@pytest.mark.parametrize("frozen", [False, True])
def test_learns_saves_loads_and_acts_the_same(
    frozen: bool, tiny_config: Any, trained_folder: Path, tmp_path: Path
) -> None:
    agent = TDMPC2Agent(two_room(), small(tiny_config, frozen=str(trained_folder) if frozen else None), seed=1)
    before = {name: value.clone() for name, value in agent.model.state_dict().items()}
    agent.learn_online(tmp_path / "run", 80, progress=False)
    changed = {name.split(".")[0] for name, value in agent.model.state_dict().items() if not value.equal(before[name])}
    learned = {"observer", "dynamics", "reward", "policy", "values", "target_values"}
    assert learned | ({"encoder"} if not frozen else set()) <= changed
    assert ("encoder" in changed) is not frozen
    record = agent.description.training
    assert record is not None and record.finished and record.data == "4 episodes online, 80 environment steps"
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    episodes = [row for row in rows if row["split"] == "episode"]
    assert [row["step"] for row in episodes] == [20, 40, 60, 80] and all(row["reward"] < 0 for row in episodes)
    again = load_agent(agent.save_pretrained(tmp_path / "model"), device="cpu", seed=1)
    side = agent.config.model.image_size
    frame, goal = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    taken = [one.act(frame, goal) for one in (agent, again) for _ in range(6)]
    np.testing.assert_array_equal(taken[:6], taken[6:])
    assert (taken[0] == taken[4]).all() and not (taken[4] == taken[5]).all()  # repeated, then another search
    with pytest.raises(ValueError, match="takes no other planner"):
        again.set_planner("small")


def test_goes_on_after_a_kill_as_if_it_had_never_stopped(
    tiny_config: Any, tmp_path: Path, goes_on_after_a_kill: Callable[..., Any]
) -> None:
    def agent() -> TDMPC2Agent:
        return TDMPC2Agent(two_room(), small(tiny_config), device="cpu", seed=2)

    goes_on_after_a_kill(agent, 100, 60, 4)
    (tmp_path / "run" / "replay" / "seen.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"seen.bin is cut short: begin anew"):
        agent().learn_online(tmp_path / "run", 120, resume=True, progress=False)


def test_sequences_lie_within_an_episode_and_begin_with_its_first_frame(tmp_path: Path) -> None:
    replay = Replay(tmp_path, ((1,), np.dtype(np.float32)), 1)
    for episode, length in enumerate((4, 1, 6)):
        rows: list[dict[str, Any]] = [
            {"seen": [10 * episode + t], "action": [t], "reward": 10 * episode + t, "ended": t == length - 1}
            for t in range(length)
        ]
        replay.add([*rows, {"seen": [10 * episode + length]}], np.array([episode], np.float32))
    drawn = replay.draw(300, 2, 3, np.random.default_rng(0))
    assert drawn.seen.shape == (300, 5, 1) and drawn.actions.shape == (300, 2, 1)
    episode, start = drawn.goals[:, 0], drawn.actions[:, 0, 0]
    assert set(episode.tolist()) == {0.0, 2.0} and {0.0, 1.0, 2.0} <= set(start.tolist())
    place = (start[:, None] + torch.arange(-2, 3)).clamp(min=0)
    assert torch.equal(drawn.seen[..., 0], 10 * episode[:, None] + place)
    assert torch.equal(drawn.rewards, 10 * episode[:, None] + start[:, None] + torch.arange(2))
    last = torch.where(episode == 0, 4, 6)
    assert torch.equal(drawn.ended[:, 1], start + 2 == last)
    replay.keep(7, 2)
    with pytest.raises(ValueError, match="no episode is 5 decisions long"):
        replay.draw(3, 5, 3, np.random.default_rng(0))


def model() -> TDMPC2:
    torch.manual_seed(0)
    sizes = TDMPC2Model(image_size=40, channels=4, encoder_width=16, width=32, latent_dim=16, history=1)
    return TDMPC2(TDMPC2Config(sizes, PLANNER)).eval()


def test_numbers_survive_the_two_hot_scale() -> None:
    numbers = torch.tensor([-300.0, -1.0, 0.0, 0.3, 7.0])
    weights = model()._two_hot(numbers)
    assert torch.allclose(weights.sum(1), torch.ones(5)) and ((weights > 0).sum(1) <= 2).all()
    scaled = (weights * model().bins).sum(1)
    torch.testing.assert_close(scaled.sign() * scaled.abs().expm1(), numbers, rtol=1e-3, atol=1e-4)


def test_reward_and_value_are_learned_and_plans_seek_them() -> None:
    """One decision is worth what its first number is; the search finds that it should be large."""
    learner, rng = model(), np.random.default_rng(0)
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], 3e-3)
    seen = torch.zeros(32, 3, learner.observer[0].in_features // 2)
    for _ in range(120):
        actions = torch.as_tensor(rng.uniform(-1, 1, (32, 2, 2)), dtype=torch.float32)
        batch = Sequences(seen, seen[:, 0], actions, actions[..., 0], torch.ones(32, 2, dtype=torch.bool))
        optimizer.zero_grad()
        learner.loss(batch).total.backward()
        optimizer.step()
    z = learner.latent(seen[:2, :1], seen[:2, 0])
    ends = torch.tensor([[-0.8, 0.0], [0.8, 0.0]])
    rewards, values = learner.expected_reward(z, ends), learner.value_of(z, ends)
    assert rewards[1] - rewards[0] > 0.8 and values[1] - values[0] > 0.8
    more = dataclasses.replace(PLANNER, samples=64, elites=8, iterations=4)
    action, _ = plan(learner, z[0], None, more, exploring=False)
    assert action[0] > 0.5


def test_the_policy_follows_values_and_the_target_follows_them_slowly() -> None:
    learner = model()
    last = learner.values[0][-1]
    before = [p.clone() for p in learner.target_values.parameters()]
    with torch.no_grad():
        last.weight.add_(1.0)
    learner.after_step(1.0)
    moved = [
        (now - was).abs().max().item() for now, was in zip(learner.target_values.parameters(), before, strict=True)
    ]
    assert max(moved) == pytest.approx(0.01)
    loss = learner.policy_loss(torch.rand(8, 3, 16))
    gradients = torch.autograd.grad(loss, list(learner.policy.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients) and any(g.abs().sum() > 0 for g in gradients)


def test_pictures_of_a_sequence_are_shifted_alike() -> None:
    pictures = torch.randint(0, 256, (1, 1, 12, 12, 3), dtype=torch.uint8).repeat(6, 4, 1, 1, 1)
    torch.manual_seed(0)
    moved = shifted(pictures, 3)
    assert all(torch.equal(row[0], picture) for row in moved for picture in row)
    assert len({row[0].numpy().tobytes() for row in moved}) > 1
    assert any(
        torch.equal(moved[n, 0, 3:-3, 3:-3], pictures[0, 0, 3 + i : 9 + i, 3 + j : 9 + j])
        for n in range(6)
        for i in range(-3, 4)
        for j in range(-3, 4)
    )


class Unrewarded(gym.Wrapper[Any, Any, Any, Any]):
    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, 0.0, *rest


def test_refusals_are_one_sentence(tiny_config: Any, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    config = small(tiny_config)
    with pytest.raises(ValueError, match="steps of random actions the environment's reward was always 0: there is"):
        TDMPC2Agent(Unrewarded(two_room()), config).learn_online(tmp_path / "run", 80, progress=False)
    goalless = gym.make("Pendulum-v1", render_mode="rgb_array")
    with pytest.raises(ValueError, match="no picture of its goal"):
        TDMPC2Agent(goalless, config).learn_online(tmp_path / "none", 80, progress=False)
    with pytest.raises(ValueError, match="nothing was learned in 20 environment steps"):
        TDMPC2Agent(two_room(), config).learn_online(tmp_path / "brief", 1, progress=False)
    with pytest.raises(ValueError, match="actions are choices"):
        TDMPC2Agent(gym.make("CartPole-v1", render_mode="rgb_array"), config)
    with pytest.raises(ValueError, match=r"not from recorded episodes: learn_online"):
        make_agent("tdmpc2", two_room(), config).learn(tiny_dataset, tmp_path / "offline")
    with pytest.raises(ValueError, match="policy_samples"):
        TDMPC2Planner(samples=4, elites=8)
    for name in PRESETS:
        assert isinstance(agent_config("tdmpc2", preset(name)), TDMPC2Config)
    assert agent_config("tdmpc2", preset("paper")).planner == TDMPC2Planner()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[Any] = []
    monkeypatch.setattr(OnlineRun, "train", lambda run, resume: given.append((run.steps, run.checkpoint_every, resume)))
    output = str(tmp_path / "out")
    arguments = ["learn-online", "two_room", "--output", output, "--steps", "70", "--checkpoint-every", "9", "--resume"]
    assert cli.main([*arguments, "--device", "cpu"]) == 0
    assert given == [(70, 9, True)] and load_agent(Path(output) / "model").kind == "tdmpc2"
    assert cli.main([*arguments, "--agent", "gcbc"]) == 2
    assert "`gcbc` learns from recorded episodes" in capsys.readouterr().err.replace("\n", " ")
    offline = ["--env", "two_room", "--dataset", output, "--output", output, "--agent", "tdmpc2", "--search", "cem"]
    assert learn.main([*offline, "small"]) == 2
