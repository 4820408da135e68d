"""The diagnosis of latent distances in Two-Room."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm_agent.envs.two_room.geometry import Geometry
from lewm_agent.eval import latent_geometry
from lewm_agent.eval.latent_geometry import Walks, linear_r2, rank_correlations, walking_distance


def test_one_walks_through_the_door() -> None:
    door = Geometry().door_center
    left, right = np.array([30.0, 180.0]), np.array([200.0, 180.0])
    assert walking_distance(left, left + 40) == pytest.approx(40 * np.sqrt(2))
    expected = np.linalg.norm(left - door) + np.linalg.norm(door - right)
    assert walking_distance(left, right) == pytest.approx(expected)
    assert walking_distance(left, right) > np.linalg.norm(left - right)


def test_latents_that_are_positions_have_a_perfect_metric_within_a_room() -> None:
    positions = np.random.default_rng(0).uniform(20, 90, (60, 6, 2))
    walks = Walks(positions, torch.as_tensor(positions), torch.zeros(60, 5, 10))
    assert rank_correlations(walks, np.random.default_rng(0)) == pytest.approx((1.0, 1.0))
    assert linear_r2(positions.reshape(-1, 2).astype(np.float32), positions.reshape(-1, 2)) == [1.0, 1.0]


def test_command(trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "geometry.json", tmp_path / "geometry.png"
    arguments = ["--model", str(trained_folder), "two_room", "--episodes", "6", "--output", str(out)]
    assert latent_geometry.main([*arguments, "--picture", str(picture)]) == 0
    result, bundled = json.loads(out.read_text())["models"]
    assert bundled["rank_correlation_near"] > 0.5 and bundled["patch_repetition"] > 1
    assert picture.stat().st_size > 10_000
    assert len(result["open_loop_error"]) == latent_geometry.BLOCKS and min(result["open_loop_error"]) > 0
    assert -1 <= result["rank_correlation_all"] <= 1
    assert "persistence" in capsys.readouterr().out
    assert latent_geometry.main(["--model", str(tmp_path)]) == 2
    assert latent_geometry.main(["--model", "reacher"]) == 2
    assert "trained on lewm/Reacher-v0" in capsys.readouterr().err
