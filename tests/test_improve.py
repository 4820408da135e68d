"""Rounds of trying and learning: what they leave, and that they go on wherever they were stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lewm_agent import AgentConfig, LeWMAgent, cli
from lewm_agent.attempts.playing import AttemptSettings
from lewm_agent.attempts.rounds import RoundSettings
from lewm_agent.datasets import OfflineDataset
from lewm_agent.evaluation.goals import RecordedGoals
from lewm_agent.improving_agent import _Rounds

ASKED: dict[str, Any] = {"rounds": 2, "episodes": 3, "budget": 25, "epochs": 0.05, "pairs": 2, "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:.*fewer rows than a clip needs:UserWarning")


@pytest.fixture(scope="module")
def done(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], str]:
    """Two rounds from nothing: the folder, what was returned, and the hash of the weights the agent was left with."""
    output = tmp_path_factory.mktemp("improve") / "out"
    agent = fresh(tiny_config)
    result = agent.improve(tiny_dataset, output, **ASKED)
    return output, result, agent.weights_sha256()


def fresh(config: AgentConfig) -> LeWMAgent:
    training = dataclasses.replace(config.training, epochs=0.2)
    return LeWMAgent("two_room", dataclasses.replace(config, training=training))


def test_every_round_is_a_folder_and_the_best_is_kept(
    done: tuple[Path, dict[str, Any], str], tiny_dataset: OfflineDataset
) -> None:
    output, result, weights = done
    assert json.loads((output / "improve.json").read_text()) == result
    rows, best = result["rounds"], result["best_round"]
    assert [row["round"] for row in rows] == [0, 1, 2] and result["own_attempts"] is True
    assert rows[best]["success_rate"] == max(row["success_rate"] for row in rows)
    assert weights == rows[best]["weights_sha256"] == LeWMAgent.from_pretrained(output / "model").weights_sha256()
    assert [row["attempts"] for row in rows] == [0, 3, 6]
    steps = [int((OfflineDataset(output / f"round-{k}" / "data").episode_lengths - 1).sum()) for k in (1, 2)]
    assert [row["environment_steps"] for row in rows] == [0, steps[0], sum(steps)]
    assert rows[0]["minutes"] < rows[1]["minutes"] < rows[2]["minutes"]
    assert (output / "curve.png").read_bytes().startswith(b"\x89PNG")
    attempts = [OfflineDataset(output / f"round-{k}" / "data").metadata for k in (1, 2)]
    for metadata, before in zip(attempts, rows, strict=False):
        assert metadata is not None and metadata.attempts is not None
        assert metadata.attempts["weights_sha256"] == before["weights_sha256"]
    assert attempts[0] is not None and attempts[1] is not None and attempts[0].seed != attempts[1].seed
    record = LeWMAgent.from_pretrained(output / "round-2" / "model").description.training
    assert record is not None and record.data.startswith("12 episodes, policy expert, seed 0, weight 0.5 + 3 episodes")
    assert record.data.count("policy self") == 2
    validation = json.loads((output / "round-1" / "validation.json").read_text())
    assert validation["seed"] == 1 and validation["episodes"] == 2


def gone(*names: str) -> Callable[[Path], None]:
    def remove(output: Path) -> None:
        for name in names:
            place = output / name
            shutil.rmtree(place) if place.is_dir() else place.unlink()

    return remove


def beginning_of_a_training(output: Path) -> None:
    gone("round-2/validation.json", "round-2/model", "round-2/training/checkpoints")(output)


def unfinished_attempts(output: Path) -> None:
    gone("round-1/validation.json", "round-1/model", "round-1/training", "round-1/data/shard-00000.h5", "round-2")(
        output
    )


@pytest.mark.parametrize(
    "stopped",
    [
        gone("model", "curve.png"),
        gone("round-2/validation.json"),
        beginning_of_a_training,
        unfinished_attempts,
        gone("round-0", "round-1", "round-2", "model", "curve.png", "improve.json"),
    ],
)
def test_it_goes_on_wherever_it_was_stopped(
    done: tuple[Path, dict[str, Any], str],
    stopped: Callable[[Path], None],
    tiny_config: AgentConfig,
    tiny_dataset: OfflineDataset,
    tmp_path: Path,
) -> None:
    _, expected, weights = done
    output = tmp_path / "out"
    shutil.copytree(done[0], output)
    stopped(output)
    (output / "improve.json.part").write_text("cut off")
    agent = fresh(tiny_config)
    seen: list[int] = []
    result = agent.improve(tiny_dataset, output, told=lambda row: seen.append(row["round"]), **ASKED)
    assert seen == [0, 1, 2] and agent.weights_sha256() == weights
    for row, other in zip(result["rounds"], expected["rounds"], strict=True):
        untimed = [{k: v for k, v in one.items() if "minutes" not in k} for one in (row, other)]
        assert untimed[0] == untimed[1]


def test_a_failure_leaves_the_agent_as_it_was_and_the_same_call_continues(
    trained_folder: Path, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder, device="cpu")
    before = agent.weights_sha256(), agent.description
    with monkeypatch.context() as patched:
        patched.setattr(
            _Rounds, "measure", lambda self, output: 1 / 0 if "round-1" in str(output) else measure(self, output)
        )
        with pytest.raises(ZeroDivisionError):
            agent.improve(tiny_dataset, tmp_path / "out", **{**ASKED, "rounds": 1})
    assert (agent.weights_sha256(), agent.description) == before
    result = agent.improve(tiny_dataset, tmp_path / "out", **{**ASKED, "rounds": 1})
    assert result["rounds"][0]["weights_sha256"] == before[0] and len(result["rounds"]) == 2
    with pytest.raises(ValueError, match=r"out holds rounds with noise 0.1, not 0.4: go on with that, or give another"):
        LeWMAgent.from_pretrained(trained_folder).improve(tiny_dataset, tmp_path / "out", **{**ASKED, "noise": 0.4})


measure = _Rounds.measure


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"rounds": 0}, "rounds must be a whole number of at least 1, got 0"),
        ({"episodes": 1}, "episodes must be a whole number of at least 2, got 1"),
        ({"share": 1.0}, "share must be between 0 and 1, got 1.0: so much comes from attempts"),
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"noise": -1}, "noise must be from 0 to 1"),
        ({"budget": 9}, "attempts of 9 steps are too short to learn from, as a clip has 16 rows: give a larger budget"),
        ({"goals": []}, "the list of starts and goals is empty"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_done(
    asked: dict[str, Any], sentence: str, tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny_agent.improve(tiny_dataset, tmp_path / "out", **{**ASKED, **asked})
    assert not (tmp_path / "out").exists()


def test_data_of_another_environment_or_a_folder_of_something_else(
    trained_folder: Path, tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder, device="cpu")
    other = LeWMAgent("reacher", tiny_config).collect(tmp_path / "data", "random", 2, progress=False)
    with pytest.raises(ValueError, match="data is of lewm/Reacher-v0, and the agent acts in lewm/TwoRoom-v0"):
        agent.improve(other, tmp_path / "out", **ASKED)
    with pytest.raises(ValueError, match=r"data holds .* and no rounds: give another output"):
        agent.improve(tiny_dataset, tmp_path / "data", **ASKED)


def test_the_command(
    trained_folder: Path, tiny_dataset: OfflineDataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [
        "improve",
        "--model",
        str(trained_folder),
        "--data",
        str(tiny_dataset.path),
        "--output",
        str(tmp_path / "out"),
    ]
    short = ["--rounds", "1", "--episodes", "3", "--budget", "25", "--epochs", "0.05", "--pairs", "2"]
    assert cli.main([*given, *short, "--protocol", "strict"]) == 0
    told = capfd.readouterr().out
    assert "round 1: " in told and "% [" in told and "steps of attempts" in told
    result = json.loads((tmp_path / "out" / "improve.json").read_text())
    validation = json.loads((tmp_path / "out" / "round-1" / "validation.json").read_text())
    assert validation["protocol"] == "strict" and result["request"]["pairs_sha256"] == validation["pairs_sha256"]


def test_pairs_of_a_dataset_are_of_episodes_that_no_attempt_aims_at(
    trained_folder: Path, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder, device="cpu")
    other = agent.collect(tmp_path / "goals", "expert", 6, seed=7, progress=False)
    attempts = AttemptSettings(RecordedGoals(other, 10))
    suite = _Rounds(agent, attempts, RoundSettings(), None, 8, 1, False)._suite(8)
    aimed_at = agent.to_train_on(other)
    assert 0 < len(aimed_at) < 6 and not {trial.about["episode"] for trial in suite.trials} & set(aimed_at.tolist())
