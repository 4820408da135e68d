"""Imports run downwards and never in a circle, wherever in a file they stand."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("agents", "datasets", "envs", "eval")
LAYERS: tuple[tuple[str, ...], ...] = (
    ("_checkout", "tools"),
    ("datasets", "envs"),
    ("models",),
    ("environment",),
    ("agents.behavior", "planning", "training"),
    ("checkpoints",),
    ("config",),
    ("presets",),
    ("acting_agent",),
    ("stored_agent",),
    ("evaluation",),
    ("attempts",),
    ("collecting_agent",),
    ("goal_agent",),
    ("improving_agent",),
    ("planning_agent",),
    ("adapting",),
    ("agent",),
    ("recipes", "agents.rivals"),
    ("agents.registry",),
    ("inspection",),
    ("eval",),
    ("commands",),
    ("callbacks", "cli"),
)
"""From the bottom up: a part imports what stands in rows below its own, and nothing of its neighbours in the row."""
LAZY = {"lewm_agent", "lewm_agent.agents"}
"""Packages that only hand out names, on first use, of the modules above them."""
RANK = {part: rank for rank, row in enumerate(LAYERS) for part in row}


def modules() -> dict[str, Path]:
    files = [path for top in ("lewm_agent", *TOPS) for path in (ROOT / top).rglob("*.py")]
    return {name_of(path): path for path in files}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "lewm_agent" else ("lewm_agent", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, also inside functions and by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lewm_agent"):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (name for name in [node.value.split(":")[0]] if name in MODULES and name not in LAZY)


def part_of(module: str) -> str:
    """The longest name in ``LAYERS`` that ``module`` belongs to."""
    inside = module.removeprefix("lewm_agent").removeprefix(".")
    return max((part for part in RANK if f"{inside}.".startswith(f"{part}.")), key=len)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - LAZY))
def test_a_module_imports_from_below_alone(module: str) -> None:
    here = part_of(module)
    for imported in set(imports(MODULES[module])) - LAZY:
        there = part_of(imported)
        assert there == here or RANK[there] < RANK[here], f"{module} imports {imported}"


def test_no_circle() -> None:
    graph = {module: set(imports(path)) - LAZY - {module} for module, path in MODULES.items() if module not in LAZY}
    order = list(TopologicalSorter(graph).static_order())  # a circle raises CycleError
    assert set(order) >= graph.keys()


def test_a_name_in_a_string_and_an_import_inside_a_function_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text("def f():\n    from lewm_agent import cli\n    g('lewm_agent.eval.report')\n")
    assert set(imports(file)) == {"lewm_agent.cli", "lewm_agent.eval.report"}


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in MODULES.values()}
    assert max(len([*folder.glob("[!_]*.py")]) for folder in folders) <= 16
