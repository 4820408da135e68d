"""Violation of expectation: what is filmed, and how it is judged."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from lewm_agent.envs import ENVIRONMENTS
from lewm_agent.eval import surprise
from lewm_agent.eval.worlds.world import make_environment


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_variants_differ_from_the_event_on(name: str) -> None:
    env = make_environment(ENVIRONMENTS[name], {"image_size": 32}).unwrapped
    one, other = itertools.islice(surprise.trajectories(ENVIRONMENTS[name], 5), 2)
    films = {variant: surprise.filmed(env, one, other, variant, 5) for variant in surprise.VARIANTS}
    for variant in ("recolored", "teleported"):
        differs = [(a != b).any() for a, b in zip(films[variant], films["unchanged"], strict=True)]
        assert not any(differs[: surprise.EVENT]) and all(differs[surprise.EVENT : surprise.EVENT + 2]), variant


def test_paired_test_of_a_known_difference() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=400)
    found = surprise.paired(before + 0.5 + rng.normal(scale=1.0, size=400), before)
    assert found["ci95_low"] < 0.5 < found["ci95_high"]
    assert found["p"] < 1e-10 and found["cohens_d"] == pytest.approx(0.5, abs=0.12)
    assert surprise.paired(before + rng.normal(size=400), before)["p"] > 0.01


def test_command(trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "surprise.json", tmp_path / "surprise.png"
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--trajectories", "3"]
    assert surprise.main([*arguments, "--output", str(out), "--picture", str(picture)]) == 0
    result = json.loads(out.read_text())
    assert len(result["mean_surprise"]["teleported"]) == surprise.BLOCKS
    assert result["mean_surprise"]["teleported"][:5] == result["mean_surprise"]["unchanged"][:5]
    assert picture.stat().st_size > 5000
    assert "teleported" in capsys.readouterr().out
    assert surprise.main(["--env", "two_room", "--trajectories", "1"]) == 2
