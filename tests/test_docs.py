"""The worked examples of the documentation, with the long sizes made short."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm_agent import PlannerConfig
from lewm_agent.models.objectives import registry
from lewm_agent.planning import Search
from lewm_agent.planning import search as searches

DOCS = Path(__file__).resolve().parents[1] / "docs"
SHORTER = {
    "episodes=150": "episodes=5",
    "episodes=100": "episodes=8",
    "epochs=2.0": "epochs=0.1",
    'make("Pendulum-v1"': 'make("Pendulum-v1", max_episode_steps=30',
    "output=": "episodes=2, offset=5, output=",
    "n_eval_episodes=10": "n_eval_episodes=1",
    "episodes=300": "episodes=8",
    "max_episode_steps=200": "max_episode_steps=25",
    "(40, 2": "(2, 2",
    " steps=50": " steps=12",
    " steps=100": " steps=12",
}


@pytest.mark.usefixtures("brief")
def test_an_objective_and_a_search_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_entries", registry.entries())
    monkeypatch.setattr(searches, "_searches", dict(Search.kinds()))
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "guide" / "extending.md").read_text(), flags=re.DOTALL)
    assert len(examples[0].splitlines()) < 50
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for example in examples:
        exec(compile(example.replace("episodes=400", "episodes=6"), "extending.md", "exec"), namespace)
    assert '"spread"' in (tmp_path / "runs" / "spread" / "metrics.jsonl").read_text()
    assert '"kind": "spread"' in (tmp_path / "models" / "spread" / "config.json").read_text()
    agent = namespace["again"].set_planner(PlannerConfig(search=namespace["Shooting"](2.0), samples=8, elites=2))
    assert agent.act(np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 9, np.uint8)).shape == (2,)
    assert agent.config.to_dict()["planner"]["search"] == {"kind": "shooting", "spread": 2.0}


@pytest.mark.usefixtures("brief")
def test_examples_of_other_environments_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "guide" / "your_environment.md").read_text(), flags=re.DOTALL)
    assert len(examples) == 5
    (tmp_path / "dot.py").write_text(examples[0])
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, object] = {}
    for example in examples[1:]:
        for usual_size, brief_size in SHORTER.items():
            example = example.replace(usual_size, brief_size)
        exec(compile(example, "your_environment.md", "exec"), namespace)
    shown = r"[\d.]+ \[[\d., ]+\] \{'random'.*'replay': .*\}\n" + r"(agent|random) \d of 2\n" * 4
    assert re.fullmatch(shown, capsys.readouterr().out)
    assert (tmp_path / "dot.json").is_file() and list((tmp_path / "dot_gifs").glob("*.gif"))


def test_recipes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "guide" / "recipes.md").read_text(), flags=re.DOTALL)
    namespace: dict[str, Any] = {}
    for example in examples:
        for usual_size, brief_size in {
            "n_steps=256": "n_steps=8, batch_size=8",
            "20_000": "8",
            "range(100)": "range(3)",
        }.items():
            example = example.replace(usual_size, brief_size)
        exec(compile(example, "recipes.md", "exec"), namespace)
    before, after = (namespace["cost"](plan)[:, 0] for plan in (namespace["guesses"], namespace["plans"][:, None]))
    assert (after < before / 5).all()
    assert "goals reached" in capsys.readouterr().out
