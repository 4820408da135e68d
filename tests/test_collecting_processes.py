"""Processes that collect: light, without the main script where they need nothing of it, and gone with their parent."""

from __future__ import annotations

import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.datasets import OfflineDataset

COLLECTS = """
import torch
from lewm_agent import AgentConfig, LeWMAgent, ModelConfig

model = ModelConfig(image_size=16, patch_size=8, encoder_width=16, encoder_depth=1, encoder_heads=2, latent_dim=8)
agent = LeWMAgent("two_room", AgentConfig(model))
agent.collect("data", policy="{policy}", episodes={episodes}, num_envs=2)
"""
PLUGIN = """
import gymnasium as gym
from lewm_agent.envs.two_room.env import TwoRoomEnv

gym.register("tests/Registered-v0", entry_point=TwoRoomEnv, max_episode_steps=20)
"""


def collecting(tmp_path: Path, script: str) -> subprocess.Popen[str]:
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "script.py"]
    return subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The collecting processes of another one, in the middle of their work."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def test_a_script_without_a_main_guard_collects_also_in_what_it_registers(tmp_path: Path) -> None:
    script = COLLECTS.format(episodes=101, policy="random").replace('"two_room"', '"tests/Registered-v0"')
    process = collecting(tmp_path, PLUGIN + script)
    error = process.communicate()[1]
    assert process.returncode == 0, error
    assert OfflineDataset(tmp_path / "data").episode_lengths.max() == 21


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_are_light_and_end_with_their_parent(tmp_path: Path) -> None:
    process = collecting(tmp_path, COLLECTS.format(episodes=100_000, policy="expert"))
    part = tmp_path / "data" / "shard-00001.h5.next.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[1]
    workers = workers_of(process)
    assert len(workers) == 2
    for worker in workers:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines())
        assert int(status["VmRSS"].split()[0]) < 200_000
        assert "libtorch" not in Path(f"/proc/{worker}/maps").read_text()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while any(os.path.exists(f"/proc/{worker}") for worker in workers):
        time.sleep(0.05)  # the limit of the whole test ends this


def test_shared_memory_that_cannot_be_had_is_told(
    tiny_config: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system")

    agent = LeWMAgent("two_room", tiny_config)
    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refused)
    with pytest.raises(
        OSError, match=r"refuses \(Read-only file system\): let /dev/shm be writable, or use num_envs=1"
    ):
        agent.collect(tmp_path / "data", "random", episodes=200, num_envs=2, progress=False)
    assert not list(tmp_path.iterdir())
