"""The command line: every command from nothing, and its refusals."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from lewm_agent import LeWMAgent, cli
from lewm_agent.datasets import OfflineDataset

TINY = (
    "two_terms",
    "--model.encoder-depth=1",
    "--model.predictor-depth=1",
    "--training.epochs=0.1",
    "--training.schedule-epochs=0.1",
    "--training.batch-size=16",
)
COLLECT = ("collect", "--env", "two_room", "--path", "x")
LEARN = ("learn", "--env", "two_room", "--dataset", "none", "--output", "x")


def test_collect_learn_and_load(tmp_path: Path) -> None:
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    assert cli.main(["collect", "--env", "two_room", "--path", data, "--episodes", "6", "--policy", "random"]) == 0
    assert OfflineDataset(data).frame_shape == (64, 64, 3)
    assert cli.main(["learn", "--env", "two_room", "--dataset", data, "--output", run, *TINY]) == 0
    agent = LeWMAgent.from_pretrained(tmp_path / "run" / "model")
    assert agent.config.model.encoder_depth == 1
    assert "policy random" in agent.description.origin["data"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "--env", "two_rom", "--path", "x"], "did you mean `two_room`?"),
        (["collect", "--env", "two_room", "--path", "x", "--episodes", "0"], "episodes must be a whole number"),
        (["learn", "--env", "two_room", "--dataset", "none", "--output", "x"], "there is no dataset at none"),
        (["reproduce", "two_rooms"], "no recipe `two_rooms`"),
        (["infos", "two_room"], "no command `infos`"),
        (["info", "nowhere"], "no model `nowhere`"),
        (["convert", "nowhere", "x"], "there is no dataset at nowhere"),
        (["convert", "nowhere", "x", "--to", "minari"], "there is no dataset at nowhere"),
        (["convert", "nowhere", "x", "--to", "released"], "--to released converts checkpoints, and nowhere is none"),
        (["eval", "--env", "two_rom"], "did you mean `two_room`?"),
        ([*COLLECT, "--environment-kwargs", "{terminate: [/red]}"], "must be a JSON object such as '{\"terminate_on_"),
        ([*COLLECT, "--environment-kwargs", "[1]"], "must be a JSON object"),
        ([*COLLECT, "--environment-kwargs", '{"success_radius": NaN}'], "NaN is not a finite number"),
        (
            [*COLLECT, "--environment-kwargs", '{"door": 1}'],
            "two_room takes no argument 'door' here; it takes collision,",
        ),
        ([*COLLECT, "--environment-kwargs", '{"image_size": 32}'], "two_room takes no argument 'image_size' here"),
        ([*COLLECT, "--environment-kwargs", '{"max_steps": 9}'], "no argument 'max_steps'"),
        ([*COLLECT, "--environment-kwargs", '{"collision": "none"}'], "collision must be"),
        (
            [*COLLECT, "--environment-kwargs", '{"terminate_on_success": "false"}'],
            "terminate_on_success must be True or False, got 'false'",
        ),
        ([*LEARN, "--environment-kwargs", '{"door": 1}'], "two_room takes no argument 'door' here"),
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


def test_environment_arguments_reach_the_data_and_the_model(tmp_path: Path) -> None:
    data, run, kwargs = str(tmp_path / "data"), str(tmp_path / "run"), '{"terminate_on_success": false}'
    to_collect = ("--env", "two_room", "--path", data, "--episodes", "3", "--environment-kwargs", kwargs)
    assert cli.main(["collect", *to_collect, "--frame-interval", "5"]) == 0
    dataset = OfflineDataset(data)
    assert dataset.num_frames == 3 * 21  # of 101 rows each; the expert arrives earlier in some of them
    assert dataset.metadata is not None
    assert dataset.metadata.environment_kwargs == {"image_size": 64, "terminate_on_success": False}
    to_learn = ("--env", "two_room", "--dataset", data, "--output", run)
    for given, learned in (((), False), (("--environment-kwargs", '{"terminate_on_success": true}'), True)):
        assert cli.main(["learn", *to_learn, *given, *TINY]) == 0
        shutil.rmtree(tmp_path / "run" / "training")
        agent = LeWMAgent.from_pretrained(tmp_path / "run" / "model")
        assert agent.description.environment_kwargs == {"image_size": 64, "terminate_on_success": learned}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--env", "two_room", "--datset", "x", "--output=y"], "no option `--datset` .* did you mean `--dataset`"),
        (["--env=two_room", "--no_resum"], "no option `--no-resum`"),
        (["--env", "two_room", "small", "--training.epochs", "2"], "lewm learn needs --dataset, --output;"),
    ],
)
def test_a_mistyped_learn_is_told_before_anything_that_learns_is_imported(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("torch", "lewm_agent.agent", "lewm_agent.presets", "lewm_agent.agents.registry"):
        monkeypatch.setitem(sys.modules, name, None)  # to import it is an error
    assert cli.main(["learn", *arguments]) == 2
    assert re.search(told, " ".join(capsys.readouterr().err.split()))


def test_mistyped_flags_are_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["collect", "--env", "two_room", "--path", "x", "--epsiodes", "3"])
    assert "--episodes" in capsys.readouterr().err


def test_info_tells_what_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = str(tmp_path / "data"), tmp_path / "run"
    assert cli.main(["collect", "--env", "two_room", "--path", data, "--episodes", "6", "--policy", "random"]) == 0
    assert cli.main(["learn", "--env", "two_room", "--dataset", data, "--output", str(run), *TINY]) == 0
    for place, expected in (
        (data, "checksums agree"),
        (f"{data}/shard-00000.h5", "single file without checksums"),
        (str(run / "model"), "checkpoint of lewm-agent"),
        (str(run / "training"), "last checkpoint of a training run"),
        (str(run), "checkpoint of lewm-agent"),
        ("two_room", "every tensor is there"),
    ):
        capsys.readouterr()
        assert cli.main(["info", place]) == 0
        assert expected in capsys.readouterr().out
    shutil.rmtree(run / "model")  # as if the training had been stopped
    assert cli.main(["info", str(run)]) == 0
    assert "last checkpoint of a training run" in capsys.readouterr().out
    shard = tmp_path / "data" / "shard-00000.h5"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    assert cli.main(["info", data]) == 2
    assert "is damaged, its SHA-256 differs" in " ".join(capsys.readouterr().err.split())


def test_converts_datasets_and_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    lerobot = str(Path(__file__).parent / "data" / "lerobot_image")
    ours, again = str(tmp_path / "ours"), str(tmp_path / "again")
    assert cli.main(["convert", lerobot, ours, "--env", "push_t", "--image-size", "16"]) == 0
    assert cli.main(["convert", ours, "lewm/t-v0", "--to", "minari"]) == 0
    assert cli.main(["convert", "lewm/t-v0", again]) == 0
    assert OfflineDataset(again).frame_shape == (16, 16, 3)
    paper = LeWMAgent("two_room", "paper", device="cpu").save_released(tmp_path / "released")
    arguments = ["--env", "two_room", "--dataset", again]
    assert cli.main(["convert", str(paper), str(tmp_path / "agent"), *arguments]) == 0
    assert LeWMAgent.from_pretrained(tmp_path / "agent").description.environment == "lewm/TwoRoom-v0"
    assert cli.main(["convert", str(tmp_path / "agent"), str(tmp_path / "back"), "--to", "released"]) == 0
    capsys.readouterr()
    assert cli.main(["info", str(tmp_path / "back")]) == 0
    assert "the statistics of actions are missing" in " ".join(capsys.readouterr().out.split())


def test_lists_environments_and_evaluates(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["envs"]) == 0
    assert "push_t" in capsys.readouterr().out
    assert cli.main(["eval", "--env", "two_room", "--episodes", "2"]) == 0
    assert "2 pairs" in capsys.readouterr().out


def test_a_missing_extra_is_one_sentence_with_the_line_that_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    assert cli.main(["convert", "lewm/t-v0", str(tmp_path / "x")]) == 2
    assert 'pip install "lewm-agent[minari]"' in " ".join(capsys.readouterr().err.split())
