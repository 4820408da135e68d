"""Every setting of an agent is a flag of ``lewm learn``, and no setting of another."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lewm_agent.agents import registry
from lewm_agent.agents.registry import agent_classes
from lewm_agent.commands import learn
from lewm_agent.datasets import OfflineDataset
from lewm_agent.planning import CEM, MPPI
from lewm_agent.planning.presets import planner_preset
from lewm_agent.presets import PRESETS


@pytest.fixture
def given(tiny_dataset: OfflineDataset, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command as far as the agent, and returns its configuration."""
    seen: list[Any] = []

    def stop(agent: str, env: Any, config: Any, **options: Any) -> None:
        seen.append(config)
        raise ValueError("far enough")

    monkeypatch.setattr(registry, "make_agent", stop)

    def config(*arguments: str) -> Any:
        common = ["--env", "two_room", "--dataset", str(tiny_dataset.path), "--output", "unused"]
        assert learn.main([*common, *arguments]) == 2
        return seen.pop()

    return config


@pytest.mark.parametrize(
    ("agent", "flags", "part", "setting", "value"),
    [
        ("lewm", ["--objective.sigreg-weight", "0.5"], "objective", "sigreg_weight", 0.5),
        ("pldm", ["--objective.variance-weight", "10"], "objective", "variance_weight", 10.0),
        ("gcivl", ["--policy.expectile", "0.7"], "policy", "expectile", 0.7),
        ("gcbc", ["--training.batch-size", "32"], "training", "batch_size", 32),
        ("dino_wm", ["--planner.samples", "99"], "planner", "samples", 99),
        ("lewm", ["--planner.search.stop-std", "0.1"], "planner", "search", CEM(0.1)),
    ],
)
def test_settings_of_an_agent_are_flags(
    given: Any, agent: str, flags: list[str], part: str, setting: str, value: object
) -> None:
    config = given("--agent", agent, "small", *flags)
    assert getattr(getattr(config, part), setting) == value


def test_a_preset_is_trained_as_it_is(given: Any) -> None:
    config = given("moments", "--training.epochs", "2")
    usual = PRESETS["moments"]
    assert (config.objective, config.planner, config.inverse_dynamics) == (
        usual.objective,
        usual.planner,
        usual.inverse_dynamics,
    )


def test_a_setting_that_does_not_apply_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--env", "two_room", "--dataset", "x", "--output", "y"]
    for foreign in (
        ["--agent=pldm", "small", "--objective.sigreg-weight", "1"],
        ["--search=mppi", "small", "--planner.search.stop-std", "1"],
    ):
        with pytest.raises(SystemExit):
            learn.main([*common, *foreign])
        assert "Unrecognized" in capsys.readouterr().err
    for foreign, sentence in (
        (["--agent", "gcbc", "--search", "mppi"], "`gcbc` does not plan, so it takes no search"),
        (["--search", "mmpi"], "no search `mmpi`"),
    ):
        assert learn.main([*common, *foreign]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("agent", ["lewm", "dino_wm"])
def test_another_search_brings_its_own_flags(given: Any, agent: str) -> None:
    config = given("--agent", agent, "--search", "mppi", "small", "--planner.search.temperature", "0.1")
    assert config.planner == dataclasses.replace(planner_preset("small"), search=MPPI(0.1))


@pytest.mark.parametrize("agent", sorted(agent_classes()))
def test_every_agent_has_a_command(agent: str) -> None:
    assert callable(learn.learner(agent, None, None))
