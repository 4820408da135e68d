"""What is told while a model trains: callbacks, loggers, settings; and that the training is the same with them."""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent, ObjectiveConfig
from lewm_agent.callbacks import DecodedFrames, Diagnosis, Moment, SuccessRate, Wandb
from lewm_agent.datasets import OfflineDataset
from lewm_agent.training.run_folder import RunFolder

Row = dict[str, Any]


def rows(run: Path, split: str) -> list[Row]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def learned(config: AgentConfig, data: OfflineDataset, run: Path, **options: Any) -> LeWMAgent:
    return LeWMAgent("two_room", config).learn(data, run, workers=0, progress=False, **options)


class Recorder:
    """A logger that remembers; or one that fails."""

    def __init__(self, failing: bool = False) -> None:
        self.failing, self.seen = failing, list[Any]()

    def begin(self, folder: RunFolder, start: int, settings: Any) -> None:
        self.seen.append((start, settings))

    def scalars(self, step: int, numbers: Any) -> None:
        if self.failing:
            raise ConnectionError("no network")
        self.seen.append((step, dict(numbers)))

    def picture(self, step: int, name: str, picture: Any) -> None:
        self.seen.append((step, name, picture.shape))

    def close(self) -> None:
        self.seen.append("closed")


def _telling(told: Any) -> Any:
    def tell(moment: Moment) -> Any:
        return told

    return tell


def meddle(moment: Moment) -> dict[str, float]:
    """Draws from every generator, and changes how the agent plans."""
    assert not moment.agent.model.training
    moment.agent.set_planner("small")
    moment.agent.act(moment.dataset.read_frames(np.array([0]))[0], moment.dataset.read_frames(np.array([5]))[0])
    return {"drawn": random.random() + np.random.rand() + float(torch.rand(())), "nothing": float("nan")}


def test_a_training_is_the_same_whoever_is_told(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    alone = learned(tiny_config, tiny_dataset, tmp_path / "alone", epochs=2)
    recorder = Recorder()
    told = learned(
        tiny_config, tiny_dataset, tmp_path / "told", epochs=2, callbacks=[meddle, Diagnosis(2)], loggers=[recorder]
    )
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, told.model.state_dict()[name]), name
    assert [row["total"] for row in rows(tmp_path / "alone", "train")] == [
        row["total"] for row in rows(tmp_path / "told", "train")
    ]
    assert told.config.planner == tiny_config.planner and told.config.training.epochs == 2
    drawn = rows(tmp_path / "told", "meddle")
    assert len({row["drawn"] for row in drawn}) == 1 and drawn[0]["nothing"] is None
    looks = [row["step"] for row in rows(tmp_path / "told", "held_out")]
    assert [row["step"] for row in drawn] == [0, *looks] and len(looks) > 1
    diagnosis = rows(tmp_path / "told", "diagnosis")
    assert diagnosis[-1]["effective_rank"] > 1 and diagnosis[-1]["of_standing_still_after_1"] > 0
    (start, settings), *_, last = recorder.seen
    assert start == 0 and settings["agent"]["training"]["epochs"] == 2 and "git_commit" in settings and last == "closed"
    assert settings == json.loads((tmp_path / "told" / "settings.json").read_text())
    assert any("diagnosis/effective_rank" in entry[1] for entry in recorder.seen[1:-1])


def test_success_on_held_out_pairs_and_decoded_frames(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    objective = ObjectiveConfig(sigreg_projections=16, reconstruction_weight=1.0)
    config, recorder = dataclasses.replace(tiny_config, objective=objective), Recorder()
    asked: list[Any] = []

    def apart(moment: Moment) -> None:
        asked.append((moment.step, moment.agent.unseen_episodes(moment.dataset).tolist(), moment.held_out.tolist()))

    success = SuccessRate(tiny_dataset, success="state:20", episodes=2, offset=10, budget=5, every=20)
    agent = learned(config, tiny_dataset, tmp_path, callbacks=[success, DecodedFrames(3), apart], loggers=[recorder])
    measured = rows(tmp_path, "success")
    assert [row["step"] for row in measured][:2] == [0, 20] and all(0 <= row["rate"] <= 100 for row in measured)
    pictures = [entry[1:] for entry in recorder.seen[1:-1] if len(entry) == 3]
    assert pictures[0] == ("decoded/frames", (2 * 24 * 4, 3 * 24 * 4, 3))
    assert all(unseen == held_out for _, unseen, held_out in asked) and asked[0][1]
    assert agent.description.training is not None and agent.description.training.finished


def test_a_run_that_goes_on_is_told_once(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    def step(moment: Moment) -> dict[str, float]:
        return {"of": moment.stop}

    learned(tiny_config, tiny_dataset, tmp_path, callbacks=[step])
    before = [row["step"] for row in rows(tmp_path, "step")]
    learned(tiny_config, tiny_dataset, tmp_path, callbacks=[step], resume=True)
    assert [row["step"] for row in rows(tmp_path, "step")] == before


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([3], "callbacks must hold objects with __call__, got 3"),
        ("success", "callbacks must be a list, got 'success'"),
        (meddle, "callbacks must be a list, got <function"),
        ([SuccessRate], r"got the class SuccessRate: give SuccessRate\(...\)"),
        ([_telling([1.0])], r"callback tell must return numbers .* returned \[1.0\]"),
        ([_telling({"a": "b"})], "callback tell must return numbers"),
        ([_telling({1: 2.0})], "callback tell must return numbers"),
        ([_telling({"a": np.zeros((4, 4))})], "callback tell must return numbers"),
        ([Diagnosis(every=0)], "diagnosis: every must be a number of steps"),
        ([Diagnosis(), Diagnosis()], "two callbacks are called 'diagnosis'"),
        ([Diagnosis(name="train")], "two callbacks are called 'train'"),
        ([DecodedFrames()], "needs a model with a decoder"),
        ([SuccessRate("nowhere")], "there are no goals 'nowhere'"),
        ([SuccessRate("task", planner="slow", episodes=1)], "fitted when training ends"),
    ],
)
def test_what_cannot_be_told_is_said_before_the_first_step(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, callbacks: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        learned(tiny_config, tiny_dataset, tmp_path, callbacks=callbacks)
    assert not rows(tmp_path, "train") if (tmp_path / "metrics.jsonl").exists() else True


def test_a_logger_that_fails_is_left_out_and_the_rest_is_written(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    whole = Recorder()
    with pytest.warns(UserWarning, match=r"nothing more is written to Recorder \(no network\)"):
        learned(tiny_config, tiny_dataset, tmp_path, loggers=[Recorder(failing=True), whole])
    assert whole.seen[-1] == "closed" and rows(tmp_path, "train")
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_weights_and_biases_by_its_interface(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    class Run(list[Any]):
        def log(self, numbers: Any, step: int) -> None:
            self.append((step, numbers))

        def finish(self) -> None:
            self.append("finished")

    def init(**options: Any) -> Run:
        started.append((options, Run()))
        return started[-1][1]

    fake = types.ModuleType("wandb")
    fake.__dict__.update(init=init, Image=lambda picture: picture, __spec__=object())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for resume in (False, True):
        learned(tiny_config, tiny_dataset, tmp_path, loggers=[Wandb("mine", mode="offline")], resume=resume)
    (options, run), (again, _) = started
    assert options["project"] == "mine" and options["mode"] == "offline" and options["config"]["seed"] == 0
    assert options["id"] == again["id"] and run[-1] == "finished" and run[0][0] == 20
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="Weights & Biases is not installed"):
        Wandb("mine")
