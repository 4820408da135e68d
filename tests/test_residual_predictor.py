"""The residual predictor: what it predicts, how it uses mirrors, and how it learns from stored latents."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lewm_agent import AgentConfig, LeWMAgent, ObjectiveConfig
from lewm_agent.config import configured
from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.objectives.base import EncodedClip
from lewm_agent.models.objectives.slow import USUAL_CHANGE, SlowConfig, SlowPrediction
from lewm_agent.models.seeing.moments import Turn
from lewm_agent.models.world_model import WorldModel
from lewm_agent.presets import preset
from lewm_agent.training.batches import FinishData, TrainingClips
from lewm_agent.training.encoding import encode_all
from lewm_agent.training.hindsight import successful

TINY = {
    "model.image_size": 16,
    "model.patch_size": 8,
    "model.symmetry": "square",
    "model.predictor_width": 16,
    "model.predictor_depth": 1,
    "training.batch_size": 16,
    "training.epochs": 1.0,
    "training.schedule_epochs": 1.0,
    "training.held_out_fraction": 0.25,
    "inverse_dynamics.steps": 2,
    "inverse_dynamics.batch_size": 8,
    "inverse_dynamics.width": 8,
}


@pytest.fixture(scope="module")
def config() -> AgentConfig:
    """The preset, small."""
    return configured(preset("moments"), TINY)


@pytest.fixture(scope="module")
def model(config: AgentConfig) -> WorldModel:
    """Untrained, but with changes to predict."""
    torch.manual_seed(0)
    model = WorldModel(config.model, config.objective).eval()
    torch.nn.init.normal_(model.predictor.change.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    return model


def test_an_untrained_one_predicts_that_nothing_changes(config: AgentConfig) -> None:
    latents = torch.randn(3, 1, 20)
    untrained = WorldModel(config.model, config.objective)
    assert torch.equal(untrained.predict(latents, torch.randn(3, 1, 10)), latents)


def test_rollouts_follow_single_steps(model: WorldModel) -> None:
    latents, past, blocks = torch.randn(2, 2, 20), torch.randn(2, 1, 10), torch.randn(2, 3, 4, 10)
    with torch.no_grad():
        imagined = model.rollout(latents, past, blocks)
        step, before = latents[:, 1], past[:, 0]
        for number in range(4):
            pair = torch.stack([before, blocks[:, 1, number]], dim=1)
            step = model.predict(torch.stack([step, step], dim=1), pair)[:, 1]
            torch.testing.assert_close(imagined[:, 1, number], step)
            before = blocks[:, 1, number]
        taught = model.predict_in_training(latents[:, [0, 1, 1, 1, 1]], torch.cat([past, blocks[:, 1]], dim=1))
        torch.testing.assert_close(taught, torch.cat([latents[:, 1:], imagined[:, 1]], dim=1))


def test_the_block_before_matters_only_with_a_history_of_two(config: AgentConfig) -> None:
    latents, blocks = torch.randn(2, 1, 20), torch.randn(2, 1, 1, 10)
    for history in (1, 2):
        chosen = configured(config, {"model.history": history, "planner.history": 1})
        model = WorldModel(chosen.model, chosen.objective).eval()
        torch.nn.init.normal_(model.predictor.change.weight, std=0.3)  # type: ignore[union-attr, arg-type]
        with torch.no_grad():
            rest = model.rollout(latents, torch.zeros(2, 0, 10), blocks)
            moving = model.rollout(latents.expand(2, history, 20), torch.ones(2, history - 1, 10), blocks)
        assert torch.equal(rest, moving) == (history == 1)


@pytest.mark.parametrize("vector", [(-1.0, 0.5), (0.5, -1.0)])
def test_mirrored_pushes_have_mirrored_effects(model: WorldModel, vector: tuple[float, float]) -> None:
    latents, blocks, turn = torch.randn(5, 20), torch.randn(5, 10), Turn(torch.tensor([vector] * 5))
    turned = turn.vectors(blocks.unflatten(-1, (5, 2))).flatten(1)
    with torch.no_grad():
        plain = model.predict(latents[:, None], blocks[:, None])[:, 0]
        mirrored = model.predict(turn.latents(latents)[:, None], turned[:, None])[:, 0]
    torch.testing.assert_close(turn.latents(plain), mirrored)


def test_learns_from_stored_latents_and_resumes_exactly(
    config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    whole = LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "whole", progress=False)
    half = configured(config, {"training.epochs": 0.5})
    LeWMAgent("two_room", half).learn(tiny_dataset, tmp_path / "parts", progress=False)
    parts = LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "parts", resume=True, progress=False)
    for name, tensor in whole.world_model.state_dict().items():
        assert torch.equal(tensor, parts.world_model.state_dict()[name]), name
    fresh = LeWMAgent("two_room", config)
    training = TrainingClips(tiny_dataset, fresh.make_clips, config.training, seed=0, workers=0).train_episodes
    fresh.world_model.encoder.start_from(torch.as_tensor(tiny_dataset.sample_frames(training)))
    palettes = [agent.world_model.encoder.moments.palette for agent in (whole, fresh)]
    assert torch.equal(*palettes)  # frozen, not even decayed
    saved = LeWMAgent.from_pretrained(whole.save_pretrained(tmp_path / "model"))
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    saved.act(*frames)
    encoded = [agent.world_model.encode(torch.as_tensor(frames)) for agent in (saved, whole)]
    torch.testing.assert_close(*encoded)


def test_stored_latents_give_the_losses_of_frames(
    config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    agent = LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "run", progress=False)
    clips = TrainingClips(tiny_dataset, agent.make_clips, config.training, seed=0, workers=0)
    torch.nn.init.normal_(agent.world_model.predictor.change.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    (of_frames,) = clips.train_batches(0, 1)
    clips.show(encode_all(agent.world_model, tiny_dataset))
    (of_latents,) = clips.train_batches(0, 1)
    assert of_frames.frames.shape == (16, 4, 16, 16, 3) and of_latents.frames.shape == (16, 4, 20)
    losses = [agent.world_model.loss(batch).terms["prediction"] for batch in (of_frames, of_latents)]
    assert losses[0] > 0
    torch.testing.assert_close(*losses)


def test_only_encoders_of_moments_can_be_frozen(config: AgentConfig, tiny_config: AgentConfig) -> None:
    with pytest.raises(ValueError, match=r"training\.frozen_encoder needs model\.encoder `moments`"):
        dataclasses.replace(tiny_config, training=dataclasses.replace(tiny_config.training, frozen_encoder=True))
    with pytest.raises(ValueError, match=r"reconstruction_weight must be 0 with training\.frozen_encoder"):
        dataclasses.replace(config, objective=ObjectiveConfig(reconstruction_weight=1.0))
    with pytest.raises(ValueError, match=r"objective `slow` takes its metric .*: set training\.frozen_encoder"):
        configured(config, {"training.frozen_encoder": False})
    with pytest.raises(ValueError, match=r"objective `slow` needs model\.encoder `moments`, got `vit`"):
        dataclasses.replace(tiny_config, objective=SlowConfig())


def test_heads_may_learn_from_successful_episodes_alone(tiny_dataset: OfflineDataset) -> None:
    ended = [bool(tiny_dataset.episode(number)["terminated"].any()) for number in range(tiny_dataset.num_episodes)]
    everything = np.arange(tiny_dataset.num_episodes)
    chosen = successful(FinishData(tiny_dataset, everything, everything[::-1]))
    assert chosen.train.tolist() == np.flatnonzero(ended).tolist() == chosen.held_out[::-1].tolist()


def test_where_no_episode_ends_heads_learn_from_the_experts() -> None:
    class Data:
        path, num_episodes, episode_lengths = "data", 3, np.array([2, 3, 2])
        columns = ("terminated", "expert")

        def column(self, name: str, episodes: NDArray[np.int64]) -> NDArray[np.bool_]:
            rows = {"terminated": [[0, 0], [0, 0, 0], [0, 0]], "expert": [[0, 0], [1, 1, 1], [0, 0]]}[name]
            return np.concatenate([np.array(rows[i], np.bool_) for i in episodes])

    data: Any = Data()
    chosen = successful(FinishData(data, np.array([2, 1]), np.array([1])))
    assert chosen.train.tolist() == chosen.held_out.tolist() == [1]
    with pytest.raises(
        ValueError, match="none among the 1 training episodes of data that ended at its goal or is an expert's"
    ):
        successful(FinishData(data, np.array([0]), np.array([1])))
    few = np.array([0])  # a rehearsal asks of those that they stand for
    rehearsal = FinishData(data, few, few, rehearsed=FinishData(data, np.array([1, 2]), np.array([1])))
    assert successful(rehearsal) is rehearsal
    with pytest.raises(ValueError, match="none among the 2 held-out episodes"):
        successful(FinishData(data, few, few, rehearsed=FinishData(data, np.array([1]), np.array([0, 2]))))


def test_errors_are_measured_in_the_metric_and_large_ones_by_their_size(config: AgentConfig) -> None:
    objective = SlowPrediction(SlowConfig(), config.model)
    metric = torch.zeros(20, 20)
    metric[0, 0] = 1.0
    objective.take(metric, torch.eye(20)[:1].expand(5, 20))
    latents, predicted = torch.zeros(1, 4, 20), torch.zeros(1, 3, 20)
    losses = []
    for error in (0.0, 0.1, 100.0, 200.0):
        predicted[0, 2, 0], predicted[0, 1, 5], predicted[0, 0, 0] = error, 7.0, 7.0
        losses.append(objective(EncodedClip(latents, torch.zeros(1, 3, 10), predicted))[0].item())
    assert losses[0] == 0.0  # neither directions without weight nor the history count
    assert losses[1] == pytest.approx(((1 + (0.1 * USUAL_CHANGE) ** 2) ** 0.5 - 1) / 2)
    assert losses[3] == pytest.approx(2 * losses[2], rel=0.01)
