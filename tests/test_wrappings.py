"""Model files as people have them: loaded where there is one meaning, named where there is not."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lewm_agent import CheckpointError, LeWMAgent, ModelConfig
from lewm_agent.agents import load_agent
from lewm_agent.checkpoints.released import released_weights
from lewm_agent.inspection import describe, is_checkpoint
from lewm_agent.models.world_model import WorldModel

MODEL = ModelConfig(
    image_size=16,
    patch_size=8,
    encoder_width=64,
    encoder_depth=1,
    encoder_heads=1,
    latent_dim=8,
    projector_width=32,
    predictor_width=16,
    predictor_depth=1,
    predictor_heads=1,
    predictor_mlp_width=32,
)
OWN = ("metric", "action_mean", "action_std", "encoder.pixel_mean", "encoder.pixel_std")
State = dict[str, Tensor]


def released(seed: int = 0) -> State:
    """A small model under the released names."""
    torch.manual_seed(seed)
    return released_weights({name: t for name, t in WorldModel(MODEL).state_dict().items() if name not in OWN})


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "distributed": lambda s: under("module.", s),
    "compiled": lambda s: under("_orig_mod.", s),
    "compiled inside": lambda s: {name.replace("predictor.", "predictor._orig_mod."): t for name, t in s.items()},
    "both": lambda s: under("module._orig_mod.", s),
    "Lightning": lambda s: {
        "epoch": 3,
        "state_dict": {**under("model.", s), "sigreg.knots": torch.zeros(2)},
        "optimizer_states": [{"state": {0: {"step": torch.zeros(1)}}, "param_groups": []}],
        "hyper_parameters": {"lr": 0.1},
    },
    "a key of one's own": lambda s: {"net": s, "step": torch.zeros(1)},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=list(WRAPPINGS))
def test_what_wraps_the_tensors_is_taken_off(tmp_path: Path, wrap: Callable[[State], Any]) -> None:
    torch.save(wrap(released()), tmp_path / "some.ckpt")
    expected = released()
    loaded = released_weights(
        {n: t for n, t in LeWMAgent.from_pretrained(tmp_path, device="cpu").model.state_dict().items() if n not in OWN}
    )
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


AMBIGUOUS: dict[str, tuple[Callable[[State], Any], str]] = {
    "a teacher beside": (lambda s: {**under("model.", s), **under("ema.", s)}, r"several models \(ema\., model\.\)"),
    "two states": (lambda s: {"student": s, "teacher": s}, r"several models \(student: , teacher: \)"),
    "another model": (lambda s: {"layer.weight": torch.zeros(2)}, "has no tensor 'predictor.pos_embedding'"),
    "no tensors": (lambda s: {"epoch": 3}, "does not hold a dictionary of tensors"),
    "a number": (lambda s: 3, "does not hold a dictionary of tensors"),
    "part": (lambda s: {n: t for n, t in s.items() if "pred_proj" not in n}, "tensors missing"),
    "NaN": (lambda s: {**s, "pred_proj.net.0.bias": torch.full((32,), torch.nan)}, "holds numbers that are not finite"),
    "integers": (lambda s: {**s, "pred_proj.net.0.bias": torch.zeros(32, dtype=torch.int8)}, "holds torch.int8"),
    "flat": (lambda s: {**s, "predictor.pos_embedding": torch.zeros(3)}, "describe no LeWM model"),
    "nothing behind": (lambda s: {**s, "predictor.pos_embedding": torch.zeros(1).expand(1, 10**9, 8)}, "no tensor"),
}


@pytest.mark.parametrize(("wrap", "message"), AMBIGUOUS.values(), ids=list(AMBIGUOUS))
def test_what_has_no_one_meaning_is_named(tmp_path: Path, wrap: Callable[[State], Any], message: str) -> None:
    torch.save(wrap(released()), tmp_path / "some.ckpt")
    with pytest.raises(CheckpointError, match=message):
        LeWMAgent.from_pretrained(tmp_path, device="cpu")


def _epoch(folder: Path) -> None:
    """As stable-worldmodel saves it."""
    torch.save(released(), folder / "weights_epoch_10.pt")
    (folder / "config.json").write_text(json.dumps({"_target_": "stable_worldmodel.wm.lewm.LeWM"}))


def _safetensors(folder: Path) -> None:
    safetensors.torch.save_file(released(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"_target_": "stable_worldmodel.wm.lewm.LeWM"}))


def _lone_safetensors(folder: Path) -> None:
    safetensors.torch.save_file(released(), folder / "lewm.safetensors")


def _nested(folder: Path) -> None:
    (folder / "download" / "lewm").mkdir(parents=True)
    (folder / "figures").mkdir()
    torch.save(released(), folder / "download" / "lewm" / "weights.pt")


def _beside_an_object(folder: Path) -> None:
    torch.save(released(), folder / "lewm_weight.ckpt")
    (folder / "lewm_object.ckpt").write_bytes(b"a pickled module")


@pytest.mark.parametrize("fill", [_epoch, _safetensors, _lone_safetensors, _nested, _beside_an_object])
def test_the_one_model_in_a_folder_is_found(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    fill(tmp_path)
    assert LeWMAgent.from_pretrained(tmp_path, device="cpu").config.model == MODEL
    assert load_agent(tmp_path, device="cpu").kind == "lewm" and is_checkpoint(str(tmp_path))
    assert describe(str(tmp_path))["kind"] == "checkpoint in the released layout"


def test_ours_is_found_by_its_files_and_in_a_folder(trained_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_folder, tmp_path / "zip" / "model")
    for place in (tmp_path, *(tmp_path / "zip" / "model" / name for name in ("config.json", "model.safetensors"))):
        assert LeWMAgent.from_pretrained(place, device="cpu").description.training
        assert describe(str(place))["kind"] == "checkpoint of lewm-agent"
    shutil.copytree(trained_folder, tmp_path / "zip" / "again")
    with pytest.raises(CheckpointError, match="holds several models: give one of its folders zip/again, zip/model"):
        LeWMAgent.from_pretrained(tmp_path)
    (tmp_path / "zip" / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="a lewm-agent model, without the config"):
        LeWMAgent.from_pretrained(tmp_path / "zip" / "model")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_to_be_unpacked(trained_folder: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"model.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.write(trained_folder / "config.json", "config.json")
    else:
        with tarfile.open(file, "w") as packed:
            packed.add(trained_folder / "config.json", "config.json")
    with pytest.raises(CheckpointError, match="is an archive of files: unpack it, and give the folder"):
        LeWMAgent.from_pretrained(file)


@pytest.mark.parametrize(
    "predictor",
    [{"dim_head": 0}, {"dim_head": "x"}, {"dim_head": None}, {"dropout": "x"}, {"heads": 7}, {"dim_head": 1e30}],
)
def test_numbers_of_a_released_config_that_cannot_be_are_named(tmp_path: Path, predictor: dict[str, Any]) -> None:
    torch.save(released(), tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps({"_target_": "LeWM", "predictor": predictor}))
    with pytest.raises(CheckpointError):
        LeWMAgent.from_pretrained(tmp_path, device="cpu")


def test_a_save_without_statistics_of_actions_is_without_them_when_loaded(tmp_path: Path) -> None:
    torch.save(released(), tmp_path / "weights.pt")
    saved = LeWMAgent.from_pretrained(tmp_path, device="cpu").save_pretrained(tmp_path / "ours")
    assert not {"action_mean", "action_std"} & safetensors.torch.load_file(saved / "model.safetensors").keys()
    again = LeWMAgent.from_pretrained(saved, device="cpu")
    assert not again.model.knows_actions and "statistics of actions are missing" in describe(str(saved))["whole"]
    assert again.set_action_statistics([0.0, 0.0], [1.0, 1.0]).model.knows_actions
