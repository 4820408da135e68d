"""The controls on SIGReg in examples/independence.py."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from lewm_agent import AgentConfig
from lewm_agent.datasets import OfflineDataset
from lewm_agent.eval import ablation
from lewm_agent.models.objectives import registry
from lewm_agent.models.objectives.base import EncodedClip
from lewm_agent.models.objectives.sigreg import SIGReg
from lewm_agent.models.world_model import WorldModel

FILE = Path(__file__).resolve().parents[1] / "examples" / "independence.py"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(registry, "_entries", registry.entries())
    return runpy.run_path(str(FILE))


def test_the_cross_time_term_wants_successive_latents_to_be_independent(
    example: dict[str, Any], tiny_config: AgentConfig
) -> None:
    torch.manual_seed(0)
    settings = example["IndependenceConfig"](sigreg_weight=0.0, sigreg_projections=64, cross_time_weight=2.0)
    model = WorldModel(tiny_config.model, settings)
    independent = torch.randn(512, 4, tiny_config.model.latent_dim)
    still = independent[:, :1].expand(-1, 4, -1)
    blocks = torch.zeros(512, 3, tiny_config.model.block_dim)
    (near, terms), (far, _) = (
        model.objective(EncodedClip(latents, blocks, predicted=model.predict(latents[:, :-1], blocks)))
        for latents in (independent, still)
    )
    assert near < 0.05 * far
    torch.testing.assert_close(near, terms["prediction"] + 2.0 * terms["cross_time"])


def test_within_subspaces_latents_are_normal_and_how_these_relate_is_free(example: dict[str, Any]) -> None:
    torch.manual_seed(0)
    regularizer, whole = example["SubspaceSIGReg"](64, 17, latent_dim=2, subspaces=2), SIGReg(projections=64)
    first, second = regularizer.bases[:, :, 0]
    along = torch.linalg.solve(torch.stack([first, second]), torch.ones(2))
    line = torch.randn(8, 256, 1) * along
    torch.testing.assert_close(line @ first, line @ second)
    floor = whole(torch.randn(8, 256, 2)).item()
    assert regularizer(line).item() == pytest.approx(floor, rel=0.3)
    assert whole(line).item() > 5 * floor
    assert regularizer(2 * line).item() > 5 * floor


def test_subspaces_stay_the_same(example: dict[str, Any]) -> None:
    bases = [example["SubspaceSIGReg"](8, 17, latent_dim=12, subspaces=3).bases for _ in range(2)]
    assert bases[0].shape == (3, 12, 4)
    torch.testing.assert_close(*bases, rtol=0, atol=0)
    torch.testing.assert_close(bases[0].mT @ bases[0], torch.eye(4).expand(3, 4, 4))


def test_subspaces_must_divide_the_latent(example: dict[str, Any], tiny_config: AgentConfig) -> None:
    with pytest.raises(ValueError, match=r"subspaces \(5\) must divide latent_dim \(8\)"):
        dataclasses.replace(tiny_config, objective=example["IndependenceConfig"](subspaces=5))
    with pytest.raises(ValueError, match="1 to sigreg_projections"):
        example["IndependenceConfig"](subspaces=0)


def test_an_ablation_trains_on_it(
    example: dict[str, Any], tiny_dataset: OfflineDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ablation._run_once.cache_clear()
    tiny = ["model.image_size=16", "model.patch_size=8", "model.latent_dim=4", "training.held_out_fraction=0.25"]
    tiny += ["training.epochs=0.5", "training.batch_size=16", "planner.samples=8", "planner.elites=2"]
    arguments = ["--env", "two_room", "--data", str(tiny_dataset.path), "--output", str(tmp_path), "--seeds", "1"]
    arguments += ["--objective", "independence", "--register", str(FILE), "--episodes", "1", "--fix", *tiny]
    assert ablation.main([*arguments, "--vary", "objective.cross_time_weight=0.5"]) == 0, capsys.readouterr().err
    (result,) = json.loads((tmp_path / "ablation.json").read_text())["results"]
    assert result["config"]["objective"]["kind"] == "independence"
    assert result["config"]["objective"]["cross_time_weight"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--objective", "unheard_of"], "no objective `unheard_of`; there are ema, lewm, pldm"),
        (["--objective", "gcbc"], "no objective `gcbc`"),
        (["--register", "nowhere.py"], "there is no such file"),
    ],
)
def test_what_cannot_be_trained_on_is_said(
    arguments: list[str],
    sentence: str,
    tiny_dataset: OfflineDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--env", "two_room", "--data", str(tiny_dataset.path), "--output", str(tmp_path)]
    assert ablation.main([*options, "--vary", "objective.sigreg_weight=0", *arguments]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
