"""Every agent behind the one interface: learn, resume, save, load, act, and be measured."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from lewm_agent import AgentConfig, CheckpointError, LeWMAgent, cli, presets
from lewm_agent.agents import load_agent, make_agent
from lewm_agent.agents.registry import agent_classes, agent_config
from lewm_agent.agents.rivals.dino_wm import DinoWMConfig
from lewm_agent.agents.rivals.goal_policy import GoalPolicyConfig
from lewm_agent.datasets import OfflineDataset
from lewm_agent.eval import success_rate

RIVALS = ["pldm", "ema", "dino_wm", "gcbc", "gcivl", "gciql"]


def brief(base: AgentConfig, name: str, folder: Path, epochs: float = 1.0) -> Any:
    """A tiny rival; DINO-WM on the patches of the world model in ``folder``."""
    training = dataclasses.replace(base.training, epochs=epochs)
    found: Any = agent_config(name, dataclasses.replace(base, training=training))
    if isinstance(found, DinoWMConfig):
        return dataclasses.replace(found, model=dataclasses.replace(found.model, backbone=str(folder)))
    if isinstance(found, GoalPolicyConfig):
        return dataclasses.replace(found, policy=dataclasses.replace(found.policy, width=16, depth=1))
    return found


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "clips_per_second"} for line in lines]


def frames(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", RIVALS)
def test_learns_saves_loads_and_acts_the_same(
    name: str, tiny_config: AgentConfig, tiny_dataset: OfflineDataset, trained_folder: Path, tmp_path: Path
) -> None:
    agent = make_agent(name, "two_room", brief(tiny_config, name, trained_folder), device="cpu", seed=3)
    before = {key: value.clone() for key, value in agent.model.state_dict().items()}
    agent.learn(tiny_dataset, tmp_path / "run", workers=0, progress=False)
    assert any(not torch.equal(value, before[key]) for key, value in agent.model.state_dict().items())
    again = load_agent(agent.save_pretrained(tmp_path / "model"), device="cpu", seed=3)
    assert type(again) is type(agent) and again.kind == name and again.config == agent.config
    assert again.weights_sha256() == agent.weights_sha256()
    goal, *seen = frames(12)
    actions = [agent.act(frame, goal) for frame in seen]
    np.testing.assert_array_equal(actions, [again.act(frame, goal) for frame in seen])
    assert all(action in agent.action_space for action in actions)
    batch, _ = agent.predict({"pixels": np.stack(seen), "goal": np.stack([goal] * 11)})
    assert batch.shape == (11, 2)
    assert f"| environment | {name}" not in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("name", RIVALS)
def test_resumed_training_equals_an_uninterrupted_one(
    name: str,
    tiny_config: AgentConfig,
    tiny_dataset: OfflineDataset,
    trained_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def learn(run: str, **options: Any) -> Any:
        agent = make_agent(name, "two_room", brief(tiny_config, name, trained_folder), device="cpu")
        return agent.learn(tiny_dataset, tmp_path / run, workers=0, progress=False, checkpoint_every=4, **options)

    whole = learn("whole")
    steps, loss = iter(range(6)), type(whole.model).loss

    def stopping(model: Any, *batch: Any) -> Any:
        if model.training and next(steps, None) is None:
            raise KeyboardInterrupt
        return loss(model, *batch)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(type(whole.model), "loss", stopping)
        learn("stopped")
    resumed = learn("stopped", resume=True)
    assert metrics(tmp_path / "stopped")[-1] == metrics(tmp_path / "whole")[-1]
    assert resumed.weights_sha256() == whole.weights_sha256()


def test_names_are_suggested_and_configurations_checked(tiny_config: AgentConfig) -> None:
    with pytest.raises(ValueError, match=r"no agent `gcibl`.*did you mean `gcivl`"):
        make_agent("gcibl", "two_room", tiny_config)
    with pytest.raises(ValueError, match="does not describe the agent `gcbc`"):
        make_agent("gcbc", "two_room", GoalPolicyConfig.like(tiny_config, "gciql"))
    assert set(RIVALS) | {"lewm"} <= set(agent_classes())
    assert isinstance(make_agent("lewm", "two_room", tiny_config), LeWMAgent)


@pytest.mark.parametrize("preset", sorted(presets.PRESETS))
@pytest.mark.parametrize("name", RIVALS)
def test_every_preset_has_its_rivals(name: str, preset: str) -> None:
    base = presets.preset(preset)
    rival = agent_config(name, base)
    assert rival.training == base.training
    assert rival.model.image_size == base.model.image_size
    assert type(rival).from_dict(json.loads(json.dumps(rival.to_dict()))) == rival


def test_another_kind_of_checkpoint_is_refused(tiny_config: AgentConfig, trained_folder: Path, tmp_path: Path) -> None:
    agent = make_agent("gcbc", "two_room", brief(tiny_config, "gcbc", trained_folder), device="cpu")
    folder = agent.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds a `gcbc` agent: load it with"):
        LeWMAgent.from_pretrained(folder)
    with pytest.raises(ValueError, match="does not plan"):
        load_agent(folder, planner="small")
    values = json.loads((folder / "config.json").read_text())
    values["agent"]["policy"]["expectyle"] = 0.5
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="expectyle"):
        load_agent(folder)


def test_a_frozen_encoder_is_taken_over_stays_and_is_stored(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, trained_folder: Path, tmp_path: Path
) -> None:
    gone = shutil.copytree(trained_folder, tmp_path / "gone")
    settings = dataclasses.replace(brief(tiny_config, "gcivl", gone), frozen=str(gone))
    agent = make_agent("gcivl", "two_room", settings, device="cpu")
    agent.learn(tiny_dataset, tmp_path / "run", workers=0, progress=False)
    source = LeWMAgent.from_pretrained(trained_folder, device="cpu").world_model.encoder.state_dict()
    encoder = agent.model.encoder.state_dict()
    assert all(torch.equal(value, encoder[name]) for name, value in source.items())
    folder = agent.save_pretrained(tmp_path / "model")
    shutil.rmtree(gone)
    assert load_agent(folder, device="cpu").weights_sha256() == agent.weights_sha256()


def test_discrete_actions(tiny_config: AgentConfig, trained_folder: Path, tmp_path: Path) -> None:
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    frame, goal = frames(2)
    for name in ("gcbc", "dino_wm"):
        agent = make_agent(name, env, brief(tiny_config, name, trained_folder), device="cpu")
        dataset = agent.collect(tmp_path / "data", policy="random", episodes=12, progress=False)
        agent.learn(dataset, tmp_path / name, workers=0, progress=False)
        assert agent.act(frame, goal) in env.action_space


@pytest.mark.parametrize("name", ["pldm", "gcbc"])
def test_is_measured_like_any_other(
    name: str, tiny_config: AgentConfig, trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = make_agent(name, "two_room", brief(tiny_config, name, trained_folder), device="cpu")
    folder = agent.save_pretrained(tmp_path / "model")
    out = tmp_path / "out.json"
    arguments = ["--env", "two_room", "--model", str(folder), "--episodes", "2", "--output", str(out)]
    assert success_rate.main(["--agent", name, *arguments]) == 0
    result = json.loads(out.read_text())
    assert result["agent"] == name and (result["planner"] is None) == (name == "gcbc")
    assert f"{name.upper()} agent" in capsys.readouterr().out
    agent.save_pretrained(tmp_path / "card", results=[out])
    assert success_rate.main(["--agent", "lewm", *arguments]) == 2
    assert f"is a `{name}` agent, not a `lewm` one" in " ".join(capsys.readouterr().err.split())


def test_trains_from_the_command_line(tiny_dataset: OfflineDataset, tmp_path: Path, tiny_config: AgentConfig) -> None:
    sizes = ["--model.image-size", "16", "--model.patch-size", "8", "--model.encoder-depth", "1"]
    brief_training = ["--training.epochs", "0.5", "--training.schedule-epochs", "0.5", "--training.batch-size", "16"]
    arguments = ["learn", "--env", "two_room", "--dataset", str(tiny_dataset.path), "--output", str(tmp_path)]
    arguments += ["--agent", "gcbc", "--environment-kwargs", "{}", "small", *sizes, *brief_training]
    assert cli.main(arguments) == 0
    assert load_agent(tmp_path / "model").kind == "gcbc"
