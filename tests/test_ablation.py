"""One command trains a value of a setting after the other, and does nothing twice."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.config import configured
from lewm_agent.datasets import OfflineDataset
from lewm_agent.eval import ablation
from lewm_agent.eval.ablation import Cell, Options, cells, values
from lewm_agent.presets import preset


def run_on(dataset: OfflineDataset, output: Path) -> list[str]:
    """Arguments of the smallest study there can be."""
    arguments = ["--env", "two_room", "--data", str(dataset.path), "--output", str(output), "--seeds", "1"]
    return [*arguments, "--episodes", "2", "--preset", "tiny"]


@pytest.fixture(autouse=True)
def tiny_preset(tiny_config: AgentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ablation.preset.__globals__["PRESETS"], "tiny", tiny_config)


def test_values_are_numbers_where_they_can_be() -> None:
    assert values("model.latent_dim=8,32") == ("model.latent_dim", [8, 32])
    assert values("objective.sigreg_weight=0,1e-2") == ("objective.sigreg_weight", [0, 0.01])
    assert values("planner.metric=euclidean,slow")[1] == ["euclidean", "slow"]
    for wrong in ("latent_dim=8", "model.latent_dim", "model.latent_dim="):
        with pytest.raises(ValueError, match="settings are given as"):
            values(wrong)


def test_settings_change_a_configuration_and_unknown_ones_are_named() -> None:
    config = configured(preset("small"), {"model.latent_dim": 8, "objective.sigreg_weight": 1})
    assert (config.model.latent_dim, config.objective.sigreg_weight) == (8, 1.0)
    with pytest.raises(ValueError, match=r"there is no setting model.latents; model has image_size"):
        configured(preset("small"), {"model.latents": 8})


def test_one_setting_at_a_time_or_all_combinations() -> None:
    vary = ("model.latent_dim=8,16", "objective.sigreg_weight=0,0.1,0.2")
    options = Options(env="two_room", data=Path(), output=Path(), vary=vary, seeds=2)
    assert len(cells(options)) == (2 + 3) * 2
    grid = cells(Options(env="two_room", data=Path(), output=Path(), vary=vary, seeds=2, grid=True))
    assert len(grid) == 2 * 3 * 2
    assert grid[0].name == "model.latent_dim=8,objective.sigreg_weight=0,seed=0"


def test_a_study_is_measured_once_drawn_and_shown(
    tiny_dataset: OfflineDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*run_on(tiny_dataset, tmp_path), "--vary", "model.latent_dim=4,8", "--planners", "small", "slow"]
    assert ablation.main(arguments) == 0
    results = json.loads((tmp_path / "ablation.json").read_text())["results"]
    assert [result["config"]["model"]["latent_dim"] for result in results] == [4, 8]
    assert 1 <= results[0]["held_out"]["effective_rank"] <= 4.001
    assert (tmp_path / "model.latent_dim.png").stat().st_size > 10_000
    assert "model.latent_dim=8" in capsys.readouterr().out
    model = LeWMAgent.from_pretrained(tmp_path / "model.latent_dim=4,seed=0" / "model")
    assert model.config.model.latent_dim == 4
    monkeypatch.setattr(LeWMAgent, "learn", lambda *_, **__: pytest.fail("learned again"))
    assert ablation.main(arguments) == 0


def test_the_weight_of_sigreg_is_searched_on_a_logarithmic_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a made-up success that is best at 0.05."""

    def pretended(_: Options, wanted: list[Cell]) -> list[dict[str, Any]]:
        weight = wanted[0].settings[ablation.LAMBDA]
        success = 100 - 20 * abs(np.log10(weight) - np.log10(0.05))
        judged = {"success": [{"success_rate": success}], "steps_correlation": 0}
        return [{"settings": cell.settings, "seed": cell.seed, **judged} for cell in wanted]

    monkeypatch.setattr(ablation, "run_cells", pretended)
    options = Options(env="two_room", data=Path(), output=Path(), seeds=2, trainings=12)
    results = ablation.search_lambda(options)
    best = max(results, key=ablation.mean_success)
    assert 0.035 < best["settings"][ablation.LAMBDA] < 0.07
    assert len(results) == 2 * len({result["settings"][ablation.LAMBDA] for result in results}) <= 2 * 13


def test_a_cluster_gives_the_same_as_this_machine(tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    """submitit's `debug` runs a job in this process; that what it is sent survives the journey is looked at besides."""
    tiny = ("model.image_size=16", "model.patch_size=8", "model.latent_dim=4", "planner.samples=8", "planner.elites=2")
    brief = ("training.epochs=1",)
    options = Options(
        env="two_room",
        data=tiny_dataset.path,
        output=tmp_path / "there",
        fix=(*tiny, "training.held_out_fraction=0.25", "training.batch_size=16", *brief),
        vary=("model.predictor_depth=1",),
        seeds=1,
        episodes=1,
        cluster="debug",
        cluster_options='{"timeout_min": 5}',
    )
    sent = (ablation.run_cell, options, cells(options))
    assert pickle.loads(pickle.dumps(sent)) == sent
    (there,) = ablation.run_cells(options, cells(options))
    here = ablation.run_cell(
        Options(**{**vars(options), "output": tmp_path / "here", "cluster": "none"}), cells(options)[0]
    )
    for result in (there, here):
        del result["model"]["name"]  # the folder it lies in
    assert there == here
    assert there["curves"] == here["curves"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "nothing to do: give --vary"),
        (["--vary", "model.latent_dim=0"], "latent_dim must be at least 1"),
        (["--vary", "model.latent_dim=8", "--fix", "training.epochs=1,2"], "takes one value"),
        (["--vary", "model.latent_dim=8", "--seeds", "0"], "seeds must be at least 1"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    given: list[str], message: str, tiny_dataset: OfflineDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablation.main([*run_on(tiny_dataset, tmp_path), *given]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
