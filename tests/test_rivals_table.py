"""The table command, end to end: it goes on where it stopped, and says who wins."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lewm_agent import LeWMAgent, cli
from lewm_agent.agents import make_agent

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def rivals(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("rivals", BENCHMARKS / "rivals.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "rivals", module)
    spec.loader.exec_module(module)
    return module


def test_trains_measures_and_goes_on(rivals: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LeWMAgent("two_room", "small", device="cpu").collect(tmp_path / "data" / "two_room", episodes=6, progress=False)
    done: list[str] = []

    def counted(command: list[str]) -> float:
        if len(done) == 3:
            raise RuntimeError("interrupted")
        done.append(command[0])
        return cli.main(command) or 1000.0  # a process costs seconds

    monkeypatch.setattr(rivals, "execute", counted)
    arguments = ["--env", "two_room", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    arguments += ["--agents", "lewm", "gcbc", "--steps", "2", "--episodes", "2", "--protocols", "paper"]
    arguments += ["--encoder", "cnn"]
    assert rivals.main(arguments) == 2
    assert done == ["learn", "eval", "learn"]
    done.clear()
    assert rivals.main(arguments) == 0
    assert done == ["eval"]
    assert rivals.main([*arguments, "--frozen", "cube"]) == 0  # concerns neither of the two
    assert done == ["eval"]
    content = json.loads((tmp_path / "out" / "rivals.json").read_text())
    lewm, gcbc = content["results"]["tables"]["two_room"]["paper"]
    assert (lewm["agent"], gcbc["agent"], lewm["steps"], gcbc["steps"]) == ("lewm", "gcbc", 2, 2)
    assert lewm["difference"] == 0 and lewm["parameters"] > gcbc["parameters"]
    assert gcbc["training_minutes"] > 0 and gcbc["peak_memory_mb"] > 100
    text = (tmp_path / "out" / "rivals.md").read_text()
    assert "| GCBC |" in text and "2 steps" in text and "encoder `cnn`" in text
    configs = [(tmp_path / "out/two_room" / run / "model/config.json").read_text() for run in ("lewm-0", "gcbc-0")]
    assert all('"encoder": "cnn"' in config for config in configs)
    assert (tmp_path / "out" / "curves-two_room.png").stat().st_size > 5000
    assert rivals.main([*arguments, "--preset", "fine"]) == 2  # begun with another one


def test_a_command_is_a_process_whose_memory_is_measured(rivals: ModuleType) -> None:
    assert 10 < rivals.execute(["--version"]) < 10_000
    with pytest.raises(RuntimeError, match="`lewm --nothing` failed with exit code 2"):
        rivals.execute(["--nothing"])


def run(agent: str, seed: int, outcomes: list[bool]) -> dict[str, Any]:
    numbers = ["training_minutes", "ms_per_decision", "peak_memory_mb", "steps", "parameters", "trained_parameters"]
    numbers.append("environment_steps")
    return {"env": "e", "agent": agent, "seed": seed, "outcomes": {"paper": outcomes}, **dict.fromkeys(numbers, 1.0)}


def test_seeds_are_pooled_and_a_winning_rival_is_named(rivals: ModuleType) -> None:
    runs = [run("lewm", s, [True, False] * 20) for s in (0, 1)] + [run("gcbc", s, [True] * 40) for s in (0, 1)]
    lewm, gcbc = rivals.table(runs, "e", "paper")
    assert lewm["success_rate"] == 50 and lewm["by_seed"] == [50, 50]
    assert gcbc["difference"] == 50 and gcbc["difference_ci95"][0] > 0
    assert rivals._difference(gcbc).endswith(", better")
    lewm["difference_ci95"] = [-1.0, 1.0]
    assert rivals._difference(lewm).endswith("]")


def test_who_learns_online_is_trained_in_the_environment(rivals: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "two_room").mkdir()
    settings = {"agents": ("lewm", "tdmpc2"), "steps": 5, "protocols": ("paper",)}
    options = rivals.Arguments(env=("two_room",), data=tmp_path, output=tmp_path / "out", **settings)
    with pytest.raises(ValueError, match="tdmpc2 learns online: say for how many steps"):
        options.check()
    options = dataclasses.replace(options, environment_steps=700)
    options.check()
    one = rivals.Run(options, "two_room", "tdmpc2", 3)
    assert rivals.planned_epochs(one) == rivals.planned_epochs(one) == 0
    plan = json.loads((one.folder / "plan.json").read_text())
    assert plan["command"].startswith(f"lewm learn-online two_room --output {one.folder} --steps 700 --seed 3")
    rows = [{"step": 350, "split": "train", "updates": 9.0, "total": 1.0, "reward": 0.5}]
    rows += [{"step": step, "split": "episode", "reward": -1.0, "seconds": 30.0} for step in (350, 700)]
    metrics = one.folder / "training" / "metrics.jsonl"
    metrics.parent.mkdir()
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (one.folder / "memory.json").write_text(json.dumps({"peak_memory_mb": 5}))
    result = {"seconds_per_decision": 0.1, "records": [{"success": True}]}
    one.result("paper").write_text(json.dumps(result))
    agent = make_agent("tdmpc2", "two_room", "two_terms", device="cpu")
    agent.save_pretrained(one.folder / "model")
    found = rivals.summary(one)
    assert (found["steps"], found["environment_steps"], found["training_minutes"]) == (9, 700, 1.0)
    rivals.draw_curves([one], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()
    with pytest.raises(ValueError, match="was begun with"):
        rivals.planned_epochs(rivals.Run(dataclasses.replace(options, environment_steps=800), "two_room", "tdmpc2", 3))


def test_arguments_are_checked(rivals: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = ["--env", "two_room", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    assert rivals.main(usual) == 2
    assert rivals.main([*usual, "--steps", "1", "--agents", "gcbc"]) == 2
    assert rivals.main([*usual, "--steps", "1"]) == 2
    errors = " ".join(capsys.readouterr().err.split())
    assert "either --steps or --minutes" in errors and "must include lewm" in errors and "no dataset" in errors
