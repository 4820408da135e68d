"""Each environment of this package, from nothing to an evaluation, at a tiny size."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.envs import ENVIRONMENTS
from lewm_agent.eval import pairs, probing, success_rate, surprise, true_dynamics, watch
from lewm_agent.eval.worlds import WORLDS, world_of
from lewm_agent.eval.worlds.protocols import PROTOCOL_NAMES
from lewm_agent.recipes import RECIPES


def test_every_world_has_its_record_and_recipe() -> None:
    assert set(WORLDS) == set(RECIPES) == set(ENVIRONMENTS)
    assert all(tuple(world.protocols) == PROTOCOL_NAMES for world in WORLDS.values())
    for name, gymnasium_id in ENVIRONMENTS.items():
        assert world_of(name) is world_of(gymnasium_id) is WORLDS[name]
        assert WORLDS[name].environment == gymnasium_id == LeWMAgent.from_pretrained(name).description.environment


@pytest.mark.parametrize(
    "command",
    [
        lambda name: pairs.main(["--env", name, "--output", "never.safetensors"]),
        lambda name: true_dynamics.main(["--env", name]),
    ],
)
def test_a_world_without_a_record_is_told_in_one_sentence(
    command: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("CartPole-v1") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "no record of CartPole-v1" in told and "cube, push_t, reacher, two_room" in told


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (probing.main, "no model of CartPole-v1 comes with the package"),
        (surprise.main, "no model of CartPole-v1 comes with the package"),
        (watch.main, "say where starts and goals in CartPole-v1 come from"),
    ],
)
def test_commands_for_any_world_say_what_they_need_of_it(
    command: Callable[[list[str]], int], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["--env", "CartPole-v1"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("world", sorted(ENVIRONMENTS))
def test_collect_learn_and_evaluate(world: str, tiny_config: AgentConfig, tmp_path: Path) -> None:
    training = dataclasses.replace(tiny_config.training, epochs=0.2)
    agent = LeWMAgent(world, dataclasses.replace(tiny_config, training=training))
    dataset = agent.collect(tmp_path / "data", "random", episodes=4, frame_interval=5, progress=False)
    assert dataset.frame_shape == (16, 16, 3)
    agent.learn(dataset, tmp_path / "run", progress=False).save_pretrained(tmp_path / "model")
    for protocol in ("moderate", "strict"):  # paper draws its pairs from hundreds of episodes
        output = tmp_path / f"{protocol}.json"
        options = ["--env", world, "--model", str(tmp_path / "model"), "--episodes", "1", "--protocol", protocol]
        assert success_rate.main([*options, "--output", str(output)]) == 0
        result = json.loads(output.read_text())
        assert result["env"] == ENVIRONMENTS[world]
        assert result["floors"]["replay"]["success_rate"] >= result["floors"]["zero_action"]["success_rate"]


def test_python_ends_quietly_with_open_renderers() -> None:
    code = """
import gymnasium as gym, lewm_agent.envs
envs = [gym.make(f"lewm/{name}-v0", render_mode="rgb_array", image_size=64) for name in ("Reacher", "Cube", "Reacher")]
for env in envs:
    env.reset(seed=0)
    env.render()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
