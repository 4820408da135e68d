"""Diagnosis: the figures of models that are known, verdicts, and what the command writes and refuses."""

from __future__ import annotations

import dataclasses
import html
import json
import types
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from torch import Tensor

from lewm_agent import LeWMAgent, cli
from lewm_agent.datasets import OfflineDataset
from lewm_agent.eval.diagnose import Paths, errors, nearest, rank_correlations, show
from lewm_agent.eval.reporting.diagnosis import RULES, Verdict, judge
from lewm_agent.eval.reporting.failures import READINGS, Failure, nearest_failures

TINY: dict[str, Any] = {"inverse_dynamics": None, "epochs": 0.1, "schedule_epochs": None, "batch_size": 16}


class Adding:
    """A world whose latent is the sum of all blocks, known exactly, or where actions are ignored."""

    def __init__(self, known: bool) -> None:
        self.config, self._known = types.SimpleNamespace(history=2), known

    def rollout(self, latents: Tensor, past_blocks: Tensor, blocks: Tensor) -> Tensor:
        assert past_blocks.shape[1] == latents.shape[1] - 1
        return latents[:, None, -1:] + (blocks.cumsum(2) if self._known else 0 * blocks)


def added(length: int = 12, count: int = 30) -> Paths:
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.randn(length - 1, 3, generator=generator) for _ in range(count)]
    return Paths([torch.cat([torch.zeros(1, 3), each.cumsum(0)]) for each in blocks], blocks)


def test_errors_of_a_model_that_knows_and_of_one_that_ignores_actions() -> None:
    knows, ignores = (errors(Adding(known), added(), np.random.default_rng(0)) for known in (True, False))  # type: ignore[arg-type]
    assert knows["model"] == pytest.approx([0] * 5, abs=1e-4)
    assert knows["nothing_changes"] == sorted(knows["nothing_changes"]) and knows["nothing_changes"][0] > 0.01
    assert min(knows["other_actions"]) > 0.01
    assert ignores["model"] == ignores["other_actions"] == ignores["nothing_changes"]


def test_short_episodes_give_fewer_blocks_or_are_refused() -> None:
    assert len(errors(Adding(True), added(length=5), np.random.default_rng(0))["model"]) == 3  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no held-out episode is longer than 2 action blocks"):
        errors(Adding(True), added(length=2), np.random.default_rng(0))  # type: ignore[arg-type]


def test_distance_that_grows_with_steps_in_the_planners_metric() -> None:
    along = torch.arange(25.0)[:, None]
    paths = Paths([torch.cat([along, 100 * torch.randn(25, 1)], dim=1)], [])
    metric = torch.diag(torch.tensor([1.0, 0.0]))
    assert rank_correlations(paths, metric)["1 to 20 blocks"] == 1
    assert abs(rank_correlations(paths, None)["1 to 20 blocks"] or 0) < 0.5
    assert rank_correlations(Paths([along[:2]], []), None)["6 to 20 blocks"] is None


def test_nearest_leaves_out_the_goals_own_episode() -> None:
    goals, shown = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0], [3.0, 4.0]])
    assert nearest(goals, shown, block=0.5) == [2]
    assert nearest(goals, shown, block=0.5, own=torch.tensor([[True, False]])) == [10]


def test_names_of_settings_are_whole_in_a_narrow_window(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    line = judge("far", 0.1, "measured")
    line = dataclasses.replace(line, advice="raise objective.straightening_weight_of_all")
    show({"env": "two_room", "episodes": 1, "frames": 2}, [line])
    last_column = [row.split("│")[-2].strip() for row in capsys.readouterr().out.splitlines() if "│" in row]
    assert "objective.straightening_weight_of_all" in "".join(last_column)


@pytest.mark.parametrize("figure", RULES)
def test_verdicts(figure: str) -> None:
    rule = RULES[figure]
    between = (rule.good + rule.poor) / 2
    verdicts = [judge(figure, value, "").verdict for value in (rule.good, between, rule.poor, None)]
    assert verdicts == [Verdict.GOOD, Verdict.FAIR, Verdict.POOR, Verdict.UNKNOWN]
    assert len({judge(figure, value, "").advice for value in (rule.good, rule.poor, None)}) >= 2


def test_a_goal_farther_than_unseen_frames_is_not_good_however_near_it_is() -> None:
    far = RULES["goals"].good / 2
    assert judge("goals", far, "", most=2 * far).verdict is Verdict.GOOD
    strange = judge("goals", far, "", most=far / 2)
    assert strange.verdict is Verdict.FAIR and strange.advice == RULES["goals"].advice
    assert judge("goals", RULES["goals"].poor, "", most=far).verdict is Verdict.POOR


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, the run of a tiny model on it, and the picture of a goal."""
    folder = tmp_path_factory.mktemp("diagnose")
    agent = LeWMAgent("two_room", "two_terms", device="cpu", encoder_depth=1, predictor_depth=1, **TINY)
    dataset = agent.collect(folder / "data", "expert", 16, seed=5, progress=False)
    agent.learn(dataset, folder / "run" / "training", progress=False)
    agent.save_pretrained(folder / "run" / "model")
    imageio.imwrite(folder / "goal.png", dataset.episode(0)["pixels"][-1])
    return folder


def diagnosed(folder: Path, model: str, *more: str) -> dict[str, Any]:
    output = folder / "diagnosis.json"
    assert cli.main(["diagnose", model, "--dataset", str(folder / "data"), "--output", str(output), *more]) == 0
    told: dict[str, Any] = json.loads(output.read_text())
    return told


def verdicts(told: dict[str, Any]) -> list[str]:
    return [line["verdict"] for line in told["lines"]]


def test_a_run_is_diagnosed_on_what_it_held_out(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = world / "page.html"
    told = diagnosed(world, str(world / "run"), "--page", str(page))
    shown = capsys.readouterr().out
    held_out = LeWMAgent.from_pretrained(world / "run").unseen_episodes(OfflineDataset(world / "data"))
    assert told["episodes"] <= len(held_out) < 16 and told["goals"]["of"] == "training episodes"
    assert told["env"] == "lewm/TwoRoom-v0" and told["command"] and told["model"]["weights_sha256"]
    assert len(told["lines"]) == len(RULES) and all(line["advice"] for line in told["lines"])
    text = html.unescape(page.read_text())
    assert all(line["name"] in text and line["advice"] in text for line in told["lines"])
    assert "://" not in text and "src=" not in text
    assert "verdict" in shown and diagnosed(world, str(world / "run")) == {**told, "command": told["command"]}


def test_a_good_model_is_told_from_one_that_has_learned_nothing(world: Path) -> None:
    """The bundled one has not seen these episodes, so goals are looked up among themselves."""
    good = diagnosed(world, "bundled:two_room")
    assert good["goals"]["of"] == "other episodes" and verdicts(good)[:3] == ["good"] * 3
    untrained = LeWMAgent("two_room", device="cpu", inverse_dynamics=None).save_pretrained(world / "untrained")
    assert verdicts(diagnosed(world, str(untrained)))[0] == "poor"


def test_given_goals_are_looked_up(world: Path) -> None:
    black = world / "black.png"
    imageio.imwrite(black, np.zeros((30, 40, 3), np.uint8))
    told = diagnosed(world, "bundled:two_room", "--goals", str(world / "goal.png"), str(black))
    shown, nowhere = told["goals"]["in_blocks"]
    assert shown < 1 < nowhere and told["goals"]["usual"] > shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bundled:reacher"], "is of lewm/TwoRoom-v0, the model of lewm/Reacher-v0"),
        (["bundled:two_room", "--episodes", "0"], "episodes must be at least 1"),
        (["nowhere"], "no model `nowhere`"),
        (["bundled:two_room", "--page", "."], "is a folder"),
    ],
)
def test_refusals(arguments: list[str], message: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diagnose", *arguments, "--dataset", str(world / "data")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def record(success: bool, distances: list[float], least: float | None = None) -> dict[str, Any]:
    return {"success": success, "latent_distances": distances, "least_distance": least, "final_distance": least}


@pytest.mark.parametrize(
    ("distances", "reading"),
    [([9, 4, 1], "as_near"), ([9, 8.5, 9], "no_nearer"), ([9, 3, 8], "away"), ([9, 6, 5], "on_its_way")],
)
def test_a_failure_is_read_from_its_trace(distances: list[float], reading: str) -> None:
    solved = [record(True, [9, 2, level]) for level in (1, 2, 5)]
    (found,) = nearest_failures([*solved, record(False, distances)], 3)
    assert (found.pair, found.reading) == (3, READINGS[reading])
    assert len(found.bars) == 3 and found.bars[0] == "█"


def test_failures_come_nearest_first_in_the_worlds_units_else_in_latents() -> None:
    told = [record(False, [5, 1], 3.0), record(False, [5, 4], 2.0), record(True, [5, 0], 0.0)]
    assert [one.pair for one in nearest_failures(told, 2)] == [1, 0]
    untold = [record(False, [5, 4]), record(False, [5, 1]), record(False, [5, 3])]
    assert [one.pair for one in nearest_failures(untold, 2)] == [1, 2]


def test_the_nearest_failures_of_an_evaluation_are_shown(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation, page = world / "evaluation.json", world / "failures.html"
    arguments = ["eval", "--env", "two_room", "--model", str(world / "run"), "--episodes", "4"]
    assert cli.main([*arguments, "--output", str(evaluation)]) == 0
    records = json.loads(evaluation.read_text())["records"]
    assert all(len(one["latent_distances"]) > 1 for one in records) and not all(one["success"] for one in records)
    told = diagnosed(world, str(world / "run"), "--evaluation", str(evaluation), "--page", str(page))
    assert [one["latent_distances"] for one in told["failures"]]
    assert set(told["failures"][0]) == {field.name for field in dataclasses.fields(Failure)}
    assert told["failures"][0]["reading"] in html.unescape(page.read_text())
    assert "nearest failures" in capsys.readouterr().out
    given = ["diagnose", "bundled:two_room", "--dataset", str(world / "data"), "--evaluation", str(evaluation)]
    assert cli.main(given) == 2
    assert "measured with another model" in " ".join(capsys.readouterr().err.split())
