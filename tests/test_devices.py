"""Several devices as a person asks for them: what comes back, what kills and signals leave, what is refused at once."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.models.ranks import LostRankError
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.sharing.placement import Placement

CPU = torch.device("cpu")
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"}
SLURM = {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.fixture(autouse=True)
def nothing_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*TORCHRUN, *SLURM, "SLURM_JOB_NAME", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"}:
        monkeypatch.delenv(name, raising=False)


def test_the_calling_agent_has_learned_and_everything_is_written_once(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    head = InverseDynamicsConfig(furthest=4, width=16, depth=1, steps=20, batch_size=16)
    planner = dataclasses.replace(tiny_config.planner, proposals="refine")
    agent = LeWMAgent("two_room", dataclasses.replace(tiny_config, planner=planner, inverse_dynamics=head))
    with pytest.warns(UserWarning, match="2 of the 12 episodes .* are left out"):
        agent.learn(tiny_dataset, tmp_path / "run", devices=2, progress=False)
    training = agent.description.training
    assert training is not None and training.finished and training.inverse_dynamics_error is not None
    again = LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path / "model"))
    kept = LeWMAgent.from_pretrained(tmp_path / "run")
    assert again.world_model.metric is not None
    for name, value in kept.world_model.encoder.state_dict().items():
        assert torch.equal(value, agent.world_model.encoder.state_dict()[name]), name
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len({(line["step"], line["split"]) for line in lines}) == len(lines) > 1
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    whole = LeWMAgent("two_room", agent.config).learn(tiny_dataset, tmp_path / "whole", progress=False)
    goal = tiny_dataset[0]["pixels"]
    torch.testing.assert_close(
        *(one.world_model.encode(torch.as_tensor(goal)) for one in (agent, whole)), rtol=0.05, atol=0.05
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_ends_one_process_ends_all_and_the_checkpoint_is_kept(
    number: signal.Signals, tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    training = dataclasses.replace(tiny_config.training, epochs=5000.0, schedule_epochs=5000.0)
    run = RunFolder(tmp_path / "run")
    ended: list[float] = []

    def end_the_second() -> None:
        while run.newest() is None:
            time.sleep(0.05)
        os.kill(sorted(process.pid or 0 for process in multiprocessing.active_children())[1], number)
        ended.append(time.monotonic())

    agent = LeWMAgent("two_room", dataclasses.replace(tiny_config, training=training))
    thread = threading.Thread(target=end_the_second, daemon=True)
    thread.start()
    kill = number == signal.SIGKILL
    told = (
        r"rank 1 of 2 was ended by SIGKILL.*; the checkpoint step-\d+ is kept" if kill else r"stopped after step \d+ of"
    )
    with pytest.raises(LostRankError if kill else KeyboardInterrupt, match=told) as raised:
        agent.learn(tiny_dataset, run.path, devices=2, checkpoint_every=5, progress=False)
    assert time.monotonic() - ended[0] < 60  # and not the day for which one waits for another's work
    assert not multiprocessing.active_children()
    newest = run.newest()
    assert newest is not None
    step = int(newest.name.removeprefix("step-"))
    assert step % 5 == 0 if kill else f"after step {step} of" in str(raised.value)


def test_torchrun_starts_the_command(tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    script = tmp_path / "learn.py"
    script.write_text(
        "import json, sys\n"
        "from lewm_agent.commands import learn\n"
        "from lewm_agent import AgentConfig\n"
        f"config = AgentConfig.from_dict(json.loads({json.dumps(json.dumps(tiny_config.to_dict()))}))\n"
        f"learn.learn('two_room', {str(tiny_dataset.path)!r}, {str(tmp_path / 'out')!r}, config)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("saved in") == 1
    assert LeWMAgent.from_pretrained(tmp_path / "out" / "model").description.origin["finished"]


@pytest.mark.parametrize(
    ("environment", "devices", "num_nodes", "told"),
    [
        (TORCHRUN, 2, None, "torchrun has started 4 processes on each of 2 machines, and devices is 2, num_nodes 2"),
        (
            TORCHRUN,
            4,
            1,
            "torchrun has started 4 .* devices is 4, num_nodes 1: give the same numbers, or leave them out",
        ),
        (SLURM, 8, 1, "SLURM has started 4 processes on each of 2 machines, and devices is 8, num_nodes 1"),
        (
            {},
            2,
            2,
            "num_nodes is 2, and nobody says .*: start with torchrun or srun, or set MASTER_ADDR, MASTER_PORT, N",
        ),
        ({}, 0, None, "devices must be a whole number of at least 1, got 0"),
        ({}, None, 0, "num_nodes must be a whole number of at least 1, got 0"),
    ],
)
def test_what_was_not_started_is_refused(
    environment: dict[str, str], devices: int | None, num_nodes: int | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=told):
        Placement.of(devices, num_nodes, CPU)


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM])
def test_what_was_started_is_what_is_used(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    placement = Placement.of(None, None, CPU)
    assert (placement.devices, placement.num_nodes, placement.starts_processes) == (4, 2, False)


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("cuda", "devices is 2, and this machine has 1 GPUs: give at most 1"),
        ("mps", "devices is 2, and there is one MPS device"),
        ("cpu:0", "device cpu:0 is one, and devices is 2: give device cpu"),
    ],
)
def test_devices_that_are_not_there_are_refused(device: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=told):
        Placement.of(2, None, torch.device(device))


@pytest.mark.parametrize(("devices", "such_as"), [(5, 15), (32, 32)])
def test_a_batch_that_cannot_be_shared_is_refused(
    devices: int, such_as: int, tiny_agent: LeWMAgent, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=rf"16 clips cannot be shared evenly by {devices} devices: .* such as {such_as}$"
    ):
        tiny_agent.learn("nowhere", tmp_path / "run", devices=devices)
    assert not (tmp_path / "run").exists()


UNGUARDED_SCRIPT = """
import functools, torch
from lewm_agent.training.sharing.launch import launch
from lewm_agent.training.sharing.placement import Placement

more_than_a_pipe_holds = functools.partial(bytes.join, bytes(1_000_000))
launch(Placement(torch.device("cpu"), 2, 1, None), more_than_a_pipe_holds, str)
"""


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "learn.py"
    script.write_text(UNGUARDED_SCRIPT)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=600)
    assert "call learn under `if __name__ ==" in ended.stderr.splitlines()[-1]
