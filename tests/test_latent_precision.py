"""The gate: errors of poses that are read from latents, now and in imagination."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from lewm_agent.eval import latent_precision
from lewm_agent.eval.latent_precision import Reader, Recorded, errors, pose, windows
from lewm_agent.eval.worlds import WORLDS
from lewm_agent.eval.worlds.world import Thing

THING = Thing(("x",), "mm", 1000.0, moves=5.0, angle="yaw")


def test_a_quarter_turn_of_a_square_thing_is_no_error() -> None:
    true = np.array([pose({"x": 0.5, "yaw": yaw}, THING, turns=4) for yaw in (0.1, 0.2)])
    read = np.array([pose({"x": 0.503, "yaw": yaw + np.pi / 2 + 0.01}, THING, turns=4) for yaw in (0.1, 0.2)])
    place, angle = errors(read, true, THING, turns=4)
    assert place == pytest.approx([3.0, 3.0])
    assert angle == pytest.approx(np.degrees([0.01, 0.01]))


def test_only_windows_of_tested_episodes_in_which_it_moves_count() -> None:
    places = np.array([0.0, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    poses = [np.stack([places, places * 0, places * 0 + 1], axis=1)] * 2
    recorded = Recorded([np.arange(9.0)[:, None]] * 2, poses, [np.zeros((8, 10), np.float32)] * 2)
    for history, first in ((1, [[1.0]]), (2, [[0.0], [1.0]])):
        ((known, blocks, told),) = windows(recorded, THING, np.array([False, True]), history)
        assert known.tolist() == first and blocks.shape == (history + 4, 10)
        assert told[:, 0].tolist() == places[1:7].tolist()
    assert not list(windows(recorded, THING, np.array([False, True]), 3))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_what_latents_hold_is_read_in_its_unit(kind: str) -> None:
    rng = np.random.default_rng(0)
    latents = [rng.uniform(-1, 1, (40, 3)) for _ in range(30)]
    poses = [100 * each[:, :1] + 7 for each in latents]
    recorded = Recorded(latents, poses, [])
    tested = np.arange(30) % 4 == 3
    unseen = rng.uniform(-1, 1, (50, 3))
    one, two = Reader(kind, {"any": recorded}, tested).read(unseen[:30], unseen[30:])
    assert np.abs(np.concatenate([one, two])[:, 0] - (100 * unseen[:, 0] + 7)).mean() < 6


def test_every_world_says_what_is_to_be_moved() -> None:
    for world in WORLDS.values():
        physics = gym.make(world.environment).reset(seed=0)[1]["physics"]
        assert set(world.thing.places) | ({world.thing.angle} if world.thing.angle else set()) <= set(physics)


def test_the_command_writes_a_table_and_a_picture(trained_folder: Path, tmp_path: Path) -> None:
    output, picture = tmp_path / "precision.json", tmp_path / "precision.png"
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--episodes", "8", "--planned", "1"]
    assert latent_precision.main([*arguments, "--output", str(output), "--picture", str(picture)]) == 0
    behaviors = json.loads(output.read_text())["behaviors"]
    assert set(behaviors) == {"expert", "random", "planned"}
    for row in behaviors.values():
        assert row["frames"] > 0 and row["linear"]["px"] > 0 and row["mlp"]["px"] > 0
    expert = behaviors["expert"]
    assert expert["after 5"]["px"] > 0 and expert["still, after 5"]["px"] > expert["still, after 1"]["px"] > 1
    assert picture.stat().st_size > 1000


def test_too_few_episodes_are_told(trained_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--episodes", "4"]
    assert latent_precision.main(arguments) == 2
    assert "episodes must be at least 8" in capsys.readouterr().err
