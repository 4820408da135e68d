"""A predictor that imagines a whole plan in one pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent, ModelConfig
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.batch import ClipBatch
from lewm_agent.models.prefix_predictor import PrefixPredictor
from lewm_agent.models.world_model import WorldModel


@pytest.fixture
def config(tiny_config: AgentConfig) -> AgentConfig:
    model = dataclasses.replace(tiny_config.model, predictor="prefix", prefix_length=4, predictor_dropout=0.0)
    return dataclasses.replace(tiny_config, model=model)


@pytest.fixture
def model(config: AgentConfig) -> WorldModel:
    """With random weights everywhere, so that actions matter."""
    torch.manual_seed(0)
    model = WorldModel(config.model).eval()
    with torch.no_grad():
        for weight in model.predictor.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def plans(config: ModelConfig, frames: int, blocks: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, frames, config.latent_dim, generator=generator)
    past = torch.randn(2, frames - 1, config.block_dim, generator=generator)
    return latents, past, torch.randn(2, 3, blocks, config.block_dim, generator=generator)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_where_the_first_blocks_lead_does_not_depend_on_the_later_ones(model: WorldModel, frames: int) -> None:
    latents, past, blocks = plans(model.config, frames, 4)
    whole = model.rollout(latents, past, blocks)
    assert whole.shape == (2, 3, 4, model.config.latent_dim)
    for length in (1, 2, 3):
        first = model.rollout(latents, past, blocks[:, :, :length])
        torch.testing.assert_close(first, whole[:, :, :length], rtol=1e-4, atol=1e-5)
    other = blocks.clone()
    other[:, :, 2:] += 1
    changed = model.rollout(latents, past, other)
    torch.testing.assert_close(changed[:, :, :2], whole[:, :, :2], rtol=1e-4, atol=1e-5)
    assert (changed[:, :, 2:] - whole[:, :, 2:]).abs().max() > 1e-3


def test_a_plan_longer_than_the_prefix_goes_on_from_what_was_imagined(model: WorldModel) -> None:
    latents, past, blocks = plans(model.config, 2, 7)
    whole = model.rollout(latents, past, blocks)
    first = whole[:, :, :4]
    for sample in range(3):
        last = first[:, sample, -model.config.history :]
        executed = blocks[:, sample, 4 - last.shape[1] + 1 : 4]
        further = model.rollout(last, executed, blocks[:, sample : sample + 1, 4:])[:, 0]
        torch.testing.assert_close(whole[:, sample, 4:], further, rtol=1e-4, atol=1e-5)


def test_one_next_latent_is_the_same_by_teacher_forcing(model: WorldModel) -> None:
    latents, past, blocks = plans(model.config, 3, 1)
    forced = model.predict(latents, torch.cat([past, blocks[:, 0]], dim=1))[:, -1]
    torch.testing.assert_close(model.rollout(latents, past, blocks)[:, 0, 0], forced, rtol=1e-4, atol=1e-5)


def test_training_hides_frames_and_reaches_every_parameter(config: AgentConfig) -> None:
    torch.manual_seed(0)
    model = WorldModel(config.model, config.objective).train()
    frames = torch.randint(0, 256, (6, config.model.clip_frames, 16, 16, 3), dtype=torch.uint8)
    actions = torch.randn(6, config.model.clip_frames - 1, config.model.frame_skip, 2)
    assert isinstance(model.predictor, PrefixPredictor)
    for _ in range(2):  # AdaLN-zero lets nothing through to the actions at first
        model.loss(ClipBatch(frames, actions)).total.backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.01 * torch.randn_like(weight))
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


def test_an_agent_learns_acts_and_is_loaded_again(
    config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    agent = LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "run", workers=0, progress=False)
    agent.save_pretrained(tmp_path / "model")
    loaded = LeWMAgent.from_pretrained(tmp_path / "model")
    frame, goal = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    assert np.array_equal(agent.act(frame, goal), loaded.act(frame, goal))
    with pytest.raises(ValueError, match="holds autoregressive predictors"):
        agent.save_released(tmp_path / "released")
