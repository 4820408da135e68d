"""Ctrl-C and SIGTERM while an agent learns: a checkpoint, one sentence, and the way to go on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.tools.interruption import interruptible
from lewm_agent.training import hindsight
from lewm_agent.training.run_folder import RunFolder


def weights_of(agent: LeWMAgent) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in agent.world_model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def interrupted_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the process send itself a signal within optimisation step n of the next training."""

    def at(step: int, number: signal.Signals) -> None:
        count = 0

        def after_step(self: object, progress: float) -> None:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr("lewm_agent.models.world_model.WorldModel.after_step", after_step)

    return at


@pytest.mark.parametrize(("step", "number"), [(1, signal.SIGINT), (7, signal.SIGTERM), (25, signal.SIGINT)])
def test_a_step_is_ended_and_kept_and_the_rest_is_as_if_nothing_had_been(
    tiny_config: AgentConfig,
    tiny_dataset: OfflineDataset,
    tmp_path: Path,
    interrupted_at: Any,
    step: int,
    number: signal.Signals,
) -> None:
    whole = LeWMAgent("two_room", tiny_config).learn(tiny_dataset, tmp_path / "whole", progress=False)
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    interrupted_at(step, number)
    agent = LeWMAgent("two_room", tiny_config)
    with pytest.raises(KeyboardInterrupt, match=rf"stopped after step {step} of .* resume=True"):
        agent.learn(tiny_dataset, tmp_path / "run", progress=False)
    assert agent.description.origin["steps"] == step and not agent.description.origin["finished"]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    again = LeWMAgent("two_room", tiny_config).learn(tiny_dataset, tmp_path / "run", resume=True, progress=False)
    assert_same(weights_of(whole), weights_of(again))


def test_stopped_while_the_head_is_trained_keeps_the_world_model(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = InverseDynamicsConfig(furthest=4, width=16, depth=1, steps=20, batch_size=16)
    planner = dataclasses.replace(tiny_config.planner, proposals="refine")
    config = dataclasses.replace(tiny_config, planner=planner, inverse_dynamics=head)
    whole = LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "whole", progress=False)

    draws = 0
    draw = hindsight.HindsightPairs.draw

    def interrupting(self: Any, count: int, furthest: int, rng: np.random.Generator) -> Any:
        nonlocal draws
        draws += count == head.batch_size
        if draws == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, count, furthest, rng)

    with monkeypatch.context() as patch:
        patch.setattr(hindsight.HindsightPairs, "draw", interrupting)
        with pytest.raises(KeyboardInterrupt, match=r"trained world model, which is kept in .*resume=True"):
            LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "run", progress=False)
    again = LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "run", resume=True, progress=False)
    assert_same(weights_of(whole), weights_of(again))


def test_a_second_signal_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible() as interruption, interruption.between_steps():
        signal.raise_signal(signal.SIGINT)
        assert interruption.requested
        signal.raise_signal(signal.SIGINT)


def test_other_threads_learn_too(tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    agent = LeWMAgent("two_room", tiny_config)
    thread = threading.Thread(target=agent.learn, args=(tiny_dataset, tmp_path / "run"), kwargs={"progress": False})
    thread.start()
    thread.join()
    assert agent.description.origin["finished"]


def test_at_the_command_line_there_is_one_sentence_and_progress_in_lines(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    script = f"""
import json, sys
from pathlib import Path
from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.tools import command, progress
progress.FIRST_LINE_SECONDS = progress.LINE_SECONDS = 0
config = AgentConfig.from_dict(json.loads(Path({str(tmp_path / "config.json")!r}).read_text()))
agent = LeWMAgent("two_room", config)
sys.exit(command.run(lambda _: agent.learn({str(tiny_dataset.path)!r}, {str(tmp_path / "run")!r}, workers=1) and 0, []))
"""
    config = dataclasses.replace(tiny_config.training, epochs=5000.0, schedule_epochs=5000.0)
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.replace(tiny_config, training=config).to_dict()))
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    line = ""
    while "loss" not in line:
        line = process.stderr.readline()
        assert line, "ended before it was stopped"
    os.killpg(process.pid, signal.SIGTERM)  # as a terminal does, and a cluster: the reading process gets it too
    told = process.stderr.read()
    assert process.wait() == 130
    assert "Traceback" not in told
    assert "stopped after step" in told and "resume=True" in told
    newest = RunFolder(tmp_path / "run").newest()
    assert newest is not None and f"step {int(newest.name.removeprefix('step-'))} of" in told
