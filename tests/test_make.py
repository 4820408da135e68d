"""`make` says in one sentence what a machine lacks, and leaves no half-made environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def run_make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``make`` on a bare copy of what it reads; programs in ``folder`` come before the machine's."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, folder)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def write_program(folder: Path, name: str, body: str) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("failing_check", "sentence"),
    [("version_info", "needs Python 3.11 or newer"), ("ensurepip", "apt-get install python3-venv")],
)
def test_an_unfit_python_is_refused_in_one_sentence(tmp_path: Path, failing_check: str, sentence: str) -> None:
    python = write_program(tmp_path, "unfit_python", f'case "$*" in *{failing_check}*) echo noise >&2; exit 1;; esac')
    result = run_make(tmp_path, "run", f"PYTHON={python}")
    first_line, make_error = result.stderr.splitlines()
    assert sentence in first_line
    assert str(python) in first_line
    assert "Error 1" in make_error
    assert result.returncode != 0
    assert not (tmp_path / ".venv").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux looks for libEGL")
@pytest.mark.parametrize("user_id", [0, 1000])
def test_missing_gl_libraries_are_installed_by_root_and_named_to_others(tmp_path: Path, user_id: int) -> None:
    write_program(tmp_path, "ldconfig", "echo libc.so.6")
    write_program(tmp_path, "id", f"echo {user_id}")
    write_program(tmp_path, "apt-get", 'echo "$*" >>installed')
    write_program(tmp_path, "python3", "exit 0")  # set-up ends where the environment would be made
    result = run_make(tmp_path, "setup", "PYTHON=python3")
    installed = (tmp_path / "installed").read_text() if user_id == 0 else ""
    assert ("libegl1 libgl1-mesa-dri" in installed) == (user_id == 0)
    assert ("as root: apt-get install libegl1 libgl1-mesa-dri" in result.stderr) == (user_id != 0)
    assert "Installing lewm-agent" in result.stdout


def test_setting_up_again_with_another_python_keeps_the_environment(tmp_path: Path) -> None:
    """``venv`` run over an environment of another Python mixes the two, and neither's ``ssl`` loads."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    write_program(tmp_path / ".venv" / "bin", "python", 'echo "$*" >>pip_calls')
    other = write_program(tmp_path, "other_python", 'echo "$*" >>other_calls')
    assert run_make(tmp_path, "setup", f"PYTHON={other}").returncode == 0
    assert "-m venv" not in (tmp_path / "other_calls").read_text()
    assert "-c constraints.txt --no-build-isolation -e .[dev]" in (tmp_path / "pip_calls").read_text()
    assert run_make(tmp_path, "setup").stdout.startswith("make: Nothing to be done")


def test_help_lists_every_target(tmp_path: Path) -> None:
    listed = {line.split()[1] for line in run_make(tmp_path).stdout.splitlines()}
    declared = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    assert listed == set(declared.split()[1:])


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "exec make test" in script.read_text()
