"""What installs is lewm_agent alone, whole, and it hides nobody else's modules."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from lewm_agent import cli

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]
MODEL_FILES = {"config.json", "model.safetensors", "README.md"}


def run_python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """Standard output of a fresh interpreter started in ``cwd``, with ``path`` as its PYTHONPATH."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    result = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip()


def copy_of_sources(target: Path) -> Path:
    """The files a build reads, without build products, plus a small stand-in for a bundled model."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    model = target / "lewm_agent" / "pretrained" / "stand_in"
    model.mkdir(parents=True)
    for name in MODEL_FILES:
        (model / name).write_text("{}")
    return target


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_sources(tmp_path_factory.mktemp("build") / "lewm-agent")


@pytest.fixture(scope="module")
def wheel(sources: Path) -> Path:
    """The wheel made from the source distribution, as a release makes it."""
    run_python("-m", "build", "--no-isolation", "--outdir", str(sources.parent / "dist"), cwd=sources)
    return next((sources.parent / "dist").glob("*.whl"))


def shipped_files(sources: Path) -> set[str]:
    """Names inside the wheel that the sources call for: every module, the typing marker, every model and asset."""
    names = {"lewm_agent/py.typed"}
    for package, folder in FOLDERS.items():
        top = sources / folder
        names |= {f"{package.replace('.', '/')}/{path.relative_to(top).as_posix()}" for path in top.rglob("*.py")}
    names.add("lewm_agent/envs/reacher/reacher.xml")
    names |= {f"lewm_agent/eval/pair_lists/{path.name}" for path in (sources / "eval" / "pair_lists").glob("*")}
    names |= {f"lewm_agent/eval/reporting/{page.name}" for page in ROOT.glob("eval/reporting/*.jinja")}
    return names | {path.relative_to(sources).as_posix() for path in sources.glob("lewm_agent/pretrained/*/*")}


def test_the_listed_packages_are_the_folders_with_an_init_file() -> None:
    found = set()
    for package, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)


def test_the_wheel_holds_lewm_agent_whole_and_nothing_else(sources: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        top_level = next(name for name in archive.namelist() if name.endswith(".dist-info/top_level.txt"))
        assert archive.read(top_level).decode().split() == ["lewm_agent"]
    assert names == shipped_files(sources)
    assert {f"lewm_agent/pretrained/stand_in/{name}" for name in MODEL_FILES} <= names


@pytest.mark.parametrize("name", ["cube", "push_t", "reacher", "two_room"])
def test_the_models_are_bundled_and_small(name: str) -> None:
    folder = ROOT / "lewm_agent" / "pretrained" / name
    assert {path.name for path in folder.glob("*")} == MODEL_FILES
    assert sum(path.stat().st_size for path in folder.glob("*")) <= 16e6


def distribution_names(requirements: list[str]) -> set[str]:
    """Normalized distribution names (PEP 503) of requirement strings such as ``imageio[pyav]>=2.36``."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower() for requirement in requirements}


def imported_modules(tree: ast.Module, at_import_time: bool) -> set[str]:
    """Top-level names of the modules that a file imports: all of them, or only those its own import needs."""
    nodes = tree.body if at_import_time else list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names} - {"lewm_agent"} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("at_import_time", [True, False])
def test_every_import_is_a_declared_dependency(at_import_time: bool) -> None:
    """Extras may be imported inside functions only; nothing may lean on what another library happens to bring."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    importable = ("fast", "video", "minari", "lerobot", "cluster", "compare")
    shipped_extras = [requirement for name in importable for requirement in extras[name]]
    declared = distribution_names(PYPROJECT["project"]["dependencies"] + ([] if at_import_time else shipped_extras))
    providers = importlib.metadata.packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {module}"
        for folder in FOLDERS.values()
        for path in (ROOT / folder).glob("*.py")
        for module in imported_modules(ast.parse(path.read_text()), at_import_time)
        if not distribution_names(providers.get(module, [module])) & declared
    }
    assert not undeclared


def test_everything_installed_for_the_tests_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = distribution_names([line for line in lines if "==" in line and not line.startswith("#")])
    extras = PYPROJECT["project"]["optional-dependencies"]
    installed = PYPROJECT["project"]["dependencies"] + extras["dev"] + extras["fast"] + extras["video"]
    assert distribution_names(installed) - {"lewm-agent"} <= pinned


def test_an_unpacked_wheel_imports_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    origin = run_python("-c", "import lewm_agent.envs as m; print(m.__file__)", cwd=tmp_path, path=site)
    assert Path(origin) == site / "lewm_agent" / "envs" / "__init__.py"
    modules = [one.module for one in cli.COMMANDS.values() if isinstance(one, cli.Elsewhere)]
    code = f"import importlib; print(*(importlib.import_module(name).__file__ for name in {modules}))"
    homes = [Path(file) for file in run_python("-c", code, cwd=tmp_path, path=site).split()]
    assert len(homes) == len(modules) and all(home.is_relative_to(site) for home in homes)


def test_an_editable_install_imports_the_checkout_from_anywhere(tmp_path: Path) -> None:
    origin = run_python("-c", "import lewm_agent.envs as m; print(m.__file__)", cwd=tmp_path)
    assert Path(origin) == ROOT / "envs" / "__init__.py"


def test_no_script_in_eval_hides_another_module() -> None:
    """``python eval/x.py`` puts eval/ first on sys.path, so its file names are top-level modules to every library."""
    scripts = {path.stem for path in (ROOT / "eval").glob("*.py")} - {"__init__"}
    assert not scripts & set(sys.stdlib_module_names)
    assert not scripts & set(importlib.metadata.packages_distributions())


def test_datasets_in_the_repository_root_is_the_installed_library(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("from datasets.table import Dataset")
    (tmp_path / "datasets" / "table.py").write_text("class Dataset: pass")
    code = """
import sys
before = sys.path[:]
from datasets import Dataset
import datasets, datasets.table, lewm_agent.datasets
assert datasets.table.Dataset is Dataset and sys.path == before
print(datasets.__file__, lewm_agent.datasets.__file__, sep="\\n")
"""
    stand_in, ours = run_python("-c", code, cwd=ROOT, path=tmp_path).splitlines()
    assert Path(stand_in) == tmp_path / "datasets" / "__init__.py"
    assert Path(ours) == ROOT / "datasets" / "__init__.py"


@pytest.mark.skipif("datasets" in importlib.metadata.packages_distributions(), reason="a `datasets` is installed")
def test_datasets_in_the_repository_root_is_missing_when_not_installed() -> None:
    code = """
try:
    import datasets
except ModuleNotFoundError as error:
    print(error)
"""
    assert run_python("-c", code, cwd=ROOT) == "No module named 'datasets'"
