"""The command line: every command from nothing, and its refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from lewm_agent import LeWMAgent, cli
from lewm_agent.datasets import OfflineDataset

TINY = (
    "small",
    "--model.encoder-depth=1",
    "--model.predictor-depth=1",
    "--training.epochs=0.1",
    "--training.schedule-epochs=0.1",
    "--training.batch-size=16",
)


def test_collect_learn_and_load(tmp_path: Path) -> None:
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    assert cli.main(["collect", "--env", "two_room", "--path", data, "--episodes", "6", "--policy", "random"]) == 0
    assert OfflineDataset(data).frame_shape == (64, 64, 3)
    assert cli.main(["learn", "--env", "two_room", "--dataset", data, "--output", run, *TINY]) == 0
    agent = LeWMAgent.from_pretrained(tmp_path / "run" / "model")
    assert agent.config.model.encoder_depth == 1
    assert "policy random" in agent.description.training["data"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "--env", "two_rom", "--path", "x"], "did you mean `two_room`?"),
        (["collect", "--env", "two_room", "--path", "x", "--episodes", "0"], "episodes must be a whole number"),
        (["learn", "--env", "two_room", "--dataset", "none", "--output", "x"], "there is no dataset at none"),
        (["reproduce", "two_rooms"], "no recipe `two_rooms`"),
    ],
)
def test_refusals_are_one_sentence(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_mistyped_flags_are_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["collect", "--env", "two_room", "--path", "x", "--epsiodes", "3"])
    assert "--episodes" in capsys.readouterr().err
