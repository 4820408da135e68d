"""The notebook in examples/ runs, at a small size, and was committed with the outputs of a run that went well."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
nbclient = pytest.importorskip("nbclient")

FEW = {"planner.samples": 8, "planner.elites": 2, "planner.iterations": 1, "training.batch_size": 16}
NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "your_environment.ipynb"


def printed(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def test_it_runs_at_a_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    sizes = notebook.cells[1]
    changed = re.sub(r"= \d+, [\d.]+, \d+", "= 6, 0.1, 1", sizes.source)
    assert changed != sizes.source
    sizes.source = changed
    for cell in notebook.cells:
        cell.source = cell.source.replace("epochs=EPOCHS)", f"epochs=EPOCHS, **{FEW})").replace("range(60)", "range(6)")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert re.search(r"pictures [\d.]+ numbers [\d.]+", printed(notebook))
    assert (tmp_path / "dot_report" / "index.html").is_file() and (tmp_path / "diagnosis.html").is_file()
    lines = [str(cell.outputs) for cell in notebook.cells if "agent.learn(" in cell.source]
    assert "learn: " in lines[0] and " per second" in lines[0]  # readable without an extension for bars


def test_its_outputs_are_there_and_small() -> None:
    assert "agent" in printed(nbformat.read(NOTEBOOK, 4))
    assert NOTEBOOK.stat().st_size < 300_000
