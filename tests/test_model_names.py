"""Which model a name means: one rule for every place that takes one, and a word where it could be another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lewm_agent import CheckpointError, LeWMAgent
from lewm_agent.agents import load_agent
from lewm_agent.agents.rivals.frozen import read_encoder
from lewm_agent.checkpoints import hub
from lewm_agent.eval import command, success_rate
from lewm_agent.inspection import describe, is_checkpoint

SIDES = {"mine": 16, "bundled": 64}

PLACES: dict[str, Callable[[str], int]] = {
    "from_pretrained": lambda name: LeWMAgent.from_pretrained(name, device="cpu").config.model.image_size,
    "load_agent": lambda name: load_agent(name, device="cpu").config.model.image_size,
    "frozen encoder": lambda name: read_encoder(name)[0].image_size,
    "info": lambda name: int(describe(name)["frames"].split()[0]),
    "eval": lambda name: command.load_model(name, "lewm/TwoRoom-v0", "cpu").config.model.image_size,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_a_model_here_is_taken_before_a_bundled_one_with_a_word(
    here: Path, trained_folder: Path, place: Callable[[str], int]
) -> None:
    assert place("two_room") == place("bundled:two_room") == SIDES["bundled"]
    (here / "two_room").mkdir()  # holds no model
    assert place("two_room") == SIDES["bundled"]
    (here / "two_room").rmdir()
    shutil.copytree(trained_folder, "two_room")
    with pytest.warns(UserWarning, match="`two_room` is a folder here, which is loaded, .* `bundled:two_room`"):
        assert place("two_room") == SIDES["mine"]
    assert place("./two_room") == SIDES["mine"] and place("bundled:two_room") == SIDES["bundled"]
    (here / "one").mkdir()
    shutil.move("two_room", "one/model")  # as `lewm learn --output two_room` leaves it
    (here / "one").rename("two_room")
    with pytest.warns(UserWarning, match="`two_room` is a folder here, which is loaded"):
        assert place("two_room") == SIDES["mine"]
    shutil.copytree("two_room/model", "two_room/other")
    with pytest.raises(CheckpointError, match="folders model, other, or `bundled:two_room`"):
        place("two_room")


@pytest.mark.filterwarnings("error")
def test_a_path_is_a_path(here: Path, trained_folder: Path) -> None:
    for loader in (LeWMAgent.from_pretrained, load_agent):
        with pytest.raises(CheckpointError, match="there is no file or folder two_room"):
            loader(Path("two_room"))
        with pytest.raises(CheckpointError, match="there is no file or folder user/model"):
            loader(Path("user/model"))
    shutil.copytree(trained_folder, "two_room")
    assert LeWMAgent.from_pretrained(Path("two_room"), device="cpu").config.model.image_size == SIDES["mine"]


@pytest.mark.filterwarnings("error")
def test_a_folder_here_is_no_id_on_the_hub(here: Path, trained_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained_folder, "user/model")
    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the Hub"))
    assert load_agent("user/model", device="cpu").config.model.image_size == SIDES["mine"]


@pytest.mark.parametrize("name", ["bundled:nothing", "nothing", "a/b/c", "", "user/model/", "./m", "~/m", "../m"])
def test_a_name_that_can_be_nothing_is_told_what_names_there_are(here: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="has no config.json" if name == "" else "neither a bundled model"):
        load_agent(name)


def test_a_name_that_the_hub_cannot_have_is_a_sentence(here: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no folder `a--b/c\.` here, and no such model could be had from the Hub"
    ):
        load_agent("a--b/c.", local_files_only=True)


@pytest.mark.filterwarnings("error")
def test_the_model_of_an_environment_is_the_bundled_one_whatever_lies_here(here: Path, trained_folder: Path) -> None:
    shutil.copytree(trained_folder, "two_room")
    for env in ("two_room", "lewm/TwoRoom-v0"):
        assert success_rate._agent(success_rate.Options(env=env)).config.model.image_size == SIDES["bundled"]
    with pytest.raises(ValueError, match="no model of CartPole-v1 comes with the package: give one with --model"):
        command.bundled("CartPole-v1")


def test_converting_tells_models_from_data_by_the_same_rule(here: Path, trained_folder: Path) -> None:
    assert is_checkpoint("two_room") and is_checkpoint("bundled:two_room") and is_checkpoint("user/model")
    (here / "two_room").mkdir()
    (here / "two_room" / "data.h5").touch()
    assert not is_checkpoint("./two_room")
