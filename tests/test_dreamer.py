"""Dreamer learns online from rewards, goes on after a kill, and carries its state from look to look."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lewm_agent import cli, environment
from lewm_agent.agents import load_agent, make_agent
from lewm_agent.agents.registry import agent_config
from lewm_agent.agents.rivals import online
from lewm_agent.agents.rivals.dreamer import BINS, DreamerConfig, DreamerModel, torchrl
from lewm_agent.agents.rivals.dreamer_agent import DreamerAgent, DreamerRun
from lewm_agent.agents.rivals.online_run import OnlineRun
from lewm_agent.datasets import OfflineDataset
from lewm_agent.presets import PRESETS, preset
from lewm_agent.training.metrics_log import read_rows
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.settings import TrainingConfig

SIDE = 40
MODEL = DreamerModel(image_size=SIDE, channels=2, width=16, belief=16, categoricals=4, classes=4, frame_skip=5)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "RANDOM_STEPS", 40)
    monkeypatch.setattr(online, "RANDOM_EPISODES", 2)
    monkeypatch.setattr(online, "LOG_EVERY", 1)


def config(**changes: Any) -> DreamerConfig:
    training = TrainingConfig(batch_size=4, learning_rate=1e-3, gradient_clip=0.3)
    base = DreamerConfig(MODEL, training, sequence=6, imagined=3, every=2, warmup=1)
    return dataclasses.replace(base, **changes)


def two_room() -> environment.Environment:
    return environment.make("two_room", SIDE, max_episode_steps=20)


def agent(seed: int = 2, **changes: Any) -> DreamerAgent:
    return DreamerAgent(two_room(), config(**changes), device="cpu", seed=seed)


def frames(count: int, side: int = SIDE) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("frozen", [False, True])
def test_learns_saves_loads_and_acts_the_same(frozen: bool, trained_folder: Path, tmp_path: Path) -> None:
    learner = agent(seed=1, frozen=str(trained_folder) if frozen else None)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.learn_online(tmp_path / "run", 80, progress=False)
    after = learner.model.state_dict()
    changed = {name.split(".")[0] for name, value in after.items() if not value.equal(before[name])}
    learned = {"decoder", "prior", "posterior", "rewards", "goes_on", "actor", "critic"}
    assert changed == learned | {"observer" if frozen else "encoder"}
    record = learner.description.training
    assert record is not None and record.finished and record.data == "4 episodes online, 80 environment steps"
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["split"] == "train"]
    assert [row["updates"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]  # every other decision, of four an episode
    assert {"model_reco", "model_reward", "model_continue", "actor", "value"} <= rows[0].keys()
    again = load_agent(learner.save_pretrained(tmp_path / "model"), device="cpu", seed=1)
    assert again.kind == "dreamer"
    goal, *shown = frames(3, learner.config.model.image_size)
    taken = [one.act(frame, goal) for one in (learner, again) for frame in [shown[0]] * 5 + [shown[1]]]
    np.testing.assert_array_equal(taken[:6], taken[6:])
    assert (taken[0] == taken[4]).all() and not (taken[4] == taken[5]).all()  # repeated, then another decision
    with pytest.raises(ValueError, match="does not plan"):
        again.set_planner("small")


def test_goes_on_after_a_kill_as_if_it_had_never_stopped(goes_on_after_a_kill: Callable[..., Any]) -> None:
    goes_on_after_a_kill(agent, 100, 60, 4)


def test_a_state_is_carried_within_an_episode_and_each_environment_has_its_own() -> None:
    learner, (goal, first, second) = agent(), frames(3)
    with pytest.warns(UserWarning, match="has learned nothing"):
        alone, state = learner.predict({"pixels": first, "goal": goal})
    assert alone.shape == (2,)
    memory = dataclasses.replace(state[0], queue=())
    shown = {"pixels": np.stack([second, second]), "goal": np.stack([goal, goal])}
    _, later = learner.predict(shown, [memory, memory])
    _, fresh = learner.predict(shown, [memory, memory], episode_start=np.array([False, True]))
    assert torch.equal(later[0].latents[1], fresh[0].latents[1])
    assert not torch.allclose(later[1].latents[1], fresh[1].latents[1])  # what was seen before is forgotten
    other = learner.controller.instead(memory, np.ones(2, np.float32))
    _, after = learner.predict(shown, [other, memory])
    assert not torch.allclose(after[0].latents[1], later[0].latents[1])  # another action had been taken
    both, states = learner.predict({"pixels": np.stack([first, second]), "goal": np.stack([goal, goal])})
    assert both.shape == (2, 2) and np.array_equal(both[0], alone)
    assert torch.equal(states[0].latents[1], state[0].latents[1])


def run(learner: DreamerAgent, folder: Path) -> DreamerRun:
    made = DreamerRun(learner, RunFolder(folder), 100, 0, 100, False)
    made._replay = made._begin()
    made._replay.keep(0, 0)
    return made


def test_sequences_begin_with_the_state_that_was_carried_and_go_through_ends(tmp_path: Path) -> None:
    made = run(agent(), tmp_path)
    for episode, length in enumerate((5, 1, 9)):
        rows: list[dict[str, Any]] = [
            {
                "seen": np.full((SIDE, SIDE, 3), 10 * episode + t, np.uint8),
                "action": np.full(2, 10 * episode + t, np.float32),
                "reward": 10 * episode + t,
                "ended": episode == 1,
            }
            for t in range(length)
        ]
        made._keep([*rows, {"seen": rows[-1]["seen"] + 1}], np.full((SIDE, SIDE, 3), episode, np.uint8))
    drawn = [made._drawn(np.random.default_rng(seed)) for seed in range(40)]
    sample = torch.stack(drawn).flatten(0, 1)
    place, goal = sample["next", "pixels"][..., 0, 0, 0].unbind(-1)
    episode, t = place // 10, place % 10
    length = torch.tensor([5, 1, 9])[episode.long()]
    begun, after = t == 0, sample["next"]
    assert torch.equal(goal, episode) and torch.equal(sample["is_init"][..., 0], begun)
    before = torch.where(begun, 0.0, place.float() - 1)
    assert torch.equal(after["reward"][..., 0], before) and torch.equal(sample["action"][..., 1], before)
    assert torch.equal(after["done"][..., 0], t == length)
    assert torch.equal(after["terminated"][..., 0], (episode == 1) & (t == 1))
    carried = torch.cat([sample["belief"], sample["state"]], -1)[:, 0].abs().sum(-1)
    assert torch.equal(carried > 0, ~begun[:, 0]) and set(begun[:, 0].tolist()) == {True, False}
    with pytest.raises(ValueError, match=r"0 frames were seen, fewer than sequence \(6\): shorten it"):
        run(agent(), tmp_path / "other")._drawn(np.random.default_rng(0))


def test_reward_is_learned_and_the_policy_seeks_it(trained_folder: Path, tmp_path: Path) -> None:
    """A decision is worth its first number, less its second."""
    training = TrainingConfig(batch_size=16, learning_rate=1e-2, gradient_clip=0.3)
    wider = dataclasses.replace(MODEL, width=32)
    short = {"model": wider, "training": training, "discount": 0.5, "sequence": 3, "imagined": 1}
    learner = agent(frozen=str(trained_folder), **short)
    made, rng = run(learner, tmp_path), np.random.default_rng(0)
    assert learner.config.model.seen is not None
    seen = np.zeros(learner.config.model.seen.latent_dim, np.float32)
    for _ in range(8):
        rows: list[dict[str, Any]] = [
            {"seen": seen, "action": action, "reward": action[0] - action[1], "ended": False}
            for action in rng.uniform(-1, 1, (12, 2)).astype(np.float32)
        ]
        made._keep([*rows, {"seen": seen}], seen)
    for _ in range(150):
        made._step()
        made._learned_steps += 1
    with torch.no_grad():
        state = learner.model.state(torch.zeros(2, len(seen)), ())
        mean, _ = learner.model.policy(*state)
        taken = torch.tensor([[0.8, -0.8], [-0.8, 0.8]])
        _, drawn, belief = learner.model.prior(*(part.expand(2, -1) for part in state), taken)
        high, low = torchrl("torchrl.modules").SymExpTwoHot(BINS)(learner.model.rewards(drawn, belief))
    assert high - low > 1
    assert mean[0] > 0.5 and mean[1] < -0.5


def test_refusals_are_one_sentence(
    tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"not from recorded episodes: learn_online"):
        agent().learn(tiny_dataset, tmp_path / "offline")
    with pytest.raises(ValueError, match="image_size must be a multiple of 8, and at least 32, got 36"):
        dataclasses.replace(MODEL, image_size=36)
    with pytest.raises(ValueError, match="belief must be a multiple of 8, got 12"):
        dataclasses.replace(MODEL, belief=12)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        config(every=0)
    saved = agent().save_pretrained(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "torchrl.modules", None)
    for make in (lambda: agent(), lambda: load_agent(saved)):
        with pytest.raises(ImportError, match=r"dreamer needs torchrl .*: pip install 'lewm-agent\[rivals\]'"):
            make()


def test_another_process_loads_it(tmp_path: Path) -> None:
    """TorchRL is imported there while the sizes of the model are checked, without memory."""
    saved = agent().save_pretrained(tmp_path / "model")
    code = "import sys; from lewm_agent.agents import load_agent; print(load_agent(sys.argv[1], device='cpu').kind)"
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "dreamer"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PRESETS:
        assert isinstance(agent_config("dreamer", preset(name)), DreamerConfig)
    assert agent_config("dreamer", preset("paper")).model == DreamerModel()
    assert make_agent("dreamer", two_room(), config()).kind == "dreamer"
    given: list[Any] = []
    monkeypatch.setattr(OnlineRun, "train", lambda run, resume: given.append((run.steps, run.checkpoint_every, resume)))
    arguments = ["learn-online", "two_room", "--agent", "dreamer", "--output", str(tmp_path), "--steps", "70"]
    assert cli.main([*arguments, "--checkpoint-every", "9", "--resume", "--device", "cpu"]) == 0
    assert given == [(70, 9, True)] and load_agent(tmp_path / "model").kind == "dreamer"
