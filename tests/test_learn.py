"""Training: resumption, determinism, logs, refusals."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.tools.progress import ProgressShown
from lewm_agent.training import loop
from lewm_agent.training.batches import TrainingClips
from lewm_agent.training.metrics_log import effective_rank
from lewm_agent.training.schedule import Schedule


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["total"] for line in lines if line["split"] == "train"}


def longer(config: AgentConfig, epochs: float) -> AgentConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=epochs))


def test_learns_and_logs(tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    LeWMAgent("two_room", longer(tiny_config, 4)).learn(tiny_dataset, tmp_path / "run", workers=0, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    assert train[-1]["sigreg"] < train[0]["sigreg"]
    assert train[-1]["prediction"] < train[0]["prediction"]
    assert {"effective_rank", "latent_variance", "learning_rate", "collapsed", "straightness"} <= train[0].keys()
    looks = [line["step"] for line in lines if line["split"] == "held_out"]
    assert len(looks) > 3 and looks[-1] == train[-1]["step"]  # several, however short the run
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_mean_frame_of_the_training_episodes_is_subtracted_and_saved(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    model = dataclasses.replace(tiny_config.model, pixel_normalization="mean_frame")
    agent = LeWMAgent("two_room", dataclasses.replace(tiny_config, model=model), seed=0)
    agent.learn(tiny_dataset, tmp_path / "run", workers=0, progress=False).save_pretrained(tmp_path / "model")
    clips = TrainingClips(tiny_dataset, agent.make_clips, tiny_config.training, 0, workers=0)
    train, held_out = clips.train_episodes, clips.held_out_episodes
    mean, std = tiny_dataset.pixel_statistics(train)
    encoder = LeWMAgent.from_pretrained(tmp_path / "model").world_model.encoder
    assert torch.equal(encoder.pixel_mean, torch.as_tensor(mean)) and torch.equal(encoder.pixel_std, torch.tensor(std))
    assert not torch.equal(encoder.pixel_mean, torch.as_tensor(tiny_dataset.pixel_statistics(held_out)[0]))


def test_same_seed_same_weights_and_another_seed_others(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        agent = LeWMAgent("two_room", tiny_config, seed=seed).learn(
            tiny_dataset, tmp_path / name, workers=0, progress=False
        )
        weights.append(agent.world_model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_resumed_after_kill_equals_uninterrupted(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    config = longer(tiny_config, 1)
    whole = LeWMAgent("two_room", config).learn(
        tiny_dataset, tmp_path / "whole", workers=0, progress=False, checkpoint_every=10
    )
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, json\n"
        "from lewm_agent import LeWMAgent, AgentConfig\n"
        f"from {ProgressShown.__module__} import ProgressShown\n"
        "def held(progress, done, note=None):\n"
        "    if done == 15:\n"
        "        print('held', flush=True)\n"
        "        sys.stdin.read()\n"
        "ProgressShown.update = held\n"
        f"config = AgentConfig.from_dict(json.loads({json.dumps(json.dumps(config.to_dict()))}))\n"
        f"LeWMAgent('two_room', config).learn({str(tiny_dataset.path)!r}, {str(tmp_path / 'killed')!r}, workers=0,"
        " checkpoint_every=10)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match=r"another process is writing into .*killed: wait for it"):
        LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "killed", progress=False, resume=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "killed" / "checkpoints" / "last").resolve().name == "step-0000010"
    assert max(losses(tmp_path / "whole")) > 15, "the run ended before it was killed"
    agent = LeWMAgent("two_room", config).learn(
        tiny_dataset, tmp_path / "killed", workers=0, progress=False, checkpoint_every=10, resume=True
    )
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    for name, weight in whole.world_model.state_dict().items():
        assert torch.equal(weight, agent.world_model.state_dict()[name]), name


def test_a_slow_training_is_saved_between_regular_checkpoints(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped_at_the_fifth(progress: object, done: int, note: str | None = None) -> None:
        if done == 5:
            raise KeyboardInterrupt

    config = longer(tiny_config, 1)
    whole = LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "whole", workers=0, progress=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0)
        patch.setattr(ProgressShown, "update", stopped_at_the_fifth)
        LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "slow", workers=0, progress=False)
    assert (tmp_path / "slow" / "checkpoints" / "last").resolve().name == "step-0000004"
    agent = LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "slow", workers=0, progress=False, resume=True)
    for name, weight in whole.world_model.state_dict().items():
        assert torch.equal(weight, agent.world_model.state_dict()[name]), name


def test_a_run_is_not_overwritten(tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    tiny_agent.learn(tiny_dataset, tmp_path / "run", workers=0, progress=False)
    with pytest.raises(FileExistsError, match="already holds a training run: continue it with resume=True"):
        tiny_agent.learn(tiny_dataset, tmp_path / "run", workers=0, progress=False)


def test_resuming_with_another_configuration_is_refused(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    LeWMAgent("two_room", tiny_config).learn(tiny_dataset, tmp_path / "run", workers=0, progress=False)
    with pytest.raises(ValueError, match=r"trained with training.epochs 1.0, not 2, which changes the learning rates"):
        LeWMAgent("two_room", longer(tiny_config, 2)).learn(tiny_dataset, tmp_path / "run", progress=False, resume=True)


def test_a_finished_run_goes_on_when_given_more_cycles(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    LeWMAgent("two_room", tiny_config).learn(tiny_dataset, tmp_path / "run", workers=0, progress=False)
    first = losses(tmp_path / "run")
    doubled = longer(tiny_config, 2)
    doubled = dataclasses.replace(doubled, training=dataclasses.replace(doubled.training, schedule_cycles=2))
    LeWMAgent("two_room", doubled).learn(tiny_dataset, tmp_path / "run", workers=0, progress=False, resume=True)
    both = losses(tmp_path / "run")
    assert max(both) == 2 * max(first)
    assert all(both[step] == loss for step, loss in first.items())


def test_resuming_with_another_seed_is_refused_and_a_finished_run_stays_as_it_is(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    trained = LeWMAgent("two_room", tiny_config).learn(tiny_dataset, tmp_path / "run", workers=0, progress=False)
    before = losses(tmp_path / "run")
    again = LeWMAgent("two_room", tiny_config).learn(tiny_dataset, tmp_path / "run", progress=False, resume=True)
    assert losses(tmp_path / "run") == before
    weights = again.world_model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in trained.world_model.state_dict().items())
    with pytest.raises(ValueError, match="was trained with seed 0, not 5; resume with that"):
        LeWMAgent("two_room", tiny_config, seed=5).learn(tiny_dataset, tmp_path / "run", progress=False, resume=True)


def test_frames_of_another_size_are_refused(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    model = dataclasses.replace(tiny_config.model, image_size=32)
    agent = LeWMAgent("two_room", dataclasses.replace(tiny_config, model=model))
    with pytest.raises(ValueError, match=r"the dataset's frames are \(16, 16, 3\), the model needs \(32, 32, 3\)"):
        agent.learn(tiny_dataset, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_actions_of_another_width_are_refused(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OfflineDataset, "action_dim", 5)
    with pytest.raises(ValueError, match="the dataset's actions have 5 components, the model needs 2"):
        tiny_agent.learn(tiny_dataset, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_collapse_is_reported(tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    objective = dataclasses.replace(tiny_config.objective, sigreg_weight=0.0)
    config = longer(dataclasses.replace(tiny_config, objective=objective), 12)
    with pytest.warns(UserWarning, match="the latents are collapsing at step"):
        LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "run", workers=0, progress=False)


def test_learning_rate_warms_up_and_follows_the_cosine() -> None:
    schedule = Schedule(stop=100, cycle=1000, warmup=10, peak=2.0)
    assert schedule.learning_rate(0) == pytest.approx(0.2)
    assert schedule.learning_rate(9) == pytest.approx(2.0)
    assert schedule.learning_rate(505) == pytest.approx(1.0)
    assert schedule.learning_rate(999) == pytest.approx(0.0, abs=1e-4)
    assert schedule.learning_rate(1000 + 505) == schedule.learning_rate(505)


def test_effective_rank() -> None:
    torch.manual_seed(0)
    assert effective_rank(torch.randn(4000, 6)).item() == pytest.approx(6, rel=0.02)
    assert effective_rank(torch.randn(4000, 1).expand(-1, 6)).item() == pytest.approx(1, rel=0.05)
    assert math.isfinite(effective_rank(torch.zeros(10, 6)).item())
