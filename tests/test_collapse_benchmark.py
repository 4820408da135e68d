"""The benchmark of what keeps latents from collapsing, end to end."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lewm_agent import AgentConfig
from lewm_agent.datasets import OfflineDataset
from lewm_agent.planning.settings import PlannerConfig

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.filterwarnings("ignore:.*are left out", "ignore:.*collapsing")
def test_trains_every_objective_and_tells_ranks_and_success(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("collapse", BENCHMARKS / "collapse.py")
    assert spec is not None and spec.loader is not None
    collapse: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "collapse", collapse)
    spec.loader.exec_module(collapse)
    tiny = dataclasses.replace(tiny_config, training=dataclasses.replace(tiny_config.training, precision="float32"))
    monkeypatch.setattr(collapse, "preset", lambda name: tiny)
    planner = PlannerConfig(horizon=1, execute=1, samples=4, elites=2, iterations=1)
    monkeypatch.setattr(collapse, "planner_preset", lambda name, model: planner)
    monkeypatch.setattr(collapse, "VARIANTS", dict(list(collapse.VARIANTS.items())[2:4]))
    monkeypatch.setattr(collapse, "COLORS", collapse.COLORS[:2])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "two_room").symlink_to(tiny_dataset.path)
    arguments = ["--env", "two_room", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    arguments += ["--steps", "6", "--seeds", "1", "--episodes", "2", "--looks", "1"]
    assert collapse.main(arguments) == 0
    results = json.loads((tmp_path / "out" / "collapse.json").read_text())["results"]
    assert [row["variant"] for row in results["tables"]["two_room"]] == list(collapse.VARIANTS)
    assert all(run["success_steps"] == [0, 6] and run["pairs"] == 2 for run in results["runs"])
    ranks = [run["effective_rank"][-1] for run in results["runs"]]
    assert len(set(ranks)) == len(ranks)
    assert (tmp_path / "out" / "collapse.png").exists()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.jsonl")}
    assert len(written) == 2
    (tmp_path / "out" / "collapse.json").unlink()
    assert collapse.main(arguments) == 0
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.jsonl")}
    assert collapse.main([*arguments[:3], str(tmp_path), *arguments[4:]]) == 2
