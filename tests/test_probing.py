"""Probes find what is there, and only that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lewm_agent.eval import probing
from lewm_agent.eval.worlds import WORLDS


@pytest.mark.parametrize("kind", probing.PROBES)
def test_a_probe_finds_what_the_features_hold_and_not_what_they_do_not(kind: str) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1200, 6))
    wanted = np.stack([features[:, 0] - 2 * features[:, 1], rng.normal(size=1200)], axis=1)
    episodes = np.repeat(np.arange(60), 20)
    error, correlation = probing.scores(
        *probing.probe(features, wanted, probing.test_frames(episodes, 0), kind, seed=0)
    )
    assert error[0] < 0.05 and correlation[0] > 0.97
    assert error[1] > 0.8 and abs(correlation[1]) < 0.25


def test_only_a_nonlinear_probe_reads_a_square() -> None:
    features = np.random.default_rng(0).uniform(-1, 1, size=(2000, 2))
    wanted, episodes = np.square(features[:, :1]), np.repeat(np.arange(100), 20)
    r = {
        k: probing.scores(*probing.probe(features, wanted, probing.test_frames(episodes, 0), k, seed=0))[1][0]
        for k in probing.PROBES
    }
    assert abs(r["linear"]) < 0.2 and r["mlp"] > 0.9


def test_frames_of_test_episodes_are_in_no_training() -> None:
    """Features that name the episode tell nothing about another one."""
    episodes = np.repeat(np.arange(40), 25)
    level = np.random.default_rng(0).normal(size=40)[episodes]
    features = np.eye(40)[episodes]
    assert (
        probing.scores(*probing.probe(features, level[:, None], probing.test_frames(episodes, 0), "linear", seed=0))[1][
            0
        ]
        < 0.5
    )


def test_angles_are_also_probed_as_sine_and_cosine_and_constants_left_out() -> None:
    values = {"block_angle": np.linspace(0, 6, 10), "x": np.arange(10.0), "second_cube_x": np.zeros(10)}
    assert list(probing.targets(values, {})) == ["block_angle", "x", "sin block_angle", "cos block_angle"]


def test_a_quarter_turn_of_a_cube_changes_nothing_that_is_probed() -> None:
    yaw = np.linspace(0, 1, 10)
    first, second = (probing.targets({"cube_yaw": angles}, WORLDS["cube"].turns) for angles in (yaw, yaw + np.pi / 2))
    assert list(first) == ["cube_yaw", "sin 4 cube_yaw", "cos 4 cube_yaw"]
    for name in list(first)[1:]:
        np.testing.assert_allclose(first[name], second[name], atol=1e-9)


def test_command(trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "probing.json", tmp_path / "probing.png"
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--frames", "240", "--seeds", "2"]
    assert probing.main([*arguments, "--output", str(out), "--picture", str(picture)]) == 0
    result = json.loads(out.read_text())
    assert {row["representation"] for row in result["rows"]} == {"LeWM", "untrained", "pixel PCA"}
    assert {row["quantity"] for row in result["rows"]} == {"agent_x", "agent_y"}
    assert picture.stat().st_size > 5000
    assert "agent_x" in capsys.readouterr().out
    assert probing.main([*arguments[:4], "--frames", "12"]) == 2
    assert "at least 4 episodes" in capsys.readouterr().err
