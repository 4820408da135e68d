"""Teaching a trained encoder other looks: what changes, what stays, and how a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lewm_agent import LeWMAgent, cli
from lewm_agent.adapting.teaching import AdaptConfig, Adapting, student_of
from lewm_agent.config import configured
from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.learner import Learner
from lewm_agent.models.seeing.augmentations import Augmentations
from lewm_agent.presets import preset
from lewm_agent.tools.progress import ProgressShown
from lewm_agent.training import loop
from lewm_agent.training.metrics_log import read_rows

MOMENTS = {
    "model.image_size": 16,
    "model.patch_size": 8,
    "model.symmetry": "square",
    "model.predictor_width": 16,
    "model.predictor_depth": 1,
    "training.batch_size": 16,
    "training.epochs": 0.2,
    "training.held_out_fraction": 0.25,
    "inverse_dynamics.steps": 2,
    "inverse_dynamics.batch_size": 8,
    "inverse_dynamics.width": 8,
}
BRIEF: dict[str, Any] = {"steps": 6, "batch_size": 8, "width": 8, "progress": False}
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def trained(tiny_dataset: OfflineDataset, trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A ViT's model and one of moments, in folders."""
    folder = tmp_path_factory.mktemp("moments")
    agent = LeWMAgent("two_room", configured(preset("moments"), MOMENTS))
    agent.learn(tiny_dataset, folder / "run", progress=False)
    return {"vit": trained_folder, "moments": agent.save_pretrained(folder / "model")}


def weights(agent: LeWMAgent) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in agent.model.state_dict().items()}


def held_out(run: Path) -> dict[str, float]:
    return [row for row in read_rows(run / "metrics.jsonl") if row["split"] == "held_out"][-1]


@pytest.mark.parametrize(("kind", "backbone"), [("vit", "vit"), ("moments", "learned_masks")])
def test_the_encoder_alone_changes(
    kind: str, backbone: str, trained: Folders, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    agent = LeWMAgent.from_pretrained(trained[kind])
    before = weights(agent)
    agent.adapt(tiny_dataset, tmp_path / "run", augmentations="colors=0.2,camera=0.02", **BRIEF)
    after = weights(agent)
    kept = {name for name in before if not name.startswith("encoder.")}
    assert kept == {name for name in after if not name.startswith("encoder.")}
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert agent.config.model.encoder == backbone
    assert agent.config.model.augmentations == "colors=0.2,camera=0.02"
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    saved = LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path / "model"))
    assert torch.equal(
        saved.world_model.encode(torch.as_tensor(frames)), agent.world_model.encode(torch.as_tensor(frames))
    )
    np.testing.assert_array_equal(saved.act(*frames), agent.act(*frames))
    assert saved.description.adaptation is not None and saved.description.adaptation.record is not None
    assert saved.description.adaptation.record.steps == 6
    assert saved.description.training == LeWMAgent.from_pretrained(trained[kind]).description.training
    told = held_out(tmp_path / "run")
    assert {"error_clean", "error_changed", "error_unadapted"} <= told.keys()
    assert ("pixels_clean" in told) == (kind == "moments")


def test_other_looks_are_learned_and_the_usual_one_is_kept(
    trained: Folders, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    agent = LeWMAgent.from_pretrained(trained["vit"])
    settings = BRIEF | {"steps": 150, "batch_size": 32, "learning_rate": 3e-3}
    agent.adapt(tiny_dataset, tmp_path / "run", augmentations="brightness=0.5", **settings)
    told = held_out(tmp_path / "run")
    assert told["error_changed"] < 0.6 * told["error_unadapted"]
    assert told["error_clean"] < told["error_unadapted"]


@pytest.fixture
def learner(trained: Folders) -> Callable[[str], Adapting]:
    """A teacher of moments that teaches with some augmentations."""

    def make(augmentations: str) -> Adapting:
        agent = LeWMAgent.from_pretrained(trained["moments"])
        config = AdaptConfig(augmentations, clean=0.0, width=8).model(agent.config.model)
        student = student_of(agent.model.encoder, config)
        return Adapting(config, agent.model.encoder, student, agent.model.metric, 0.0)

    return make


def test_masks_are_those_of_the_clean_frame_where_the_camera_sees_them(
    learner: Callable[[str], Adapting], tiny_dataset: OfflineDataset
) -> None:
    adapting = learner("camera=0.1")
    frames = torch.as_tensor(tiny_dataset.sample_frames()[:4])
    asked: list[torch.Tensor] = []
    perfect = adapting.teacher.moments.masks_of(frames)

    def logits(planes: torch.Tensor) -> torch.Tensor:
        asked.append(planes)
        return perfect.clamp(1e-4, 1 - 1e-4).logit().requires_grad_()

    adapting.encoder.learned_masks.logits = logits  # type: ignore[method-assign]
    still = Augmentations.of("noise=1e-7").seen(frames)
    moved = adapting._of_masks(frames, *Augmentations.of("camera=0.2").seen(frames)).terms["masks"]
    assert adapting._of_masks(frames, *still).terms["masks"] < 0.4 * moved
    assert len(asked) == 2


def test_frames_that_the_colors_explain_are_seen_as_before_and_the_network_sees_the_others(
    learner: Callable[[str], Adapting], tiny_dataset: OfflineDataset
) -> None:
    adapting = learner("colors=0.2").eval()
    adapting.take_usual(tiny_dataset, np.arange(12))
    usual = torch.as_tensor(tiny_dataset.sample_frames()[:3])
    student, both = adapting.encoder, torch.cat([usual, 255 - usual])
    with torch.no_grad():
        found = student.see(both)
        assert torch.equal(found[:3], adapting.teacher.see(usual))
        assert torch.equal(found[3:], student.learned_masks(student.normalize(both[3:])))


def test_the_unit_of_errors_is_a_block(learner: Callable[[str], Adapting], tiny_dataset: OfflineDataset) -> None:
    adapting = learner("colors=0.2")
    adapting.take_usual(tiny_dataset, np.arange(12))
    once = float(adapting.unit)
    adapting.metric.mul_(2)
    adapting.take_usual(tiny_dataset, np.arange(12))
    assert once > 0 and float(adapting.unit) == pytest.approx(2 * once)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    trained: Folders, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped_at_the_fifth(progress: object, done: int, note: str | None = None) -> None:
        if done == 5:
            raise KeyboardInterrupt

    whole = LeWMAgent.from_pretrained(trained["moments"]).adapt(tiny_dataset, tmp_path / "whole", **BRIEF)
    agent = LeWMAgent.from_pretrained(trained["moments"])
    before = agent.weights_sha256()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0)
        patch.setattr(ProgressShown, "update", stopped_at_the_fifth)
        agent.adapt(tiny_dataset, tmp_path / "parts", **BRIEF)
    assert agent.weights_sha256() == before
    assert LeWMAgent.from_pretrained(tmp_path / "parts" / "checkpoints" / "last").config == whole.config
    agent.adapt(tiny_dataset, tmp_path / "parts", resume=True, **BRIEF)
    assert agent.weights_sha256() == whole.weights_sha256()


def test_what_cannot_be_adapted_or_continued_is_refused(
    trained: Folders, tiny_dataset: OfflineDataset, tmp_path: Path, tiny_agent: LeWMAgent
) -> None:
    with pytest.raises(ValueError, match="this agent has learned nothing"):
        tiny_agent.adapt(tiny_dataset, tmp_path / "none")
    agent = LeWMAgent.from_pretrained(trained["vit"])
    with pytest.raises(ValueError, match="augmentations must name at least one part"):
        agent.adapt(tiny_dataset, tmp_path / "none", augmentations="")
    agent.adapt(tiny_dataset, tmp_path / "run", **BRIEF)
    again = LeWMAgent.from_pretrained(trained["vit"])
    with pytest.raises(ValueError, match=r"adaptation\.settings\.augmentations .*, not 'noise=0.1'"):
        again.adapt(tiny_dataset, tmp_path / "run", augmentations="noise=0.1", resume=True, **BRIEF)
    with pytest.raises(ValueError, match=r"adaptation\.source"):
        agent.adapt(tiny_dataset, tmp_path / "run", resume=True, **BRIEF)
    tiny_agent.learn(tiny_dataset, tmp_path / "learned", progress=False)
    with pytest.raises(ValueError, match="is of a training, not of an adaptation"):
        again.adapt(tiny_dataset, tmp_path / "learned", resume=True, **BRIEF)


def test_an_adapted_model_is_adapted_again(trained: Folders, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    agent = LeWMAgent.from_pretrained(trained["moments"])
    agent.adapt(tiny_dataset, tmp_path / "first", **BRIEF)
    agent.adapt(tiny_dataset, tmp_path / "second", augmentations="light=0.1", **BRIEF)
    assert agent.config.model.encoder == "learned_masks"
    assert agent.config.model.augmentations == "light=0.1"


def test_learned_masks_are_not_learned_from_nothing(tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    config = configured(preset("moments"), MOMENTS | {"model.encoder": "learned_masks"})
    with pytest.raises(ValueError, match="learn with encoder `moments`, then adapt the model"):
        LeWMAgent("two_room", config).learn(tiny_dataset, tmp_path / "run", progress=False)


def test_the_command(
    trained: Folders, tiny_dataset: OfflineDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["adapt", str(trained["moments"]), "--dataset", str(tiny_dataset.path), "--output", str(tmp_path / "out")]
    assert cli.main([*given, "--augmentations", "look", "--steps", "3", "--batch-size", "8", "--width", "8"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "error of a latent, in action blocks: of clean frames" in said and "saved in" in said
    assert isinstance(LeWMAgent.from_pretrained(tmp_path / "out").model, Learner)
