"""Lists of pairs in files: the shipped ones and those a person makes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from lewm_agent.envs import ENVIRONMENTS
from lewm_agent.eval import pairs, success_rate
from lewm_agent.eval.protocols import PROTOCOLS, protocol
from lewm_agent.eval.rollouts import play_floor

SHA256 = json.loads((pairs.FOLDER / "sha256.json").read_text())


def pair_columns(made: pairs.PairList) -> list[tuple[Any, ...]]:
    return [tuple(np.asarray(getattr(pair, name)).tolist() for name in pairs.COLUMNS) for pair in made.pairs]


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("rules", ["paper", "moderate", "strict"])
def test_shipped_lists_are_the_ones_that_results_were_measured_on(name: str, rules: str) -> None:
    made = pairs.shipped(name, rules)
    assert (made.environment, made.protocol, made.seed, len(made.pairs)) == (ENVIRONMENTS[name], rules, 7, 200)
    assert made.sha256() == SHA256[f"{name}-{rules}"]
    assert sorted(SHA256) == sorted(file.stem for file in pairs.FOLDER.glob("*.safetensors"))


@pytest.mark.parametrize(("name", "rules"), [("two_room", "paper"), ("two_room", "strict"), ("reacher", "moderate")])
def test_shipped_lists_can_be_drawn_again(name: str, rules: str) -> None:
    count = 200 if protocol(name, rules).pool else 20  # a pool is drawn from as a whole
    again = pairs.draw(name, rules, count, 7)
    assert pair_columns(again) == pair_columns(pairs.shipped(name, rules))[:count]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_shipped_starts_and_goals_are_what_the_protocol_says(name: str) -> None:
    """Unsolved at the start where the protocol says so, and the environment can be put there."""
    for rules_name, rules in PROTOCOLS[ENVIRONMENTS[name]].items():
        made = pairs.shipped(name, rules_name).first(25)
        solved = [bool(rules.success(pair.state[None], pair.goal_state)[0]) for pair in made.pairs]
        assert rules_name == "paper" or not any(solved)
        one = made.first(1)
        environment = success_rate._make(ENVIRONMENTS[name], {"image_size": 16, **rules.environment_kwargs})
        (trace,) = play_floor(lambda env=environment: env, one.pairs, lambda p, *_: np.zeros_like(p.actions[0]), 0)
        np.testing.assert_allclose(trace.states[0], one.pairs[0].state, atol=1e-9)


def test_a_saved_list_is_the_same_list(tmp_path: Path) -> None:
    made = pairs.draw("two_room", "moderate", 3, seed=1)
    made.save(tmp_path / "list.safetensors")
    again = pairs.load(tmp_path / "list.safetensors")
    assert pair_columns(again) == pair_columns(made)
    assert again.sha256() == made.sha256() != made.first(2).sha256()
    assert dataclasses.replace(again, pairs=[]) == dataclasses.replace(made, pairs=[])
    assert not list(tmp_path.glob("*.part"))


def test_the_command_makes_a_list_that_an_evaluation_takes(trained_folder: Path, tmp_path: Path) -> None:
    made, drawn, listed = tmp_path / "list.safetensors", tmp_path / "drawn.json", tmp_path / "listed.json"
    options = ["--env", "two_room", "--protocol", "strict", "--episodes", "3"]
    assert pairs.main([*options, "--seed", "1", "--output", str(made)]) == 0
    run = [*options, "--model", str(trained_folder)]
    assert success_rate.main([*run, "--pairs", str(made), "--output", str(listed)]) == 0
    assert success_rate.main([*run, "--seed", "1", "--output", str(drawn)]) == 0
    one, other = (json.loads(path.read_text()) for path in (listed, drawn))
    assert one["records"] == other["records"] and one["pairs_sha256"] == other["pairs_sha256"]


def refusal(options: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert success_rate.main(["--env", "two_room", *options]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_lists_that_do_not_fit_are_refused_in_one_sentence(
    trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, foreign, damaged = (tmp_path / f"{name}.safetensors" for name in ("other", "foreign", "damaged"))
    pairs.draw("two_room", "paper", 2, seed=1).save(other)
    safetensors.numpy.save_file({"state": np.zeros(2)}, foreign)
    damaged.write_bytes(other.read_bytes()[:100])
    model = ["--model", str(trained_folder), "--episodes", "2"]
    strict = [*model, "--protocol", "strict", "--pairs", str(other)]
    assert "made for lewm/TwoRoom-v0 and paper, not for lewm/TwoRoom-v0 and strict" in refusal(strict, capsys)
    assert "is not a list of pairs" in refusal([*model, "--pairs", str(foreign)], capsys)
    assert "is damaged or not a list of pairs" in refusal([*model, "--pairs", str(damaged)], capsys)
    assert "there is no list of pairs at" in refusal([*model, "--pairs", str(tmp_path / "none")], capsys)
    assert "not both" in refusal([*model, "--pairs", str(other), "--seed", "1"], capsys)
    many = ["--model", str(trained_folder), "--episodes", "201"]
    assert "the list of pairs holds 200, not 201" in refusal(many, capsys)
