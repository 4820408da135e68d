"""Jobs on a cluster do what one process does: submitit's local executor here, which takes the same path as SLURM."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from lewm_agent import LeWMAgent, cli, environment
from lewm_agent.agents.behavior.policies import behavior_policy
from lewm_agent.datasets import OfflineDataset, collect
from lewm_agent.datasets.shard_folder import JOBS
from lewm_agent.eval import success_rate
from lewm_agent.tools import cluster
from lewm_agent.tools.cluster import Cluster, call_folder, still_wanted

ASKED: dict[str, Any] = {"environment_id": "lewm/TwoRoom-v0", "policy": "random", "seed": 3, "shard_episodes": 2}
HERE = Cluster("local", 2)
TIMES = ("seconds_per_plan", "seconds_per_decision", "hardware")
"""What is of the machine in a result."""


def gathered(path: Path, *, make_policy: Any = None, cluster: Cluster | None = None) -> OfflineDataset:
    make_env = environment.factory("lewm/TwoRoom-v0", {"max_episode_steps": 4}, 16)
    make_policy = make_policy or functools.partial(behavior_policy, "random")
    return collect(path, make_env, make_policy, 5, progress=False, cluster=cluster, **ASKED)


def contents(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gathered(tmp_path_factory.mktemp("reference") / "data").path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost job's result is not waited for, as it may be on a slow shared disk."""
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)
    monkeypatch.setattr(cluster, "POLL", 0.05)


def troubled(trouble: Path, env: Any) -> Any:
    """A policy for which something happens in the second shard of a job while there is a file that says what."""
    SHARDS.append(os.getpid())
    if SHARDS.count(os.getpid()) > 1 and trouble.exists():
        with (trouble.parent / "pid").open("w") as file:
            file.write(str(os.getpid()))
        if trouble.read_text() == "lost":
            os._exit(1)
        while trouble.exists():
            time.sleep(0.02)
    return behavior_policy("random", env)


SHARDS: list[int] = []
"""Processes that have begun one."""


@pytest.fixture
def trouble(tmp_path: Path) -> Path:
    """A file; what it says happens in jobs, to which this module is sent by value."""
    SHARDS.clear()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return tmp_path / "trouble"


def test_jobs_gather_what_one_machine_does_and_again_what_a_lost_one_did_not_write(
    reference: Path, trouble: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    make_policy = functools.partial(troubled, trouble)
    trouble.write_text("lost")
    with pytest.raises(RuntimeError, match=r"1 of 2 jobs ended without a result") as lost:
        gathered(data, cluster=HERE, make_policy=make_policy)
    assert "4 episodes are kept" in lost.value.__notes__[0]
    written = {file: file.stat().st_mtime_ns for file in data.glob("*.h5")}
    assert len(written) == 2
    trouble.unlink()
    gathered(data, cluster=HERE, make_policy=make_policy)
    assert contents(data) == contents(reference)
    assert written == {file: file.stat().st_mtime_ns for file in written}


def test_ctrl_c_cancels_jobs_and_says_how_to_go_on(
    reference: Path, trouble: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, told = tmp_path / "data", tmp_path / "pid"
    trouble.write_text("held")

    def interrupt() -> None:
        while not (told.exists() and told.read_text() and (data / "shard-00001.h5").exists()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match=r"4 episodes are kept .* the same call continues"):
        gathered(data, cluster=HERE, make_policy=functools.partial(troubled, trouble))
    assert "jobs cancelled" in capsys.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)
    gathered(data)
    assert {name: content for name, content in contents(data).items() if JOBS not in name} == contents(reference)


def evaluated(folder: Path, output: Path, *options: str) -> int:
    arguments = ["--env", "two_room", "--model", str(folder), "--episodes", "4", "--output", str(output)]
    return success_rate.main([*arguments, "--num-envs", "1", *options])


def test_jobs_measure_what_one_process_does(trained_folder: Path, tmp_path: Path) -> None:
    assert evaluated(trained_folder, tmp_path / "here.json") == 0
    assert evaluated(trained_folder, tmp_path / "there.json", "--cluster", "local", "--jobs", "2") == 0
    here, there = (json.loads((tmp_path / name).read_text()) for name in ("here.json", "there.json"))
    assert {name for name in here if here[name] != there[name]} <= {"command", *TIMES}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["here.json", "there.json"]


def test_an_agent_has_jobs_play_what_it_plays(
    tiny_dataset: OfflineDataset, trained_folder: Path, tmp_path: Path
) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    told: dict[str, Any] = {"goals": tiny_dataset, "success": "state:10", "episodes": 2, "progress": False}
    with pytest.raises(ValueError, match="give an output"):
        agent.evaluate(**told, cluster=HERE)
    here = agent.evaluate(**told)
    there = agent.evaluate(**told, cluster=HERE, output=tmp_path / "there.json")
    assert {name for name in here if here[name] != there[name]} <= {"command", *TIMES}
    assert [file.name for file in tmp_path.iterdir()] == ["there.json"]


def test_what_jobs_of_a_failed_call_have_played_is_not_played_again(
    trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts: list[Any] = []

    def run(self: Cluster, place: Path, work: Any, given: Any) -> Any:
        parts.append(list(given))
        yield 0
        (place / "1_0_log.out").touch()
        work(given[0])
        if len(parts) == 1:
            raise RuntimeError("1 of 2 jobs ended without a result")

    monkeypatch.setattr(Cluster, "run", run)
    output = tmp_path / "out.json"
    assert evaluated(trained_folder, output, "--cluster", "local", "--jobs", "2") == 2
    assert "1 of 2 jobs" in capsys.readouterr().err
    assert evaluated(trained_folder, output, "--cluster", "local", "--jobs", "1") == 0
    assert parts == [[[0, 2], [1, 3]], [[1, 3]]]
    assert list(tmp_path.iterdir()) == [output]


def test_jobs_with_another_model_are_told(
    trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Cluster, "run", lambda *_: iter([]))
    assert evaluated(trained_folder, tmp_path / "out.json", "--cluster", "local", "--jobs", "2") == 2
    assert "jobs have not played 4 of the pairs, but others" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--jobs", "5"], "5 jobs for 4 pairs are too many; give 4 or fewer"),
        (
            ["--output", "None"],
            "jobs write beside the output, on a disk that all machines share: give an output (--output)",
        ),
    ],
)
def test_an_evaluation_that_cannot_be_split_is_refused(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluated(tmp_path, tmp_path / "out.json", "--cluster", "local", *given) == 2
    assert message in " ".join(capsys.readouterr().err.split())


class Killed(BaseException):
    """Stands for the end of a process that could do nothing more."""


def test_what_jobs_wrote_for_a_killed_call_is_taken_up(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[Any] = []

    def run(self: Cluster, place: Path, work: Any, given: Any) -> Any:
        parts.append(list(given))
        (place / cluster.WORK).touch()
        (place / "1_0_log.out").touch()
        work(given[0])
        if len(parts) == 1:
            raise Killed
        yield 1

    monkeypatch.setattr(Cluster, "run", run)
    with pytest.raises(Killed):
        gathered(tmp_path / "data", cluster=HERE)
    gathered(tmp_path / "data", cluster=HERE)
    assert parts == [[[0, 2], [1]], [[1]]]
    assert contents(tmp_path / "data") == contents(reference)


def test_a_job_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    with call_folder(tmp_path / "jobs") as place:
        (place / cluster.WORK).touch()
        still_wanted(place)
    with pytest.raises(FileNotFoundError, match="nobody waits for this job any more, or the folder is not on a disk"):
        still_wanted(place)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--jobs", "4"], "200 episodes are 2 files of up to 100, each written by one job: 4 jobs are too many"),
        (["--jobs", "0"], "jobs must be a whole number of at least 1, got 0"),
        (["--cluster", "none"], "there are no jobs without a cluster: give --cluster slurm or local"),
        (["--cluster-options", "[1]"], "--cluster-options must be a JSON object"),
        (["--cluster-options", '{"minutes": 3}'], "submitit refuses the options of the cluster"),
        (["--cluster", "slurm"], "srun"),
        (["--policy", "nobody"], "unknown behavior policy 'nobody'"),
    ],
)
def test_what_cannot_be_is_one_sentence_before_the_work(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM
    asked = ["collect", "--env", "two_room", "--path", str(tmp_path / "data"), "--policy", "random"]
    assert cli.main([*asked, "--episodes", "200", "--cluster", "local", "--jobs", "2", *given]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "data").exists()


def test_without_submitit_its_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    asked = ["collect", "--env", "two_room", "--path", str(tmp_path / "data"), "--cluster", "slurm"]
    assert cli.main(asked) == 2
    assert "pip install 'lewm-agent[cluster]'" in " ".join(capsys.readouterr().err.split())


def unlucky(part: str) -> None:
    raise ValueError(f"no luck with {part}")


def test_a_job_that_fails_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"^no luck with a \(in job 0; logs are in .*\)"),
        call_folder(tmp_path) as place,
    ):
        list(HERE.run(place, unlucky, ["a"]))
