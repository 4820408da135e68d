"""The method on one screen computes what the package computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lewm_agent.datasets.batch import ClipBatch
from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning.controller import Controller
from lewm_agent.planning.episodes import EpisodeMemory
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.presets import preset

FILE = Path(__file__).resolve().parents[1] / "examples" / "lewm_minimal.py"


@pytest.fixture(scope="module")
def minimal() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lewm_minimal", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def both(minimal: ModuleType) -> tuple[Any, WorldModel]:
    """The two models with the same weights, none of which is zero as the gates of a new model are; no dropout."""
    torch.manual_seed(0)
    config = preset("two_terms")
    theirs = WorldModel(config.model, config.objective)
    for weight in theirs.parameters():
        weight.data.add_(0.05 * torch.randn_like(weight))
    ours = minimal.LeWM()
    left = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert left.missing_keys == []
    assert set(left.unexpected_keys) == {"action_mean", "action_std"}
    return ours.eval(), theirs.eval()


def test_the_same_loss(both: tuple[Any, WorldModel]) -> None:
    frames = torch.randint(0, 256, (6, 4, 64, 64, 3), dtype=torch.uint8)
    actions = torch.randn(6, 3, 5, 2)
    for model in both:
        for module in model.modules():
            module.training = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    ours, theirs = both
    torch.manual_seed(1)
    expected = theirs.loss(ClipBatch(frames, actions)).total
    torch.manual_seed(1)
    torch.testing.assert_close(ours.loss(frames, actions.flatten(2)), expected)


def test_the_same_plan(minimal: ModuleType, both: tuple[Any, WorldModel]) -> None:
    ours, theirs = (model.eval() for model in both)
    planner = PlannerConfig(samples=64, elites=8, iterations=4, execute=5, history=3, cost="best")
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    controller = Controller(theirs, planner, -np.full(2, 9, np.float32), np.full(2, 9, np.float32))
    actions, (memory,) = controller.decide([EpisodeMemory(seed=3)], frames[:1], frames[1:2])
    latents, goal = ours.encode(torch.from_numpy(frames[:1])[None]), ours.encode(torch.from_numpy(frames[1:2])[None])[0]
    generator = controller._generator(EpisodeMemory(seed=3))
    found = minimal.plan(ours, latents, torch.zeros(1, 0, 10), goal, generator)
    np.testing.assert_allclose([actions[0], *memory.queue], found.numpy(), atol=1e-4)


def test_it_runs(minimal: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    env, rng = minimal.make_pixel_env("two_room", image_size=64), np.random.default_rng(0)
    frames, actions = minimal.gather(env, 2, rng)
    model = minimal.LeWM()
    minimal.train(model, frames, actions, 2, rng, batch=4)
    assert minimal.reach(model.eval(), env, np.zeros(2), np.ones(2), seed=0) in (True, False)
    assert capsys.readouterr().out.startswith("step 0: loss ")


def test_it_needs_nothing_of_the_package_but_the_world() -> None:
    lines = [line for line in FILE.read_text().splitlines() if "import" in line and "lewm_agent" in line]
    assert lines == ["from lewm_agent.envs import make_pixel_env"]
