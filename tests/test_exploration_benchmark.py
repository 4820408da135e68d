"""The benchmark of ways to explore, end to end, and what it measures."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from lewm_agent import LeWMAgent, preset
from lewm_agent.agents.behavior.policies import RandomPolicy
from lewm_agent.config import configured
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.rollout import EpisodeOver
from lewm_agent.planning.settings import PlannerConfig

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = {"model.image_size": 32, "model.predictor_width": 16, "model.predictor_depth": 1}
LENGTH = 40


class Short(RandomPolicy):
    """Random actions, for a few steps."""

    def __init__(self, name: str, env: gym.Env[Any, Any]) -> None:
        super().__init__(env.action_space)

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self._left = LENGTH

    def __call__(self, observation: Any, info: dict[str, Any]) -> np.ndarray[Any, Any]:
        if not self._left:
            raise EpisodeOver
        self._left -= 1
        return super().__call__(observation, info)


@pytest.fixture
def exploration(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("exploration", BENCHMARKS / "exploration.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "exploration", module)
    spec.loader.exec_module(module)
    tiny = configured(preset("moments"), SMALL)
    training = dataclasses.replace(tiny.training, precision="float32")
    monkeypatch.setattr(module, "preset", lambda name: dataclasses.replace(tiny, training=training))
    planner = PlannerConfig(horizon=2, execute=1, samples=4, elites=2, iterations=1, history=2, metric="slow")
    monkeypatch.setattr(module, "planner_preset", lambda name, model: planner)
    monkeypatch.setattr(module, "behavior_policy", Short)
    monkeypatch.setattr(module, "FIRST_EPISODES", 2)
    return module


@pytest.mark.filterwarnings("ignore:.*fewer rows than a clip needs:UserWarning")
def test_gathers_learns_and_measures_and_does_nothing_twice(exploration: Any, tmp_path: Path) -> None:
    arguments = ["--output", str(tmp_path / "out"), "--begin", "130", "--steps", "100", "--updates", "2"]
    arguments += ["--batch-size", "8", "--predictors", "2", "--episodes", "1", "--unseen", "100"]
    arguments += ["--ways", "disagreement"]
    assert exploration.main(arguments) == 0
    results = json.loads((tmp_path / "out" / "exploration.json").read_text())["results"]
    assert [row["way"] for row in results["table"]] == ["before", "disagreement"]
    for row in results["rows"]:
        folder = tmp_path / "out" / "seed-0" / row["way"]
        assert (row["steps"] == 0) == (row["way"] == "before")
        assert row["steps"] == 0 or 100 <= row["steps"] < 300
        assert row["steps"] == 0 or row["steps"] == sum(OfflineDataset(folder / "data").episode_lengths - 1)
        assert all(0 < told["error"] < 10 for kind in row["errors"].values() for told in kind.values())
    hashes = [LeWMAgent.from_pretrained(p.parent).weights_sha256() for p in (tmp_path / "out").rglob("config.json")]
    assert len(hashes) == len({*hashes})
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.safetensors")}
    again = json.loads((tmp_path / "out" / "exploration.json").read_text())["results"]
    assert exploration.main(arguments) == 0
    assert made == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.safetensors")}
    assert again == json.loads((tmp_path / "out" / "exploration.json").read_text())["results"]
    assert exploration.main([*arguments, "--batch-size", "9"]) == 2
    assert (tmp_path / "out" / "exploration.png").exists()


def test_disagreement_is_the_variance_of_what_is_foreseen(exploration: Any) -> None:
    config = exploration.settings(exploration.Arguments(Path("x")))
    agents = [LeWMAgent("push_t", config, device="cpu", seed=seed) for seed in (0, 1)]
    for agent in agents:
        torch.nn.init.normal_(agent.world_model.predictor.change.weight)
    agents[1].world_model.action_std.fill_(0.5)
    models, size = [agent.world_model for agent in agents], config.model.latent_dim
    metric = 2 * torch.eye(size)
    latents, blocks = torch.randn(1, 2, size), torch.randn(1, 3, 4, config.model.block_dim)
    past = torch.randn(1, 1, config.model.block_dim)
    exploring = exploration.Disagreement(models, metric)
    foreseen = exploring.rollout(latents, past, blocks)
    torch.testing.assert_close(foreseen[..., :size], models[0].rollout(latents, past, blocks))
    torch.testing.assert_close(foreseen[..., size:], models[1].rollout(latents, past * 2, blocks * 2))
    apart = foreseen[..., :size] - foreseen[..., size:]
    torch.testing.assert_close(exploring.cost(foreseen, latents[:, 0]), -4 * (apart.square().sum(-1) / 2).mean(-1))


def test_errors_are_those_of_the_same_windows_one_by_one(exploration: Any) -> None:
    agent = LeWMAgent("push_t", exploration.settings(exploration.Arguments(Path("x"))), device="cpu")
    model, size = agent.world_model, agent.config.model.latent_dim
    torch.nn.init.normal_(model.predictor.change.weight, std=0.1)
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(9, size)).astype(np.float32)
    actions = rng.normal(size=(8, agent.config.model.frame_skip, agent.config.model.action_dim)).astype(np.float32)
    short = latents[:4], actions[:3]
    found = exploration.errors(model, [(latents, actions), short], torch.eye(size))
    assert found["5"]["windows"] == 3 and found["1"]["windows"] == 7 + 2
    seen, blocks = torch.as_tensor(latents), model.codec.blocks(torch.as_tensor(actions))
    wrong = moved = 0.0
    for now in (1, 2, 3):
        ahead = model.rollout(
            seen[None, now - 1 : now + 1], blocks[None, now - 1 : now], blocks[None, None, now : now + 5]
        )
        wrong += float((ahead[0, 0, 4] - seen[now + 5]).detach().norm())
        moved += float((seen[now] - seen[now + 5]).norm())
    assert found["5"]["error"] == pytest.approx(wrong / moved, rel=1e-5)
