"""Frames in another look: what each part changes and what it leaves, and how lists of parts are written."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lewm_agent import ModelConfig
from lewm_agent.models.encoder import Encoder
from lewm_agent.models.seeing.augmentations import CAMERA, PARTS, SETS, Augmentations, drawn_camera, through

CNN = ModelConfig(image_size=16, encoder="cnn", patch_size=8, encoder_width=12, latent_dim=6, projector_width=12)


@pytest.fixture
def frames() -> Tensor:
    """The same picture three times: a square of one color on another, and a spot."""
    torch.manual_seed(0)
    frame = torch.full((24, 24, 3), 90, dtype=torch.uint8)
    frame[6:14, 8:16] = torch.tensor([200, 60, 40], dtype=torch.uint8)
    frame[18, 4] = 230
    return frame.repeat(3, 1, 1, 1)


@pytest.mark.parametrize("name", [CAMERA, *PARTS])
def test_every_frame_gets_a_look_of_its_own(name: str, frames: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        changed = Augmentations.of(f"{name}=0.2")(frames)
    assert changed.dtype == torch.float32 and changed.shape == frames.shape
    assert changed.min() >= 0 and changed.max() <= 255
    distances = [(changed[i] - changed[j]).abs().max() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(distances) > (0.1 if name == "blur" else 1)


@pytest.mark.parametrize("name", [CAMERA, *PARTS])
def test_next_to_no_strength_changes_next_to_nothing(name: str, frames: Tensor) -> None:
    changed = Augmentations.of(f"{name}=1e-6")(frames)
    assert (changed - frames).abs().max() < 0.1


@pytest.mark.parametrize("name", ["colors", "paint", "hue", "brightness", "contrast"])
def test_equal_colors_of_a_frame_stay_equal(name: str, frames: Tensor) -> None:
    changed = Augmentations.of(f"{name}=0.2")(frames)
    assert (changed[:, 6:14, 8:16] - changed[:, 6:7, 8:9]).abs().max() < 1e-3


@pytest.mark.parametrize(("color", "share"), [((128, 128, 128), 0.5), ((64, 64, 192), 0.66)])
def test_colors_change_as_much_as_it_says(color: tuple[int, int, int], share: float) -> None:
    torch.manual_seed(0)
    frames = torch.tensor(color, dtype=torch.uint8).expand(10_000, 2, 2, 3)
    change = (Augmentations.of("colors=0.1")(frames) - frames)[:, 0, 0] / 255
    assert change.std().item() == pytest.approx(0.1 * share, rel=0.03)


def test_paint_changes_things_one_by_one(frames: Tensor) -> None:
    changed = Augmentations.of("paint=0.2")(frames.repeat(20, 1, 1, 1)) - frames[0]
    square, ground = changed[:, 10, 10].abs().amax(-1), changed[:, 2, 2].abs().amax(-1)
    assert ((square > 10) & (ground < 1)).any() and ((ground > 10) & (square < 1)).any()


def test_hue_keeps_grays_and_lightness() -> None:
    torch.manual_seed(0)
    frames = torch.tensor([[[[90.0] * 3, [120.0, 80.0, 100.0]]]]).repeat(50, 1, 1, 1)
    changed = Augmentations.of("hue=0.3")(frames)
    assert (changed[:, :, 0] - 90).abs().max() < 1e-3
    assert (changed.mean(-1) - frames.mean(-1)).abs().max() < 1e-3
    assert (changed[:, :, 1] - frames[:, :, 1]).abs().max() > 10


def test_light_comes_from_a_side() -> None:
    torch.manual_seed(0)
    changed = Augmentations.of("light=0.2")(torch.full((8, 9, 9, 3), 100.0))
    assert (changed[:, 4, 4] - 100).abs().max() < 0.1
    assert torch.allclose(changed[:, 0, 0] * changed[:, 8, 8], torch.tensor(1e4), rtol=1e-3), "as much less opposite"


def test_the_camera_says_where_things_went() -> None:
    torch.manual_seed(0)
    spot = torch.zeros(8, 32, 32, 3)
    spot[:, 15:17, 15:17] = 255
    seen, camera = Augmentations.of("camera=0.05,noise=0.001").seen(spot)
    mask = through(camera, spot.permute(0, 3, 1, 2), "zeros")
    assert (mask.permute(0, 2, 3, 1) - seen).abs().max() < 3, "masks go along with the frames"
    assert (seen[:, 15:17, 15:17].mean((1, 2, 3)) < 250).any()
    still = through(drawn_camera(8, 0.0, spot.device), spot.permute(0, 3, 1, 2))
    assert torch.allclose(still.permute(0, 2, 3, 1), spot, atol=1e-2)


def test_blur_is_that_of_a_gaussian() -> None:
    torch.manual_seed(0)
    spot = torch.zeros(200, 15, 15, 3)
    spot[:, 7, 7] = 255
    blurred = Augmentations.of("blur=0.5")(spot)
    assert torch.allclose(blurred.sum((1, 2, 3)), torch.tensor(765.0), rtol=1e-3)
    away = (torch.arange(15) - 7.0).square()
    spread = (blurred[..., 0] / 255 * away).sum((1, 2))
    assert spread.mean().item() == pytest.approx(0.25, rel=0.35)


def test_lists_are_read_and_written() -> None:
    look = Augmentations.of("look")
    assert look and {name for name, _ in look.parts} == {CAMERA, *PARTS}
    assert str(look) == SETS["look"] and Augmentations.of(str(look)) == look
    assert Augmentations.of(" noise = 0.5 , hue=1") == Augmentations((("noise", 0.5), ("hue", 1.0)))
    assert not Augmentations.of("")
    assert dataclasses.replace(CNN, augmentations="look").augmentations == SETS["look"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colours=0.2", "colours"),
        ("noise", "augmentation noise needs a strength, a positive number, as in noise=0.1; got ''"),
        ("noise=much", "got 'much'"),
        ("noise=0", "got '0'"),
        ("noise=nan", "got 'nan'"),
        ("look,noise=0.1", "augmentation noise is there twice"),
    ],
)
def test_what_is_no_list_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentations.of(text)


def test_only_training_augments() -> None:
    encoder = Encoder(dataclasses.replace(CNN, augmentations="colors=0.3"))
    frames = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    assert torch.equal(encoder.eval()(frames), encoder.see(frames))
    assert not torch.equal(encoder.train()(frames), encoder(frames))


def test_the_camera_keeps_the_middle_when_it_only_turns() -> None:
    camera = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    picture = functional.pad(torch.ones(1, 1, 1, 1), [4, 4, 4, 4])
    assert torch.allclose(through(camera, picture), picture, atol=1e-5)
