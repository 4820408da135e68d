"""The command that breaks things: it finds what is broken, lets pass what is not, and goes on where it stopped."""

from __future__ import annotations

import importlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def module_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of the benchmarks, or a part of one."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the command sets what its processes need
    return importlib.import_module


def test_kills_and_inputs_are_counted_and_continued(
    module_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = module_of("faults")
    few = ["--kills", "2", "--inputs", "14", "--disk-step", "0"]
    output = tmp_path / "faults.json"
    assert faults.main([*few, "--only", "kills/collect/", "--output", str(output)]) == 0
    written = json.loads(output.read_text())["results"]
    assert written["table"] == {
        row: {"same": 1, "breaks": 1, "attempts": 1} for row in ("kills: collect", "kills: all")
    }
    assert "nothing lost" in capsys.readouterr().out

    attempted, done = faults.attempted, []

    def interrupted_after_three(trial: Any, folder: Path) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(trial.name)
        return attempted(trial, folder)

    with monkeypatch.context() as patch:
        patch.setattr(faults, "attempted", interrupted_after_three)
        assert faults.main([*few, "--only", "inputs/arguments", "--output", str(output)]) == 130
    seen = len(done)
    monkeypatch.setattr(faults, "attempted", lambda trial, folder: done.append(trial.name) or attempted(trial, folder))
    assert faults.main([*few, "--only", "inputs/arguments", "--output", str(output)]) == 0
    assert seen == 3 and len(done) == len(set(done)) == 5
    table = json.loads(output.read_text())["results"]["table"]
    assert table["inputs: arguments"] == {"sentence": 5, "breaks": 5, "attempts": 5}


def raises(error: BaseException) -> Any:
    raise error


def sleeps() -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    ("work", "outcome"),
    [
        (lambda: 0, "wrong"),
        (lambda: print("error: no") or 2, "sentence"),
        (lambda: 2, "traceback"),  # without a word
        (lambda: raises(KeyError("x")), "traceback"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "traceback"),
        (sleeps, "hang"),
        (lambda: [1], "harmless"),
        (lambda: [2], "wrong"),
    ],
)
def test_what_goes_wrong_is_seen(module_of: Any, monkeypatch: pytest.MonkeyPatch, work: Any, outcome: str) -> None:
    trial, inputs = module_of("breaking.trial"), module_of("breaking.inputs")
    monkeypatch.setattr(trial, "HANG_SECONDS", 0.5 if outcome == "hang" else 60)
    assert inputs._judged(trial.run(work), [1]).outcome == outcome


def test_what_is_lost_or_left_is_seen(module_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, kills = module_of("breaking.scene"), module_of("breaking.kills")
    monkeypatch.setattr(kills, "LEFT_SECONDS", 0.2)

    def forgets(folder: Path) -> None:
        (folder / "file").unlink(missing_ok=True)  # what was there is given up first
        (folder / "file").write_text("new")

    def leaves(folder: Path) -> None:
        if not os.fork():
            time.sleep(60)
        time.sleep(0.3)
        forgets(folder)

    def found(run: Any) -> Any:
        operation = scene.Operation(
            "writing",
            1.0,
            run,
            result=lambda folder: (folder / "file").read_text(),
            kept=lambda folder: len((folder / "file").read_text()),
            prepare=lambda folder: (folder / "file").write_text("old"),
        )
        outcomes = set()
        for number in range(0, 8, 2):
            folder = tmp_path / f"{run.__name__}-{number}"
            folder.mkdir()
            attempt = kills.attempt(operation, kills.Reference(operation), "parent", number, f"{number}")
            outcomes.add(attempt(folder).outcome)
        return outcomes

    assert "lost" in found(forgets)
    assert "left" in found(leaves)
