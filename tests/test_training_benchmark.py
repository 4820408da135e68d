"""The benchmark that takes a training step apart."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_every_part_of_a_step_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    training = importlib.import_module("training")
    output = tmp_path / "out.json"
    tiny = ["--batch-size", "4", "--episodes", "2", "--repeats", "1"]
    assert training.main(["--preset", "small", "shapes", "moments", *tiny, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["settings"]["preset"] == ["small", "shapes", "moments"] and "hardware" in found
    small, shapes, moments = (set(found["results"][name]) for name in ("small", "shapes", "moments"))
    assert {"whole step", "reading", "pixels", "stage 1", "stage 4", "projector", "predictor", "SIGReg"} <= small
    assert shapes - small == {"decoder", "small pictures"}
    assert moments == {"whole step", "reading", "predictor", "optimiser"}  # it learns from latents
    step = found["results"]["small"]["whole step"]
    assert step["processor_seconds"] > 0 and 0 < step["share_of_peak"] < 1
    assert training.main(["--preset", "smal"]) == 2
