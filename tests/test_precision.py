"""In which precision a model is trained and plans are made."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.tools import precision
from lewm_agent.tools.precision import bfloat16_gain, chosen_precision
from lewm_agent.training import run

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("asked", "gain", "found"),
    [
        ("auto", 2.0, "bfloat16"),
        ("auto", 1.2, "float32"),
        ("auto", 0.02, "float32"),
        ("float32", 2.0, "float32"),
        ("bfloat16", 1.2, "bfloat16"),
    ],
)
def test_auto_is_what_is_clearly_faster(asked: str, gain: float, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_gain", lambda: gain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen_precision(asked, CPU) == found
    assert chosen_precision("auto", torch.device("cuda")) == "bfloat16"


def test_a_slower_choice_is_followed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_gain", lambda: 0.25)
    with pytest.warns(UserWarning, match="4.0 times as slow as float32"):
        assert chosen_precision("bfloat16", CPU) == "bfloat16"


def test_the_gain_is_measured_once() -> None:
    assert bfloat16_gain() > 0
    assert bfloat16_gain() == bfloat16_gain()


def test_a_run_goes_on_in_the_precision_it_began_with(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = LeWMAgent("two_room", tiny_config).learn(tiny_dataset, tmp_path, progress=False)
    assert agent.description.training is not None and agent.description.training.precision == "float32"
    asked: list[str] = []

    def another(setting: str, device: torch.device) -> str:
        asked.append(setting)
        return "bfloat16"

    monkeypatch.setattr(run, "chosen_precision", another)
    again = LeWMAgent("two_room", tiny_config).learn(tiny_dataset, tmp_path, resume=True, progress=False)
    assert again.description.training is not None and again.description.training.precision == "float32"
    assert not asked


def test_planners_may_be_told_to_choose() -> None:
    assert PlannerConfig(precision="auto").precision == "auto"
