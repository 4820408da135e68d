"""Saving and loading: same actions, strict reading, one sentence for every fault."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from lewm_agent import CheckpointError, LeWMAgent, environment, recipes
from lewm_agent.config import AgentConfig, configured
from lewm_agent.presets import preset


def test_loaded_agent_acts_the_same(trained_folder: Path, tmp_path: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    again = LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path / "again"))
    rng = np.random.default_rng(0)
    goal = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for _ in range(7):
        frame = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        np.testing.assert_array_equal(agent.act(frame, goal), again.act(frame, goal))


def test_everything_needed_to_act_travels(trained_folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    assert agent.description.environment == "lewm/TwoRoom-v0"
    assert agent.env.unwrapped.image_size == 16  # type: ignore[attr-defined]
    assert agent.world_model.action_std.max() < 1  # not the untrained ones
    assert agent.description.origin["data"].startswith("12 episodes, policy expert")
    assert "LeWMAgent.from_pretrained" in (trained_folder / "README.md").read_text()


def test_configuration_survives_json() -> None:
    for name in ("paper", "small"):
        config = preset(name)
        assert AgentConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def _remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _truncate_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))


def _edit(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def _unknown_key(folder: Path) -> None:
    _edit(folder, lambda values: values["agent"]["planner"].update(sampels=3))  # type: ignore[index]


def _other_format(folder: Path) -> None:
    _edit(folder, lambda values: values.update(format="something"))


def _newer_version(folder: Path) -> None:
    _edit(folder, lambda values: values.update(format_version=99))


def _other_weights(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["action_mean"] += 1e-6
    safetensors.torch.save_file(weights, folder / "model.safetensors")


def _broken_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove_weights, "is not a lewm-agent checkpoint: it has no model.safetensors"),
        (_truncate_weights, "model.safetensors is damaged, or not the file that config.json was saved with"),
        (_pickle_weights, "model.safetensors is damaged, or not the file that config.json was saved with"),
        (_unknown_key, "sampels"),
        (_other_format, "does not describe a lewm-agent checkpoint"),
        (_newer_version, "has format version 99; this lewm-agent reads 1"),
        (_other_weights, "model.safetensors is damaged, or not the file that config.json was saved with"),
        (_broken_json, "config.json is not valid JSON"),
    ],
)
def test_faulty_checkpoints_are_refused(
    trained_folder: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained_folder, folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        LeWMAgent.from_pretrained(folder)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model `nothing`: it is neither a bundled model"):
        LeWMAgent.from_pretrained("nothing")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        LeWMAgent.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no folder `some/model` here, and no such model could be had"):
        LeWMAgent.from_pretrained("some/model", cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_bundled_models_are_what_their_recipes_make(name: str) -> None:
    recipe, agent = recipes.RECIPES[name], LeWMAgent.from_pretrained(name)
    env = environment.make(recipe.environment, agent.config.model.image_size, **recipe.environment_kwargs)
    config = recipe.config()
    if recipe.looks is not None:
        config = dataclasses.replace(config, model=recipe.looks.model(config.model))
    if (more := recipe.further) is not None:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=more.epochs))
    made = LeWMAgent(env, config).description
    assert (agent.config, agent.description.environment_kwargs) == (made.agent, made.environment_kwargs)
    data = f"{recipe.episodes} episodes, policy {recipe.policy}, seed 0"
    if more is not None:
        data += f" + {more.episodes} episodes, policy {more.policy}, seed {more.seed}"
    assert agent.description.origin["data"] == data


def test_half_precision_halves_the_weights_and_leaves_the_statistics(trained_folder: Path, tmp_path: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder, device="cpu")
    half = LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path / "half", half_precision=True), device="cpu")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", trained_folder)]
    assert sizes[0] < 0.75 * sizes[1]
    for (name, full), rounded in zip(
        agent.world_model.state_dict().items(), half.world_model.state_dict().values(), strict=True
    ):
        assert rounded.dtype == full.dtype
        torch.testing.assert_close(rounded, full, rtol=1e-3, atol=1e-4, msg=name)
    torch.testing.assert_close(half.world_model.action_std, agent.world_model.action_std, rtol=0, atol=0)


def test_saved_weights_can_be_read_by_whoever_may_read_the_folder(trained_folder: Path, tmp_path: Path) -> None:
    folder = Path(LeWMAgent.from_pretrained(trained_folder).save_pretrained(tmp_path / "again"))
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


@pytest.mark.parametrize("value", [[[]], "7.5", {"a": 1}, True, None, 10**400])
def test_what_is_no_number_is_refused_where_a_number_belongs(value: object) -> None:
    values = AgentConfig().to_dict()
    values["planner"]["initial_std"] = value
    with pytest.raises(ValueError, match=r'field "planner.initial_std" - should be "float"|where a number|too large'):
        AgentConfig.from_dict(values)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("setting", ["planner.search.stop_std", "objective.sigreg_weight", "training.weight_decay"])
def test_a_setting_is_finite_however_it_is_given(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"must be finite|must be positive|must not be negative"):
        configured(AgentConfig(), {setting: value})
