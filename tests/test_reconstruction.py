"""Frames come back from latents, and a decoder says whose latents it reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from lewm_agent import LeWMAgent
from lewm_agent.checkpoints.checkpoint import CheckpointError
from lewm_agent.eval import reconstruction
from lewm_agent.eval.watching.frame_decoder import FrameDecoder, FrameDecoderConfig


def test_a_decoder_learns_to_draw_what_its_latents_say() -> None:
    """A bright square in one of sixteen places, each a component of the latent; the order of patches matters."""
    torch.manual_seed(0)
    cells = torch.randint(0, 16, (256,))
    frames = torch.zeros(256, 32, 32, 3, dtype=torch.uint8)
    for frame, cell in zip(frames, cells.tolist(), strict=True):
        row, column = 8 * (cell // 4), 8 * (cell % 4)
        frame[row : row + 8, column : column + 8] = 200
    latents = 4.0 * functional.one_hot(cells, 16)
    decoder = FrameDecoder(FrameDecoderConfig(latent_dim=16, image_size=32, patch_size=8, width=64, heads=2, depth=1))
    decoder.pixel_std.fill_(60.0)
    reconstruction.train(decoder, latents, frames, steps=400, seed=0)
    drawn = decoder.frames(latents)
    error = (drawn.float() - frames.float()).square().mean() / (frames.float() - frames.float().mean(0)).square().mean()
    assert drawn.shape == frames.shape and drawn.dtype == torch.uint8
    assert error < 0.2


def test_a_saved_decoder_draws_the_same_and_refuses_another_model(tiny_agent: LeWMAgent, tmp_path: Path) -> None:
    model = tiny_agent.world_model
    decoder = FrameDecoder.of(model).eval()
    decoder.save(tmp_path / "decoder.safetensors", model)
    latents = torch.randn(3, 2, model.config.latent_dim)
    frames = FrameDecoder.load(tmp_path / "decoder.safetensors", model).frames(latents)
    assert frames.shape == (3, 2, model.config.image_size, model.config.image_size, 3)
    assert torch.equal(frames, decoder.frames(latents))
    other = LeWMAgent("two_room", tiny_agent.config, seed=1).world_model
    with pytest.raises(CheckpointError, match="decodes the latents of another model"):
        FrameDecoder.load(tmp_path / "decoder.safetensors", other)
    with pytest.raises(CheckpointError, match="cannot be read as a decoder"):
        FrameDecoder.load(tmp_path / "nothing.safetensors", model)


def test_imagination_begins_where_the_real_frames_end(tiny_agent: LeWMAgent) -> None:
    config = tiny_agent.config.model
    real = torch.randn(reconstruction.BLOCKS + 1, config.latent_dim)
    actions = np.zeros((reconstruction.BLOCKS * config.frame_skip, config.action_dim), np.float32)
    latents = reconstruction.imagined(tiny_agent, real, actions)
    assert latents.shape == real.shape
    assert torch.equal(latents[: config.history], real[: config.history])
    later = real.clone()
    later[config.history :] += 1
    assert torch.equal(latents, reconstruction.imagined(tiny_agent, later, actions))


def test_command(trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture, decoder = (tmp_path / name for name in ("out.json", "out.png", "decoder.safetensors"))
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--frames", "200", "--steps", "20"]
    files = ["--output", str(out), "--picture", str(picture), "--save", str(decoder)]
    assert reconstruction.main([*arguments, "--trajectories", "2", *files]) == 0
    result = json.loads(out.read_text())
    assert len(result["decoded"]) == len(result["imagined"]) == reconstruction.BLOCKS + 1
    assert result["decoded"][0] == result["imagined"][0]
    assert picture.stat().st_size > 5000 and decoder.exists()
    assert "imagined, then decoded" in capsys.readouterr().out
    assert reconstruction.main([*arguments, "--trajectories", "0"]) == 2
