"""A training run's folder survives kills, copies without symbolic links, and drives that have none."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.inspection import describe, is_checkpoint
from lewm_agent.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def longer(tiny_config: AgentConfig) -> AgentConfig:
    length = {"epochs": 2.0, "schedule_epochs": 2.0, "schedule_cycles": 2}
    return dataclasses.replace(tiny_config, training=dataclasses.replace(tiny_config.training, **length))


@pytest.fixture(scope="module")
def trained(tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch with two checkpoints."""
    folder = tmp_path_factory.mktemp("run") / "run"
    agent = LeWMAgent("two_room", tiny_config)
    agent.learn(tiny_dataset, folder, workers=0, progress=False, checkpoint_every=20)
    assert len(RunFolder(folder).whole()) == 2
    return folder


@pytest.fixture(scope="module")
def uninterrupted(
    longer: AgentConfig, tiny_dataset: OfflineDataset, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("whole") / "run", symlinks=True)
    agent = LeWMAgent("two_room", longer)
    return agent.learn(tiny_dataset, folder, resume=True, progress=False).world_model.state_dict()


def _gone(run: RunFolder) -> None:
    run.last.unlink()


def _dangling(run: RunFolder) -> None:
    run.last.unlink()
    run.last.symlink_to("step-9999999")


def _folder(run: RunFolder) -> None:
    newest = run.last.resolve()
    run.last.unlink()
    shutil.copytree(newest, run.last)


def _only_folder(run: RunFolder) -> None:
    _folder(run)
    for numbered in run.checkpoints.glob("step-*"):
        shutil.rmtree(numbered)


def _newer_folder(run: RunFolder) -> None:
    _folder(run)
    shutil.rmtree(max(run.checkpoints.glob("step-*")))


def _file(run: RunFolder) -> None:
    run.last.unlink()
    run.last.write_text("step-0000020")


def _leftovers(run: RunFolder) -> None:
    (run.checkpoints / "last.part").symlink_to("step-0000001")
    (run.checkpoints / "step-0000040.part").mkdir()
    (run.checkpoints / "step-0000041.part").write_text("")
    (run.path / "rehearsal.part").write_text("")
    with run.metrics.open("a") as file:
        file.write('{"step": 20, "split"')


CHANGES = [_gone, _dangling, _folder, _only_folder, _newer_folder, _file, _leftovers]


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_continues_whatever_became_of_it(
    longer: AgentConfig,
    tiny_dataset: OfflineDataset,
    trained: Path,
    uninterrupted: dict[str, torch.Tensor],
    tmp_path: Path,
    change: Callable[[RunFolder], None],
) -> None:
    run = RunFolder(shutil.copytree(trained, tmp_path / "run", symlinks=True))
    newest = run.newest()
    assert newest is not None
    step = torch.load(newest / "training_state" / "state.pt")["step"]
    change(run)
    for place in (run.last, run.path):
        assert LeWMAgent.from_pretrained(place).description.origin["steps"] == step
    assert is_checkpoint(str(run.path))
    assert describe(str(run.path))["steps"] == str(step)
    agent = LeWMAgent("two_room", longer).learn(tiny_dataset, run.path, resume=True, progress=False)
    weights = agent.world_model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in uninterrupted.items())
    steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
    assert steps == sorted(steps) and steps[0] <= 20
    assert not list(run.path.rglob("*.part"))
    assert run.last.is_symlink() and run.last.resolve() == run.newest()


def _no_state(folder: Path) -> None:
    shutil.rmtree(folder / "training_state")


def _half_a_state(folder: Path) -> None:
    file = folder / "training_state" / "state.pt"
    file.write_bytes(file.read_bytes()[:-500])


def _half_the_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-500])


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


DAMAGES = [_no_state, _half_a_state, _half_the_weights, _no_config]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_whole_checkpoint_is_taken(
    longer: AgentConfig,
    tiny_dataset: OfflineDataset,
    trained: Path,
    uninterrupted: dict[str, torch.Tensor],
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    run = RunFolder(shutil.copytree(trained, tmp_path / "run", symlinks=True))
    damage(run.last.resolve())
    agent = LeWMAgent("two_room", longer).learn(tiny_dataset, run.path, resume=True, progress=False)
    weights = agent.world_model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in uninterrupted.items())


def test_a_run_without_a_whole_checkpoint_is_neither_continued_nor_wiped(
    longer: AgentConfig, tiny_dataset: OfflineDataset, trained: Path, tmp_path: Path
) -> None:
    run = RunFolder(shutil.copytree(trained, tmp_path / "run", symlinks=True))
    for folder in run.whole():
        _half_a_state(folder)
    before = run.metrics.read_text()
    agent = LeWMAgent("two_room", longer)
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole, so that the run cannot be continued"):
        agent.learn(tiny_dataset, run.path, resume=True, progress=False)
    assert run.metrics.read_text() == before
    shutil.rmtree(run.checkpoints)
    with pytest.warns(UserWarning, match="has no checkpoint, though its metrics reach step"):
        agent.learn(tiny_dataset, run.path, resume=True, progress=False)
    assert run.metrics_before.read_text() == before


def test_without_symbolic_links_a_file_names_the_newest(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    run = RunFolder(tmp_path / "run")
    agent = LeWMAgent("two_room", tiny_config)
    agent.learn(tiny_dataset, run.path, workers=0, progress=False, checkpoint_every=10)
    newest = run.newest()
    assert newest is not None and run.last.read_text().strip() == newest.name
    assert LeWMAgent.from_pretrained(run.last).description.origin["steps"] == int(newest.name.removeprefix("step-"))


@pytest.mark.parametrize("step", range(6))
def test_a_kill_between_any_two_changes_of_the_disk_leaves_a_whole_checkpoint(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The n-th renaming, removal or link of a checkpoint is where the process ends."""
    run = RunFolder(shutil.copytree(trained, tmp_path / "run", symlinks=True))
    source, left = run.whole()[0], step

    def dying(function: Callable[..., None]) -> Callable[..., None]:
        def change(*arguments: object, **options: object) -> None:
            nonlocal left
            if left == 0:
                raise SystemExit
            left -= 1
            function(*arguments, **options)

        return change

    with monkeypatch.context() as patch:
        for module, name in ((os, "replace"), (os, "symlink"), (shutil, "rmtree"), (os, "unlink")):
            patch.setattr(module, name, dying(getattr(module, name)))
        with pytest.raises(SystemExit):
            for number in (1000, 2000, 3000):
                run.save(number, lambda part: shutil.copytree(source, part) and None)
    assert run.newest() is not None
    run.save(4000, lambda part: shutil.copytree(trained / "checkpoints" / source.name, part) and None)
    newest = run.newest()
    assert newest is not None and newest.name == "step-0004000" == run.last.resolve().name
    assert not list(run.checkpoints.glob("*.part"))
