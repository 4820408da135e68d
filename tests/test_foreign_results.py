"""Results and journals of others: figures that cannot be are named, nothing hangs, nothing is taken over in silence."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm_agent.eval.reporting.runs import read
from lewm_agent.evaluation.intervals import rate
from lewm_agent.evaluation.journal import Journal
from lewm_agent.evaluation.playing import Trace
from lewm_agent.tools import strict_json

REQUEST = {"budget": 2}


def entry(**changes: Any) -> dict[str, Any]:
    trace = Trace([np.zeros(2)] * 3, [1.0, 2.0, 3.0], [np.zeros(1)] * 2, False, 1, 0.1, 0.2)
    changed = {**asdict(trace), "states": [[0.0, 0.0]] * 3, "actions": [[0.0]] * 2, **changes.pop("trace", {})}
    return {"pair": 0, "trace": changed, **changes}


@pytest.mark.parametrize(
    "line",
    [
        entry(pair=1.5),
        entry(pair=float("nan")),
        entry(pair=-1),
        entry(pair=True),
        entry(trace={"distances": [1.0, float("nan"), 3.0]}),
        entry(trace={"states": [[0.0, float("inf")]] * 3}),
        entry(trace={"states": [[0.0, 0.0]] * 2, "distances": [1.0, 2.0], "actions": [[0.0]]}),
        entry(trace={"actions": [[0.0], [float("nan")]]}),
        entry(trace={"actions": [[0.0]]}),
        entry(trace={"states": [[0.0], [0.0, 0.0], [0.0]]}),
        entry(trace={"distances": [1.0]}),
        entry(trace={"seconds": "long"}),
        {"pair": 0, "floor": "random", "solved": 1},
        {"pair": 0, "floor": 3, "solved": True},
        {"pair": 0, "floor": "random"},
    ],
    ids=json.dumps,
)
def test_a_journal_with_impossible_entries_is_damaged(line: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.unfinished"
    good = json.dumps(entry())
    path.write_text("\n".join([json.dumps(REQUEST), good, json.dumps(line), ""]))
    with pytest.raises(ValueError, match="is damaged in line 3: delete that line"):
        Journal(path, REQUEST)
    path.write_text("\n".join([json.dumps(REQUEST), good, ""]))
    with Journal(path, REQUEST) as journal:
        assert list(journal.finished) == [0]


def test_a_journal_takes_no_trace_that_is_not_finite(tmp_path: Path) -> None:
    with Journal(tmp_path / "x", REQUEST) as journal, pytest.raises(ValueError, match="not finite"):
        journal.add(0, Trace([np.full(2, np.nan)] * 3, [0.0] * 3, [np.zeros(1)] * 2))


def result(**changes: Any) -> dict[str, Any]:
    record = {"success": True, "first_success_step": 3, "least_distance": 0.5}
    values: dict[str, Any] = {
        "env": "lewm/TwoRoom-v0",
        "protocol": "strict",
        "seed": 7,
        "planner_seed": 0,
        "pairs_sha256": "ab",
        "planner": None,
        **rate(1, 1),
        "success_at_end": 100.0,
        "start_solved_percent": 0.0,
        "starts": {},
        "floors": {"random": rate(1, 1)},
        "seconds_per_plan": 0.05,
        "model": {"name": "two_room", "weights_sha256": "cd"},
        "command": "",
        "versions": {},
        "hardware": {},
        "records": [record],
    }
    return {**values, **changes, "records": [{**record, **changes.pop("record", {})}]}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"budget": 10**9}, "`budget` holds 1000000000, not a number of steps from 1 to 10000"),
        ({"record": {"first_success_step": 51}}, "record 0 is solved at step 51 of 50"),
        ({"record": {"first_success_step": 0}}, "record 0 is solved at step 0"),
        ({"record": {"least_distance": float("nan")}}, "is not JSON .*NaN is not a finite number"),
        ({"seconds_per_plan": float("inf")}, "Infinity is not a finite number"),
        ({"success_at_end": 101.0}, "`success_at_end` holds 101.0, not a percentage"),
        ({"success_rate_ci95": [-5.0, 100.0]}, "`success_rate` holds -5.0, not a percentage"),
        ({"floors": {"random": {**rate(1, 1), "success_rate": 300.0}}}, "`random` holds 300.0"),
        ({"hardware": {"cores": float("nan")}}, "NaN is not a finite number"),
    ],
)
def test_a_result_with_impossible_figures_is_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = tmp_path / "0.json"
    path.write_text(json.dumps(result()))
    assert len(read([path])) == 1
    path.write_text(json.dumps(result(**changes)))
    with pytest.raises(ValueError, match=named):
        read([path])


@pytest.mark.parametrize("text", ["1e999", "[NaN]", "-Infinity", "[" * 100_000, "{", "\xff"])
def test_strict_json_names_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"x\.json is not JSON"):
        strict_json.read(tmp_path / "x.json")
