"""The encoder of moments: what it reads from a picture, and how mirrors act on it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm_agent import ModelConfig
from lewm_agent.models.encoder import Encoder
from lewm_agent.models.seeing.learned_masks import LearnedMasks
from lewm_agent.models.seeing.moments import NUMBERS, Moments, Turn, find_palette, shares

SIZE = 32
COLORS = torch.tensor([[200.0, 60.0, 40.0], [40.0, 80.0, 220.0]])
FLOOR = torch.tensor([250.0, 250.0, 250.0])


def picture(places: list[tuple[float, float]], floor: Tensor = FLOOR) -> Tensor:
    """Smoothed squares, 6 px wide, one of each color, about places in px; (32, 32, 3) uint8."""
    along = torch.arange(SIZE) + 0.5
    frame = floor.expand(SIZE, SIZE, 3).clone()
    for (x, y), color in zip(places, COLORS, strict=True):
        covers_x, covers_y = ((3.5 - (along - place).abs()).clamp(0, 1) for place in (x, y))
        share = (covers_y[:, None] * covers_x)[..., None]
        frame = frame + share * (color - frame)
    return frame.round().to(torch.uint8)


@pytest.fixture(scope="module")
def scenes() -> tuple[Tensor, Tensor]:
    """Places (N, 2, 2) in px, and frames of them; the two never touch."""
    rng = np.random.default_rng(0)
    left, right = rng.uniform([5, 5], [12, 27], (60, 2)), rng.uniform([19, 5], [27, 27], (60, 2))
    places = np.stack([left, right], axis=1)
    places[::2] = places[::2, ::-1]
    return torch.as_tensor(places), torch.stack([picture([tuple(p) for p in each]) for each in places])


@pytest.fixture(scope="module")
def moments(scenes: tuple[Tensor, Tensor]) -> Moments:
    """An encoder that has seen the scenes."""
    encoder = Moments(2, SIZE)
    encoder.start_from(scenes[1])
    return encoder


def test_places_are_read_to_a_fraction_of_a_pixel(moments: Moments, scenes: tuple[Tensor, Tensor]) -> None:
    places, frames = scenes
    with torch.no_grad():
        latents = moments(frames).unflatten(-1, (2, NUMBERS)) * moments.scale.view(2, NUMBERS)
    read = (latents[..., 1:3] + 1) * SIZE / 2
    errors = [(read[:, order] - places).norm(dim=-1).amax() for order in ([0, 1], [1, 0])]
    assert min(errors) < 0.1


def test_the_palette_is_that_of_the_things(moments: Moments) -> None:
    found = moments.palette.detach() * 255
    assert torch.cdist(COLORS, found).amin(dim=1).amax() < 3


def test_mixed_pixels_count_in_part() -> None:
    mixed = (0.25 * COLORS[:1] + 0.75 * FLOOR) / 255
    share, left = shares(mixed, FLOOR[None] / 255, COLORS / 255)
    assert share[0, 0].item() == pytest.approx(0.25, abs=1e-5)
    assert left[0, 0] < 1e-8 < left[0, 1]


def test_a_small_thing_has_its_color_in_the_palette() -> None:
    """Twenty pixels of it, beside ten thousand of two shades that differ more from one another than the background."""
    shades, red = torch.tensor([[0.05, 0.05, 0.05], [0.8, 0.8, 0.8]]), torch.tensor([[0.8, 0.1, 0.15]])
    noise = torch.rand(10_020, 3, generator=torch.Generator().manual_seed(0)) * 0.02
    colors = torch.cat([shades.repeat_interleave(5000, dim=0), red.expand(20, 3)]) + noise
    palette = find_palette(colors, torch.full_like(colors, 0.4), 3)
    assert (palette - red).norm(dim=-1).min() < 0.05


def test_a_palette_of_fewer_colors_than_asked_for_repeats_some() -> None:
    one = COLORS[:1].expand(50, 3) / 255
    assert torch.allclose(find_palette(one, FLOOR.expand(50, 3) / 255, 2), one[:2])


VECTORS = [(x * a, y * b) for x, y in itertools.product((1, -1), repeat=2) for a, b in ((1, 0.5), (0.5, 1))]


@pytest.mark.parametrize("vector", VECTORS)
def test_turned_latents_are_those_of_the_turned_picture(
    moments: Moments, scenes: tuple[Tensor, Tensor], vector: tuple[float, float]
) -> None:
    frames, turn = scenes[1][:8], Turn(torch.tensor([vector] * 8))
    turned = frames.flip(2) if vector[0] < 0 else frames
    turned = turned.flip(1) if vector[1] < 0 else turned
    turned = turned.transpose(1, 2) if abs(vector[1]) > abs(vector[0]) else turned
    with torch.no_grad():
        latents = moments(frames)
        torch.testing.assert_close(turn.latents(latents), moments(turned), atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(turn.latents_back(turn.latents(latents)), latents)
    ahead = turn.vectors(torch.tensor([[vector]] * 8))
    assert (ahead[..., 0] >= ahead[..., 1]).all() and (ahead >= 0).all()


def test_palette_and_sharpness_learn(scenes: tuple[Tensor, Tensor]) -> None:
    encoder = Moments(2, SIZE)
    encoder.start_from(scenes[1])
    encoder(scenes[1][:8]).square().sum().backward()
    assert encoder.palette.grad is not None and encoder.palette.grad.abs().sum() > 0
    assert encoder.log_sharpness.grad is not None


def test_a_thing_that_has_left_the_picture_has_a_finite_latent(moments: Moments) -> None:
    empty = FLOOR.expand(1, SIZE, SIZE, 3).to(torch.uint8)
    assert moments(empty).isfinite().all()


def test_still_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing moves in these frames"):
        Moments(2, SIZE).start_from(FLOOR.expand(5, SIZE, SIZE, 3).to(torch.uint8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": 8}, "latent_dim must be 20 with encoder `moments` and 2 masks, got 8"),
        ({"latent_dim": 20, "augmentations": "look"}, "augmentations must be empty with encoder `moments`"),
        ({"latent_dim": 20, "symmetry": "square"}, "needs encoder `moments`, predictor `residual`"),
        ({"latent_dim": 20, "predictor": "residual"}, "history must be 1 or 2 with predictor `residual`"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(image_size=32, patch_size=8, encoder="moments", **settings)


def test_the_encoder_needs_no_projector() -> None:
    encoder = Encoder(ModelConfig(image_size=32, patch_size=8, encoder="moments", latent_dim=20))
    assert not [name for name, _ in encoder.named_parameters() if "projector" in name]
    assert encoder(torch.zeros(3, 32, 32, 3, dtype=torch.uint8)).shape == (3, 20)


def test_learned_masks_speak_the_language_of_moments(moments: Moments, scenes: tuple[Tensor, Tensor]) -> None:
    learned = LearnedMasks(2, SIZE, 8)
    learned.speak_like(moments)
    frames = scenes[1][:8]
    with torch.no_grad():
        told = learned.moments_of(moments.masks_of(frames).clamp(1e-6, 1 - 1e-6).logit())
        assert (told - moments(frames)).abs().max() < 0.1
        assert learned(frames.permute(0, 3, 1, 2) / 255.0).shape == told.shape
    assert all(parameter.requires_grad for parameter in learned.parameters())


def test_learned_masks_need_whole_squares() -> None:
    with pytest.raises(ValueError, match="image_size must be a multiple of 8 with encoder `learned_masks`, got 36"):
        ModelConfig(image_size=36, patch_size=6, encoder="learned_masks", latent_dim=20)
