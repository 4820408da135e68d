"""DINO-WM: what tokens see, what is learned, where frozen weights come from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch

from lewm_agent import AgentConfig, CheckpointError, LeWMAgent
from lewm_agent.agents.rivals.dino_wm import DinoWMAgent, DinoWMConfig
from lewm_agent.agents.rivals.patch_world_model import PatchModelConfig, PatchPredictor, PatchWorldModel, completed
from lewm_agent.datasets.batch import ClipBatch
from lewm_agent.models.encoder import EncoderConfig

SIZES = {"predictor_depth": 2, "predictor_heads": 2, "predictor_head_dim": 4, "predictor_mlp_width": 16}


@pytest.fixture
def model(trained_folder: Path) -> PatchWorldModel:
    """On the four patches of the tiny world model."""
    torch.manual_seed(0)
    model = PatchWorldModel(completed(PatchModelConfig(backbone=str(trained_folder), **SIZES)))
    model.fetch()
    return model.eval()


def test_tokens_see_their_own_frame_and_earlier_ones() -> None:
    torch.manual_seed(0)
    predictor = PatchPredictor(PatchModelConfig(**SIZES), width=6, tokens=4).eval()
    tokens = torch.randn(1, 3, 4, 6, requires_grad=True)
    for frame in range(3):
        (gradient,) = torch.autograd.grad(predictor(tokens)[0, frame, 1, 0], tokens)
        seen = gradient[0].abs().sum(-1) > 0  # (frames, tokens)
        assert seen[: frame + 1].all() and not seen[frame + 1 :].any()


def test_the_last_frame_alone_is_the_same(model: PatchWorldModel) -> None:
    latents, blocks = model.encode(torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)), torch.randn(2, 3, 10)
    torch.testing.assert_close(model.predict(latents, blocks, last_only=True), model.predict(latents, blocks)[:, -1:])


@pytest.mark.parametrize("history", [1, 3])
def test_rollout_is_prediction_step_by_step(model: PatchWorldModel, history: int) -> None:
    latents, past, blocks = torch.randn(2, history, 64), torch.randn(2, history - 1, 10), torch.randn(2, 3, 4, 10)
    with torch.inference_mode():
        imagined = model.rollout(latents, past, blocks)
        assert imagined.shape == (2, 3, 4, 64)
        for sample in range(3):
            sequence, actions = latents, torch.cat([past, blocks[:, sample]], dim=1)
            for step in range(4):
                end = history + step
                start = max(0, end - 3)
                predicted = model.predict(sequence[:, start:end], actions[:, start:end])[:, -1:]
                torch.testing.assert_close(imagined[:, sample, step], predicted[:, 0])
                sequence = torch.cat([sequence, predicted], dim=1)


def test_loss_is_the_visual_error_and_the_encoder_never_learns(model: PatchWorldModel) -> None:
    frames, actions = torch.randint(0, 256, (3, 4, 16, 16, 3), dtype=torch.uint8), torch.rand(3, 3, 5, 2)
    loss = model.loss(ClipBatch(frames, actions))
    latents = model.encode(frames)
    predicted = model.predict(latents[:, :-1], model.codec.blocks(actions))
    torch.testing.assert_close(loss.total, (predicted - latents[:, 1:]).square().mean())
    loss.total.backward()
    learning = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {"action_encoder", "predictor"}
    assert not model.train().encoder.training and model.predictor.training


def test_tokens_are_those_of_the_world_models_vit(model: PatchWorldModel, trained_folder: Path) -> None:
    encoder = LeWMAgent.from_pretrained(trained_folder, device="cpu").world_model.encoder
    frames = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    tokens = encoder.vit.forward_features(encoder.normalize(frames))[:, 1:]
    torch.testing.assert_close(model.encode(frames), tokens.flatten(1))


def test_a_world_model_with_a_cnn_has_no_patches() -> None:
    sizes = EncoderConfig(image_size=16, patch_size=8, encoder="cnn")
    with pytest.raises(ValueError, match=r"learn one with --model\.encoder vit"):
        PatchWorldModel(PatchModelConfig(vit=sizes, image_size=16, **SIZES))


def test_a_timm_vit_from_a_file_and_at_random(tmp_path: Path) -> None:
    vit = timm.create_model("test_vit", num_classes=0)
    safetensors.torch.save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    config = PatchModelConfig(image_size=30, backbone="test_vit", weights=str(tmp_path / "vit.safetensors"), **SIZES)
    model = PatchWorldModel(config)
    model.fetch()
    assert model.encoder.tokens == 4  # 32 px is the nearest multiple of 16
    assert torch.equal(model.state_dict()["encoder.vit.blocks.0.mlp.fc1.weight"], vit.blocks[0].mlp.fc1.weight)
    assert model.encode(torch.zeros(1, 30, 30, 3, dtype=torch.uint8)).shape == (1, 4 * 64)
    assert all(model.is_stored(name) for name in model.state_dict())
    missing = dataclasses.replace(config, weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(CheckpointError, match="no file of weights"):
        PatchWorldModel(missing).fetch()
    PatchWorldModel(dataclasses.replace(config, weights="random")).fetch()


@pytest.mark.parametrize("name", ["hf-hub:user/model", "hf_hub:user/model", "local-dir:/etc", "resnet18", "nothing"])
def test_a_backbone_is_none_that_timm_would_fetch_from_where_its_name_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm was asked"))
    monkeypatch.setattr("lewm_agent.agents.rivals.frozen._without_weights", lambda name: None)
    with pytest.raises(CheckpointError, match=f"timm has no plain ViT `{name}`"):
        PatchWorldModel(PatchModelConfig(image_size=16, backbone=name, **SIZES))


def test_without_the_hub_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    model = PatchWorldModel(PatchModelConfig(image_size=16, backbone="test_vit.r160_in1k", **SIZES))
    stored = {name.split(".")[0] for name in model.state_dict() if model.is_stored(name)}
    assert stored == {"action_encoder", "predictor", "action_mean", "action_std"}
    with pytest.raises(CheckpointError, match=r"pretrained weights of test_vit\.r160_in1k could not be had") as caught:
        model.fetch()
    assert "\n" not in str(caught.value)


def test_what_is_no_vit_is_refused(tiny_config: AgentConfig) -> None:
    with pytest.raises(CheckpointError, match="no model `vit_smal`"):
        completed(PatchModelConfig(backbone="vit_smal"))
    with pytest.raises(ValueError, match="metric `slow`"):
        planner = dataclasses.replace(tiny_config.planner, metric="slow")
        DinoWMConfig(planner=planner)


def test_frames_follow_the_encoder(tiny_config: AgentConfig, trained_folder: Path) -> None:
    config = DinoWMConfig(PatchModelConfig(backbone=str(trained_folder), **SIZES), planner=tiny_config.planner)
    agent = DinoWMAgent("two_room", config, device="cpu")
    assert agent.config.model.image_size == 16 and agent.env.render().shape == (16, 16, 3)  # type: ignore[union-attr]
