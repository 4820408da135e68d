"""Outputs: tried and held before the work, whole or as they were after it, and processes that end with their parent."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from lewm_agent.eval import command as eval_command
from lewm_agent.eval import (
    latent_geometry,
    pairs,
    planning_time,
    probing,
    reconstruction,
    report,
    success_rate,
    surprise,
    true_dynamics,
    watch,
)
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.reporting.pictures import save_picture
from lewm_agent.evaluation.videos import save_gif
from lewm_agent.tools import replacing
from lewm_agent.tools.outputs import reserved
from lewm_agent.tools.replacing import write_json

Main = Callable[[list[str]], int]
WRITING: list[tuple[Main, list[str], str]] = [
    (success_rate.main, ["--env", "two_room"], "--output"),
    (success_rate.main, ["--env", "two_room"], "--video"),
    (true_dynamics.main, ["--env", "two_room"], "--output"),
    (planning_time.main, ["--env", "two_room"], "--output"),
    (pairs.main, ["--env", "two_room"], "--output"),
    (watch.main, ["--env", "two_room"], "--record"),
    (latent_geometry.main, [], "--output"),
    (latent_geometry.main, [], "--picture"),
    *(
        (module.main, ["--env", "two_room"], option)
        for module in (probing, surprise, reconstruction)
        for option in ("--output", "--picture")
    ),
    (reconstruction.main, ["--env", "two_room"], "--save"),
]
NAMES = {"--record": "x.gif", "--picture": "x.png"}


def _folder(place: Path, option: str) -> Path:
    """A folder where a file is to be, or the reverse."""
    target = place / NAMES.get(option, "[/y] x")
    target.parent.mkdir(exist_ok=True)
    target.touch() if option == "--video" else target.mkdir()
    return target


def _below_a_file(place: Path, option: str) -> Path:
    (place / "file").touch()
    return place / "file" / NAMES.get(option, "x")


@pytest.mark.parametrize("spoil", [_folder, _below_a_file])
@pytest.mark.parametrize(("main", "arguments", "option"), WRITING)
def test_an_output_that_cannot_be_is_refused_before_the_work(
    main: Main,
    arguments: list[str],
    option: str,
    spoil: Callable[[Path, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eval_command.LeWMAgent, "from_pretrained", None)  # it is not loaded
    target = spoil(tmp_path, option)
    before = sorted(tmp_path.rglob("*"))
    assert main([*arguments, option, str(target)]) == 2
    error = capsys.readouterr().err
    assert str(target) in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_one_output_is_written_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / "made" / "out.json"
    held = pytest.raises(BlockingIOError, match=r"another process is writing .*out\.json")
    with reserved(path, None), held, reserved(path):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.json.lock").touch()  # left by a kill
    with reserved(tmp_path / "out.json"):
        pass


@pytest.mark.parametrize("path", [Path("/dev/null"), Path("."), Path("/")])
def test_what_is_no_file_is_refused(path: Path) -> None:
    with pytest.raises((ValueError, IsADirectoryError), match="give the path of"), reserved(path):
        pass


def test_one_file_for_two_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="asked for twice"), reserved(tmp_path / "x", tmp_path / "x"):
        pass


def test_a_picture_of_no_known_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert probing.main(["--env", "two_room", "--picture", "x.txt"]) == 2
    assert "a name that ends in .png" in capsys.readouterr().err


def _json(path: Path) -> None:
    write_json(path, {})


def _picture(path: Path) -> None:
    save_picture(Figure(), path, 10)


def _gif(path: Path) -> None:
    save_gif(path, [np.zeros((8, 8, 3), np.uint8)] * 2, 100)


def _pairs(path: Path) -> None:
    shipped("two_room", "paper").first(2).save(path)


@pytest.mark.parametrize("write", [_json, _picture, _gif, _pairs])
def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    write(path)
    before = path.read_bytes()
    assert before

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(replacing, "_flush", full)
    with pytest.raises(OSError, match="what was there before is kept") as caught:
        write(path)
    assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_a_figure_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


PARENT = """
import os, sys, time
from lewm_agent.tools import command
from lewm_agent.tools.workers import worker_pool

def nothing():
    pass

def work(_):
    with worker_pool(2, nothing) as pool:
        waiting = [pool.submit(play) for _ in range(2)]
        for future in waiting:
            future.result()

def play():
    print(os.getpid(), flush=True)
    time.sleep(3600)

if __name__ == "__main__":
    sys.exit(command.run(work))
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130)])
def test_workers_end_with_their_parent(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(sent)
    assert parent.wait() == code
    while any(_runs(worker) for worker in workers):
        time.sleep(0.05)


def _runs(number: int) -> bool:
    """Whether a process lives; one that has ended may still wait to be taken note of."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_report_is_as_it_was_when_it_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report").touch()
    assert report.main([str(tmp_path / "none.json"), "--output", str(tmp_path / "report")]) == 2
    assert "there is no file" in capsys.readouterr().err
