"""The planning metric in which slow things count more."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lewm_agent import LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.training.batches import TrainingClips
from lewm_agent.training.encoding import Latents
from lewm_agent.training.slow_metric import fit, of_latents


class QuickAndSlow:
    """A world model whose latents are known: the first changes a hundred times as fast as the second."""

    def __init__(self, agent: LeWMAgent) -> None:
        self.config = dataclasses.replace(agent.config.model, latent_dim=2)
        self.action_mean = agent.world_model.action_mean
        self.rng = np.random.default_rng(0)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        steps = self.rng.normal(size=(len(frames), 2)) * [1.0, 0.01]
        return torch.as_tensor(np.cumsum(steps, axis=0), dtype=torch.float32)


def test_changes_have_unit_variance_in_every_direction(tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset) -> None:
    metric = fit(Latents(QuickAndSlow(tiny_agent), tiny_dataset), np.arange(12))  # type: ignore[arg-type]
    assert metric[0, 0].item() == pytest.approx(1, rel=0.15)
    # the slow direction is not stretched without limit: its variance counts as a thousandth of the largest
    assert metric[1, 1].item() == pytest.approx(metric[0, 0].item() * 1000**0.5, rel=1e-3)


def test_learn_fits_it_and_planners_use_it(trained_folder: Path, tiny_dataset: OfflineDataset) -> None:
    agent = LeWMAgent.from_pretrained(trained_folder)
    train = TrainingClips(tiny_dataset, agent.make_clips, agent.config.training, 0, workers=0).train_episodes
    torch.testing.assert_close(agent.world_model.metric, fit(Latents(agent.world_model, tiny_dataset), train))
    frame, goal = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    actions = []
    for metric in ("euclidean", "slow"):
        planner = dataclasses.replace(agent.config.planner, samples=64, metric=metric)
        memories = agent.initial_memories([0])
        actions.append(agent.set_planner(planner).predict({"pixels": frame, "goal": goal}, memories)[0])
    assert not np.array_equal(*actions)


def test_an_unfinished_model_refuses_it(tiny_agent: LeWMAgent) -> None:
    planner = dataclasses.replace(tiny_agent.config.planner, metric="slow")
    frame = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="`slow` is fitted when training ends"):
        tiny_agent.set_planner(planner).act(frame, frame)
    with pytest.raises(ValueError, match="metric must be euclidean or slow or steps, got 'fast'"):
        dataclasses.replace(planner, metric="fast")  # type: ignore[arg-type]


def rare_and_noisy(rng: np.random.Generator) -> NDArray[np.float64]:
    """Latents (15, 3) of an episode: a walk, a rare walk, and noise that is drawn anew in every frame."""
    steps = rng.normal(size=(15, 2)) * [1.0, 0.2]
    walks = 5 * rng.normal(size=(1, 2)) + np.cumsum(steps, axis=0)
    return np.concatenate([walks, rng.normal(size=(15, 1))], axis=1)


def test_with_a_power_the_rare_counts_more_and_noise_less() -> None:
    rng = np.random.default_rng(0)
    latents = [rare_and_noisy(rng) for _ in range(12)]
    weights = {power: np.square(of_latents(latents, power)).diagonal() for power in (1.0, 2.0)}
    rare, noise = ({power: float(w[i] / w[0]) for power, w in weights.items()} for i in (1, 2))
    assert 12 < rare[1.0] < 50 and rare[2.0] > 3 * rare[1.0]
    assert 0.25 < noise[1.0] < 1 and noise[2.0] < noise[1.0] / 3
