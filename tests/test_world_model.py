"""The world model: sizes, causality, rollouts, actions."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lewm_agent.config import AgentConfig
from lewm_agent.datasets.batch import ClipBatch
from lewm_agent.models.encoder import Encoder, EncoderConfig, PixelNormalization
from lewm_agent.models.objectives.lewm import ObjectiveConfig
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.models.thumbnail_decoder import ThumbnailDecoder
from lewm_agent.models.world_model import WorldModel, straightness
from lewm_agent.planning.fast_rollout import fast_rollout
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.presets import preset

TINY = ModelConfig(
    image_size=16,
    patch_size=8,
    encoder_width=16,
    encoder_depth=1,
    encoder_heads=2,
    latent_dim=8,
    projector_width=32,
    predictor_width=24,
    predictor_depth=2,
    predictor_heads=2,
    predictor_head_dim=8,
    predictor_mlp_width=32,
)


def made(config: ModelConfig) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(config)
    for parameter in model.parameters():  # AdaLN-zero would otherwise ignore the actions
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def model() -> WorldModel:
    return made(TINY)


def naive_rollout(model: WorldModel, latents: Tensor, past: Tensor, blocks: Tensor) -> Tensor:
    """One sample at a time, the whole window at every step."""
    out = torch.empty(*blocks.shape[:3], TINY.latent_dim)
    for i in range(blocks.shape[0]):
        for j in range(blocks.shape[1]):
            sequence = list(latents[i])
            actions = [*past[i], *blocks[i, j]]
            for step in range(blocks.shape[2]):
                end = latents.shape[1] + step
                start = max(0, end - TINY.history)
                window = torch.stack(sequence[start:end])[None]
                sequence.append(model.predict(window, torch.stack(actions[start:end])[None])[0, -1])
                out[i, j, step] = sequence[-1]
    return out


def test_paper_preset_has_the_released_number_of_parameters() -> None:
    model = WorldModel(preset("paper").model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 18_034_478
    cube = WorldModel(dataclasses.replace(preset("paper").model, action_dim=5))
    assert sum(parameter.numel() for parameter in cube.parameters()) == 18_034_628


@pytest.mark.parametrize("history", [1, 2, 3])
def test_cached_rollout_equals_the_naive_one(model: WorldModel, history: int) -> None:
    latents, past = torch.randn(2, history, 8), torch.randn(2, history - 1, 10)
    blocks = torch.randn(2, 4, 5, 10)
    with torch.inference_mode():
        torch.testing.assert_close(
            model.rollout(latents, past, blocks), naive_rollout(model, latents, past, blocks), rtol=1e-5, atol=1e-5
        )


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_rollout_equals_the_plain_one() -> None:
    model = made(dataclasses.replace(TINY, predictor_depth=1))  # each further layer takes seconds to compile
    rollout = fast_rollout(model, PlannerConfig(compile=True))
    inputs = torch.randn(2, 1, 8), torch.randn(2, 0, 10), torch.randn(2, 4, 2, 10)  # blocks add to what is compiled
    with torch.inference_mode():
        torch.testing.assert_close(rollout(*inputs), model.rollout(*inputs), rtol=1e-5, atol=1e-5)


def test_bfloat16_rollout_is_near_the_full_one_and_leaves_the_model_alone(model: WorldModel) -> None:
    rollout = fast_rollout(model, PlannerConfig(precision="bfloat16"))
    inputs = torch.randn(2, 2, 8), torch.randn(2, 1, 10), torch.randn(2, 4, 5, 10)
    with torch.inference_mode():
        rounded, full = rollout(*inputs), model.rollout(*inputs)
    assert rounded.dtype == full.dtype == torch.float32
    error = (rounded - full).square().mean().sqrt() / full.std()
    assert 1e-4 < error < 0.05


def test_predictions_do_not_see_the_future(model: WorldModel) -> None:
    latents, blocks = torch.randn(1, 3, 8), torch.randn(1, 3, 10)
    before = model.predict(latents, blocks)
    latents[:, 2], blocks[:, 2] = 9.0, 9.0
    after = model.predict(latents, blocks)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_new_predictor_ignores_actions_and_a_trained_one_does_not(model: WorldModel) -> None:
    fresh = WorldModel(TINY).eval()
    latents = torch.randn(1, 3, 8)
    same = [fresh.predict(latents, torch.randn(1, 3, 10)) for _ in range(2)]
    torch.testing.assert_close(same[0], same[1])
    assert not torch.allclose(
        model.predict(latents, torch.zeros(1, 3, 10)), model.predict(latents, torch.ones(1, 3, 10))
    )


def test_encode_keeps_leading_dimensions_and_takes_uint8(model: WorldModel) -> None:
    frames = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    latents = model.encode(frames)
    assert latents.shape == (2, 3, 8)
    torch.testing.assert_close(latents[1, 2], model.encode(frames[1, 2][None])[0])


def test_loss_sums_its_terms_and_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    objective = ObjectiveConfig(
        sigreg_weight=0.09, sigreg_projections=16, straightening_weight=0.3, reconstruction_weight=0.7
    )
    model = WorldModel(TINY, objective)
    frames = torch.randint(0, 256, (6, 4, 16, 16, 3), dtype=torch.uint8)
    actions = torch.rand(6, 3, 5, 2)
    for block in model.predictor.blocks:  # at initialisation the gates are shut and pass no gradient on
        torch.nn.init.normal_(block.modulation[1].weight)
    loss = model.loss(ClipBatch(frames, actions))
    terms = loss.terms
    expected = terms["prediction"] + 0.09 * terms["sigreg"] - 0.3 * terms["straightness"]
    expected = expected + 0.7 * terms["reconstruction"]
    torch.testing.assert_close(loss.total, expected)
    loss.total.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_a_model_of_single_frames_has_no_velocities_to_straighten() -> None:
    torch.manual_seed(0)
    model = WorldModel(dataclasses.replace(TINY, history=1), ObjectiveConfig(sigreg_projections=16))
    loss = model.loss(ClipBatch(torch.randint(0, 256, (6, 2, 16, 16, 3), dtype=torch.uint8), torch.rand(6, 1, 5, 2)))
    assert loss.terms["straightness"].item() == 0
    assert torch.isfinite(loss.total)
    with pytest.raises(ValueError, match=r"straightening_weight needs a model\.history of at least 2"):
        AgentConfig(
            model=dataclasses.replace(TINY, history=1),
            objective=ObjectiveConfig(straightening_weight=0.3),
            planner=PlannerConfig(history=1),
        )


def test_a_decoder_learns_to_draw_what_the_latents_say() -> None:
    torch.manual_seed(0)
    decoder = ThumbnailDecoder(TINY)
    latents = torch.randn(32, TINY.latent_dim)
    pictures = torch.sigmoid(latents[:, :3, None, None] * torch.linspace(-2, 2, 24)) - 0.5
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    errors = []
    for _ in range(150):
        error = decoder.error(latents, pictures)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[0] > 0.9 and errors[-1] < 0.05
    assert decoder(latents).shape == (32, 3, 24, 24)


@pytest.mark.parametrize("normalization", ["imagenet", "mean_frame"])
@pytest.mark.parametrize("side", [16, 48, 64])
def test_thumbnails_are_averages_of_normalised_frames(normalization: PixelNormalization, side: int) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(image_size=side, encoder="cnn", patch_size=8, pixel_normalization=normalization)
    encoder = Encoder(config)
    if normalization == "mean_frame":
        encoder.set_pixel_statistics(255 * torch.rand(side, side, 3), torch.tensor([20.0, 30.0, 40.0]))
    frames = torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8)
    torch.testing.assert_close(
        encoder.thumbnails(frames, 24), functional.adaptive_avg_pool2d(encoder.normalize(frames), 24)
    )


def test_frames_are_not_changed_when_they_are_normalised() -> None:
    frames = torch.full((1, 8, 8, 3), 7.0)
    Encoder(EncoderConfig(image_size=8, encoder="cnn", patch_size=8)).normalize(frames)
    assert (frames == 7).all()


def test_targets_are_not_detached() -> None:
    model = WorldModel(TINY)
    latents = torch.randn(4, 4, 8, requires_grad=True)
    predicted = model.predict(latents[:, :-1], torch.randn(4, 3, 10))
    (predicted - latents[:, 1:]).square().mean().backward()
    assert latents.grad is not None and latents.grad[:, 3].abs().sum() > 0  # the last frame is only a target


def test_the_codec_has_the_models_statistics_and_block(model: WorldModel) -> None:
    model.action_mean.copy_(torch.tensor([1.0, -2.0]))
    model.action_std.copy_(torch.tensor([0.5, 4.0]))
    torch.testing.assert_close(model.codec.normalize(torch.tensor([1.5, 2.0])), torch.tensor([1.0, 1.0]))
    assert model.codec.joined(torch.zeros(10, 2)).shape == (10 // TINY.frame_skip, TINY.block_dim)


def test_straightness_of_a_line_and_of_a_zigzag() -> None:
    line = torch.arange(5.0)[None, :, None].expand(2, 5, 3)
    zigzag = torch.tensor([0.0, 1, 0, 1, 0])[None, :, None].expand(2, 5, 3)
    assert straightness(line).item() == pytest.approx(1)
    assert straightness(zigzag).item() == pytest.approx(-1)


@pytest.mark.parametrize(("image", "stride"), [(96, 16), (96, 12), (224, 14), (15, 5)])
def test_cnn_keeps_where_things_are(image: int, stride: int) -> None:
    config = dataclasses.replace(TINY, encoder="cnn", image_size=image, patch_size=stride)
    torch.manual_seed(0)
    encoder = Encoder(config).eval()
    assert encoder.cnn[-1].in_features == config.encoder_width * (image // stride) ** 2
    frames = torch.zeros(2, image, image, 3, dtype=torch.uint8)
    frames[0, :3, :3], frames[1, -3:, -3:] = 255, 255
    latents = encoder(frames)
    assert latents.shape == (2, 8) and not torch.allclose(latents[0], latents[1], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 7}, r"patch_size \(7\) must divide image_size \(16\)"),
        ({"encoder_heads": 3}, r"encoder_heads \(3\) must divide encoder_width \(16\)"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"encoder": "mlp"}, "encoder must be vit or cnn or moments or learned_masks, got 'mlp'"),
        ({"pixel_normalization": "mean"}, "pixel_normalization must be imagenet or mean_frame, got 'mean'"),
        ({"augmentations": "paint=-0.1"}, r"augmentation paint needs a strength, a positive number"),
        ({"predictor_dropout": 1.0}, r"predictor_dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)  # type: ignore[arg-type]
