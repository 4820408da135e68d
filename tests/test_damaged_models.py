"""A saved model is whole or refused: killed and failing saves, damage, sizes that cannot be, numbers that are none."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from lewm_agent import CheckpointError, LeWMAgent
from lewm_agent.agents import load_agent
from lewm_agent.checkpoints.checkpoint import Description
from lewm_agent.eval.watching.frame_decoder import FrameDecoder
from lewm_agent.inspection import describe
from lewm_agent.planning import CEM, ICEM, MPPI, Gradient, Mixture, Search
from lewm_agent.tools import replacing

LOADERS: list[Callable[[Path], object]] = [
    LeWMAgent.from_pretrained,
    load_agent,
    lambda folder: describe(str(folder)),
]


@pytest.fixture
def folder(trained_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_folder, tmp_path / "model"))


def successor(folder: Path) -> LeWMAgent:
    """The model in a folder with another weight and another planner."""
    agent = LeWMAgent.from_pretrained(folder, device="cpu")
    next(agent.world_model.parameters()).data += 1.0
    return agent.set_planner(dataclasses.replace(agent.config.planner, samples=9))


def in_a_child(work: Callable[[], object]) -> int:
    """Exit code of a forked process that works: 0 when it came to the end."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except OSError as error:
            os._exit(7 if "what was there before is kept" in str(error) or "nothing is there" in str(error) else 8)
        except BaseException:
            os._exit(8)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(call: int, save: Callable[[], object]) -> int:
    """Save, but die at a call that changes files: before it, or in the midst of a writing."""
    count = itertools.count()

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            if next(count) != call:
                return function(*arguments)
            if function is write_bytes:
                function(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os._exit(9)

        return called

    write_bytes = Path.write_bytes

    def work() -> None:
        Path.write_bytes = dying(write_bytes)  # type: ignore[method-assign]
        os.replace, os.fsync = dying(os.replace), dying(os.fsync)
        save()

    return in_a_child(work)


def test_a_save_killed_anywhere_leaves_the_old_model_or_the_new_one(folder: Path, tmp_path: Path) -> None:
    old, new = LeWMAgent.from_pretrained(folder, device="cpu"), successor(folder)
    wanted = [(agent.weights_sha256(), agent.config.planner.samples) for agent in (old, new)]
    seen = set()
    for call in itertools.count():
        old.save_pretrained(folder)
        (folder / "notes.txt").write_text("mine")
        code = killed_at(call, lambda: new.save_pretrained(folder))
        loaded = LeWMAgent.from_pretrained(folder, device="cpu")
        state = wanted.index((loaded.weights_sha256(), loaded.config.planner.samples))
        assert (folder / "notes.txt").read_text() == "mine"
        seen.add(state)
        if code == 0:
            break
        assert code == 9
    assert seen == {0, 1} and state == 1
    assert not list(folder.glob("*.part"))


def test_a_first_save_killed_anywhere_leaves_a_model_or_none(folder: Path, tmp_path: Path) -> None:
    agent = LeWMAgent.from_pretrained(folder, device="cpu")
    for call in itertools.count():
        place = tmp_path / f"new-{call}"
        code = killed_at(call, lambda place=place: agent.save_pretrained(place))  # type: ignore[misc]
        try:
            assert LeWMAgent.from_pretrained(place, device="cpu").weights_sha256() == agent.weights_sha256()
        except CheckpointError:
            assert code == 9
        if code == 0:
            break


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(
    folder: Path, tmp_path: Path, exists: bool, released: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = LeWMAgent.from_pretrained(folder, device="cpu")
    monkeypatch.setattr("lewm_agent.checkpoints.released._vit_size", lambda config: "tiny")
    place = tmp_path / "place"

    def save() -> object:
        return agent.save_released(place) if released else agent.save_pretrained(place)

    if exists:
        save()
    before = {path.name: path.read_bytes() for path in place.glob("*")}
    for limit in (0, 300, 20_000):

        def limited(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            save()

        assert in_a_child(limited) == 7
        assert {path.name: path.read_bytes() for path in place.glob("*")} == before
        assert place.exists() == exists


def test_a_folder_in_the_way_is_said_before_anything_changes(folder: Path) -> None:
    agent = successor(folder)
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    before = (folder / "config.json").read_bytes()
    with pytest.raises(OSError, match=r"README\.md is a folder, where a file is to be written"):
        agent.save_pretrained(folder)
    assert (folder / "config.json").read_bytes() == before and not list(folder.glob("*.part"))


def test_interrupted_after_the_commit_is_not_taken_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, write = successor(folder), replacing.write_atomically

    def interrupted(*arguments: Any) -> None:
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(replacing, "write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        agent.save_pretrained(folder)
    assert LeWMAgent.from_pretrained(folder, device="cpu").weights_sha256() == agent.weights_sha256()


def flipped(data: bytes, count: int) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for bit in rng.choice(8 * len(data), count, replace=False):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_flipped_bit_is_refused_or_changes_nothing(folder: Path, name: str) -> None:
    whole = LeWMAgent.from_pretrained(folder, device="cpu")
    refused = 0
    for damaged in flipped((folder / name).read_bytes(), 60):
        (folder / name).write_bytes(damaged)
        try:
            loaded = LeWMAgent.from_pretrained(folder, device="cpu")
            assert loaded.weights_sha256() == whole.weights_sha256() and loaded.description == whole.description
        except CheckpointError:
            refused += 1
    assert refused > 50


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change ``config.json`` as by hand, with the hash that then belongs to it: of the other values, by sorted keys."""
    content = json.loads((folder / "config.json").read_text())
    change(content)
    sha256 = content.pop("sha256")
    sha256["config.json"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps({**content, "sha256": sha256}))


IMPOSSIBLE = {
    "latent": lambda c: c["agent"]["model"].update(latent_dim=10**9),
    "beyond 64 bits": lambda c: c["agent"]["model"].update(projector_width=10**30),
    "frames": lambda c: c["agent"]["model"].update(image_size=8 * 10**8),
    "encoder": lambda c: c["agent"]["model"].update(encoder_depth=300_000),
    "predictor": lambda c: c["agent"]["model"].update(predictor_depth=300_000),
    "strides": lambda c: c["agent"]["model"].update(encoder="cnn", patch_size=10**18 + 9, image_size=10**18 + 9),
    "head": lambda c: c["agent"].update(inverse_dynamics={"furthest": 10, "depth": 10**9}),
    "prefix": lambda c: c["agent"]["model"].update(predictor="prefix", prefix_length=10**9),
    "another shape": lambda c: c["agent"]["model"].update(latent_dim=16),
    "module": lambda c: c.update(environment="somebodys_module:Env-v0"),
    "kind": lambda c: c.update(agent_kind="pldm"),
    "kind of a policy": lambda c: c.update(agent_kind="gcbc"),
    "unknown kind": lambda c: c.update(agent_kind=["x"]),
    "settings": lambda c: c.update(agent=[1]),
    "objective": lambda c: c["agent"].update(objective=3),
    "objective's name": lambda c: c["agent"].update(objective={"kind": []}),
    "model": lambda c: c["agent"].update(model="small"),
    "text": lambda c: c["agent"]["model"].update(history="3"),
    "infinite": lambda c: c["agent"]["planner"].update(initial_std=float("inf")),
    "bounds": lambda c: c.update(action_low=[-1.0]),
    "NaN bounds": lambda c: c.update(action_high=[1.0, float("nan")]),
    "turned bounds": lambda c: c.update(action_low=[2.0, -1.0]),
    "no dictionary": lambda c: c.update(environment_kwargs=[1]),
    "more": lambda c: c.update(more=1),
}


@pytest.mark.parametrize("change", IMPOSSIBLE.values(), ids=list(IMPOSSIBLE))
def test_a_config_that_cannot_be_is_refused_before_memory_is_asked_for(
    folder: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(folder, change)
    with pytest.raises(ValueError, match=r"."):
        load_agent(folder, device="cpu")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b'"x"', b"\xff\xfe", b"1" * 5000, b""])
def test_a_config_that_is_no_object_is_named(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        LeWMAgent.from_pretrained(folder)


def test_hashes_that_are_missing_or_do_not_fit_are_told(folder: Path) -> None:
    whole = json.loads((folder / "config.json").read_text())
    by_hand = {**whole, "sha256": None}
    by_hand.pop("sha256")
    (folder / "config.json").write_text(json.dumps(by_hand))
    with pytest.raises(CheckpointError, match="does not say by its SHA-256 which model") as e:
        LeWMAgent.from_pretrained(folder)
    told = str(e.value).split('add "sha256": ')[1]
    (folder / "config.json").write_text(json.dumps({**by_hand, "sha256": json.loads(told)}))
    LeWMAgent.from_pretrained(folder)
    whole["action_low"] = [-2.0, -2.0]
    (folder / "config.json").write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match="is not as it was saved: damaged, or changed by hand") as e:
        LeWMAgent.from_pretrained(folder)
    edit(folder, lambda content: None)
    assert json.loads((folder / "config.json").read_text())["sha256"]["config.json"] in str(e.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["action_std", "encoder.projector.1.running_var", "predictor.position"])
def test_numbers_that_are_none_are_neither_saved_nor_loaded(folder: Path, name: str, value: float) -> None:
    agent = LeWMAgent.from_pretrained(folder, device="cpu")
    before = (folder / "config.json").read_bytes()
    agent.world_model.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(ValueError, match=rf"nothing was saved in .*: tensor {name} holds numbers that are not finite"):
        agent.save_pretrained(folder)
    assert (folder / "config.json").read_bytes() == before
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights[name].view(-1)[-1] = value
    data = safetensors.torch.save(weights)
    (folder / "model.safetensors").write_bytes(data)
    edit(folder, lambda c: c["sha256"].update({"model.safetensors": hashlib.sha256(data).hexdigest()}))
    for load in LOADERS:
        with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor {name} holds numbers that are not"):
            load(folder)


def test_weights_beyond_half_precision_are_not_saved_as_infinity(folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(folder, device="cpu")
    next(agent.world_model.parameters()).data.fill_(1e6)
    with pytest.raises(ValueError, match="not finite"):
        agent.save_pretrained(folder, half_precision=True)


@pytest.mark.parametrize("search", [CEM(), ICEM(), MPPI(), Gradient(), Mixture(components=2)])
@pytest.mark.parametrize(
    ("where", "name"),
    [("encoder", "the latent of the goal"), ("prediction", "the cost of a plan"), ("cost", "the cost of a plan")],
)
def test_a_decision_from_numbers_that_are_none_is_an_error_with_a_name(
    trained_folder: Path, search: Search, where: str, name: str
) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder, device="cpu")
    planner = dataclasses.replace(agent.config.planner, search=search, samples=16, elites=4)
    agent.set_planner(planner, (lambda latents, goals: latents.sum((-1, -2)) / 0) if where == "cost" else None)
    parts = {"encoder": agent.world_model.encoder.projector, "prediction": agent.world_model.prediction_head}
    if where in parts:
        parts[where][-1].bias.data[0] = torch.nan
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match=f"cannot act: {name} is not finite"):
        agent.act(frames[0], frames[1] + 9)


def test_statistics_that_are_none_are_an_error_of_the_action(trained_folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder, device="cpu")
    agent.world_model.action_std[0] = torch.nan
    frame = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match=r"cannot act: .* is not finite"):
        agent.act(frame, frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "a_module:Env-v0"}, "would import a module"),
        ({"environment_kwargs": {"camera": np.zeros(3)}}, "argument `camera` cannot be kept"),
        ({"action_low": [0.0]}, "action_low must be 2 finite numbers"),
    ],
)
def test_what_a_file_could_not_hold_is_refused_when_the_agent_is_made(
    tiny_agent: LeWMAgent, change: dict[str, Any], message: str
) -> None:
    assert isinstance(tiny_agent.description, Description)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny_agent.description, **change)


def test_a_damaged_decoder_is_refused(tiny_agent: LeWMAgent, tmp_path: Path) -> None:
    model, file = tiny_agent.world_model, tmp_path / "decoder.safetensors"
    FrameDecoder.of(model).save(file, model)
    for damaged in flipped(file.read_bytes()[:3000], 40):
        file.with_name("damaged.safetensors").write_bytes(damaged + file.read_bytes()[3000:])
        with pytest.raises(CheckpointError):
            FrameDecoder.load(file.with_name("damaged.safetensors"), model)
