"""The command that measures success against time to think."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as imageio
import pytest

from lewm_agent.eval import planning_time
from lewm_agent.eval.planning_time import Options, settings_of
from lewm_agent.presets import preset

RUN = ["--env", "two_room", "cube", "--episodes", "1", "--budgets", "0.125", "--planners", "small", "amortised"]
SAMPLES = {"small": 8, "amortised": 64}


def test_points_are_measured_once_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = [*RUN, "--output", str(tmp_path / "planning.json")]
    assert planning_time.main(run) == 0
    points = json.loads((tmp_path / "planning.json").read_text())
    found = [(point["env"], point["planner"], point["settings"]["samples"]) for point in points]
    assert found == [(env, name, samples) for env in ("two_room", "cube") for name, samples in SAMPLES.items()]
    for point in points:
        assert 0 < point["milliseconds_per_step"] < point["milliseconds_per_plan"]
        assert point["success_rate"] == 100 * sum(point["solved"])
    picture = imageio.imread(tmp_path / "planning.png")
    assert picture.shape[1] > 2 * picture.shape[0] and picture.std() > 10
    monkeypatch.setattr(planning_time, "measure", lambda *_: pytest.fail("measured again"))
    assert planning_time.main(run) == 0
    assert json.loads((tmp_path / "planning.json").read_text()) == points


def test_budgets_multiply_samples_and_elites() -> None:
    options = Options(planners=("small", "mixture", "paper", "hybrid", "amortised"), budgets=(0.25, 4.0))
    found = [(name, planner.samples, planner.elites) for name, planner in settings_of(options, preset("shapes"))]
    assert found == [
        ("small", 16, 2),
        ("small", 256, 32),
        ("mixture", 16, 8),
        ("mixture", 256, 32),
        ("paper", 300, 30),
        ("hybrid", 16, 2),
        ("hybrid", 256, 32),
        ("amortised", 64, 8),
    ]
    assert {planner.history for _, planner in settings_of(options, preset("shapes"))} == {1}
    assert [name for name, _ in settings_of(options, preset("two_terms"))][-1] == "paper"


def test_bad_options_give_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planning_time.main([*RUN[:-2], "smal", "--output", str(tmp_path / "p.json")]) == 2
    assert "did you mean `small`" in capsys.readouterr().err
    for foreign in ("no JSON", '{"env": "cube"}'):
        (tmp_path / "p.json").write_text(foreign)
        assert planning_time.main([*RUN, "--output", str(tmp_path / "p.json")]) == 2
        assert "is not JSON" in " ".join(capsys.readouterr().err.split())
