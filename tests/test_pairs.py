"""Lists of pairs in files: the shipped ones and those a person makes."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from lewm_agent.envs import ENVIRONMENTS
from lewm_agent.envs.cube.env import cube_positions
from lewm_agent.envs.factors import Factors
from lewm_agent.envs.push_t.simulation import advance
from lewm_agent.envs.two_room.geometry import Geometry, disk_is_clear
from lewm_agent.eval import pairs, success_rate
from lewm_agent.eval.worlds import WORLDS
from lewm_agent.eval.worlds.held_out import held_out_episodes
from lewm_agent.eval.worlds.protocols import GOAL_OFFSET, PROTOCOL_NAMES, Pair, kind_and_offset
from lewm_agent.eval.worlds.world import make_environment, restore
from lewm_agent.evaluation.playing import play_floor

SHA256 = json.loads((pairs.FOLDER / "sha256.json").read_text())
SHIPPED = [tuple(stem.split("-", 1)) for stem in SHA256]
"""Name of a world and of a protocol."""


def pair_columns(made: pairs.PairList) -> list[tuple[Any, ...]]:
    return [tuple(np.asarray(getattr(pair, name)).tolist() for name in pairs.COLUMNS) for pair in made.pairs]


def looks(made: pairs.PairList) -> list[dict[str, Any]]:
    return [pair.factors for pair in made.pairs]


def separation(name: str, pair: Pair) -> float:
    """Of start and goal in the world's own measure, written out anew."""
    start, goal = pair.state, pair.goal_state
    if name == "cube":
        return float(np.linalg.norm(cube_positions(start) - cube_positions(goal), axis=-1).max())
    if name == "reacher":
        shoulder = np.angle(np.exp(1j * (start[0] - goal[0])))
        return float(max(abs(shoulder), abs(start[1] - goal[1])))
    return float(np.sqrt(((start[:4] - goal[:4]) ** 2).sum()))


@pytest.mark.parametrize(("name", "rules"), SHIPPED)
def test_shipped_lists_are_the_ones_that_results_were_measured_on(name: str, rules: str) -> None:
    made = pairs.shipped(name, rules)
    assert (made.environment, made.protocol, made.seed, len(made.pairs)) == (ENVIRONMENTS[name], rules, 7, 200)
    assert made.sha256() == SHA256[f"{name}-{rules}"]


def test_every_list_has_its_hash_and_every_protocol_a_list() -> None:
    assert sorted(SHA256) == sorted(file.stem for file in pairs.FOLDER.glob("*.safetensors"))
    assert {(name, rules) for name in ENVIRONMENTS for rules in PROTOCOL_NAMES} <= set(SHIPPED)


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("two_room", "paper"),
        ("two_room", "strict"),
        ("reacher", "moderate"),
        ("reacher", "varied"),
        ("two_room", "far"),
        ("two_room", "moderate-100"),
        ("reacher", "moderate-150"),
    ],
)
def test_shipped_lists_can_be_drawn_again(name: str, rules: str) -> None:
    few = 20 if kind_and_offset(rules)[1] == GOAL_OFFSET else 2
    count = 200 if WORLDS[name].protocol(rules).pool else few  # a pool is drawn from as a whole
    again, made = pairs.draw(name, rules, count, 7), pairs.shipped(name, rules).first(count)
    assert (pair_columns(again), looks(again)) == (pair_columns(made), looks(made))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_shipped_starts_and_goals_are_what_the_protocol_says(name: str) -> None:
    """Unsolved at the start where the protocol says so, and the environment can be put there."""
    for rules_name in (rules for world, rules in SHIPPED if world == name):
        rules = WORLDS[name].protocol(rules_name)
        made = pairs.shipped(name, rules_name).first(25)
        solved = [bool(rules.success(pair.state[None], pair.goal_state)[0]) for pair in made.pairs]
        assert rules_name == "paper" or not any(solved)
        suite = dataclasses.replace(made.first(1).suite({"image_size": 16}), budget=2)
        (trace,) = play_floor(suite, suite.make(), lambda trial, *_: np.zeros(trial.recorded.shape[1]), [0])
        assert len(trace.states) == 3
        np.testing.assert_allclose(trace.states[0], made.pairs[0].state, atol=1e-9)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_far_starts_and_goals_are_2_to_4_times_as_far_apart_as_moderate_ones(name: str) -> None:
    median = np.median([separation(name, pair) for pair in pairs.shipped(name, "moderate").pairs])
    told = WORLDS[name].far.moderate
    assert told == pytest.approx(median, rel=2e-4)
    far = pairs.shipped(name, "far").pairs
    assert all(2 * told <= separation(name, pair) <= 4 * told for pair in far)
    assert all(pair.episode % 2 == 0 and len(pair.actions) == 0 for pair in far)
    assert len({pair.episode for pair in far}) == len(far)
    at_rest = WORLDS[name].moderate.start
    assert all(np.array_equal(at_rest(pair.state), pair.state) for pair in far)


def test_recorded_actions_of_push_t_still_lead_to_the_goal() -> None:
    """The list is older than the simulation may be, which must not move differently from then on."""
    for pair in pairs.shipped("push_t", "paper").first(20).pairs:
        state = pair.state
        for action in pair.actions:
            state = advance(state, action)
        np.testing.assert_allclose(state, pair.goal_state, rtol=0, atol=1e-9)


def test_far_goals_are_rows_of_the_episode_after_that_of_the_start() -> None:
    made = pairs.shipped("two_room", "far").first(4).pairs
    episodes = dict(itertools.islice(held_out_episodes("lewm/TwoRoom-v0", 7), made[-1].episode + 2))
    geometry = Geometry()
    for pair in made:
        np.testing.assert_array_equal(episodes[pair.episode]["state"][pair.start], pair.state)
        assert (episodes[pair.episode + 1]["state"] == pair.goal_state).all(axis=1).any()
        assert geometry.room(pair.state) != geometry.room(pair.goal_state)
        assert disk_is_clear(pair.state, geometry) and disk_is_clear(pair.goal_state, geometry)


def test_far_rooms_must_differ_and_be_clear_of_walls() -> None:
    starts = np.array([[40.0, 60.0], [40.0, 180.0], [18.0, 60.0]])  # the last one touches the border
    goals = np.array([[180.0, 60.0], [60.0, 60.0], [130.0, 60.0], [203.0, 30.0], [116.0, 190.0]])
    legal = WORLDS["two_room"].far.apart(starts, goals)  # the second is in the same room, the last one in the wall
    assert legal.tolist() == [[True, False, False, True, False], [True, False, True, False, False], [False] * 5]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_varied_pairs_are_the_moderate_ones_in_other_colors(name: str) -> None:
    moderate, varied = pairs.shipped(name, "moderate"), pairs.shipped(name, "varied")
    assert pair_columns(varied) == pair_columns(moderate) and varied.sha256() != moderate.sha256()
    factors = make_environment(ENVIRONMENTS[name], {}).unwrapped.factors
    usual = colors_of(factors)
    for look in looks(varied):
        assert set(look) == set(usual) | set(factors.drawn_sizes)
        changed = colors_of(factors.changed(look))
        change = np.array([changed[name] for name in usual]) - np.array(list(usual.values()))
        assert 0 < np.abs(change).max() <= 60
    assert len({json.dumps(look) for look in looks(varied)}) == len(varied.pairs)
    assert not any(looks(moderate))


def colors_of(factors: Factors) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(factors).items() if name.endswith("_color")}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_look_changes_both_pictures_and_no_motion(name: str) -> None:
    plain, varied = (pairs.shipped(name, rules).pairs[0] for rules in ("moderate", "varied"))
    env = make_environment(ENVIRONMENTS[name], {"image_size": 32})
    seen = []
    for pair in (plain, varied):
        restore(env, pair, pair.state)
        frames = [np.asarray(env.render()), env.unwrapped.goal_frame()]  # type: ignore[attr-defined]
        seen.append((frames, [env.step(action)[-1]["state"].tolist() for action in pair.actions[:5]]))
    (frames, states), (other_frames, other_states) = seen
    assert states == other_states
    changes = [np.abs(a.astype(float) - b).mean() for a, b in zip(frames, other_frames, strict=True)]
    assert min(changes) > 2


@pytest.mark.parametrize("rules", ["moderate", "varied", "far"])
def test_a_saved_list_is_the_same_list(rules: str, tmp_path: Path) -> None:
    made = pairs.draw("two_room", rules, 3, seed=1)
    made.save(tmp_path / "list.safetensors")
    again = pairs.load(tmp_path / "list.safetensors")
    assert pair_columns(again) == pair_columns(made) and looks(again) == looks(made)
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


@pytest.mark.parametrize(("name", "rules"), [entry for entry in SHIPPED if entry[1].startswith("moderate-")])
def test_goals_are_as_many_recorded_steps_away_as_asked_and_there_is_twice_the_time(name: str, rules: str) -> None:
    made, offset = pairs.shipped(name, rules), kind_and_offset(rules)[1]
    assert rules == f"moderate-{offset}" and all(len(pair.actions) == offset for pair in made.pairs)
    assert len({pair.episode for pair in made.pairs}) == len(made.pairs)
    assert made.first(1).suite().budget == 2 * offset
    at_rest = WORLDS[name].moderate.start
    assert all(np.array_equal(at_rest(pair.state), pair.state) for pair in made.pairs)


def test_an_offset_is_drawn_and_named_in_the_result(trained_folder: Path, tmp_path: Path) -> None:
    written = tmp_path / "out.json"
    options = ["--env", "two_room", "--protocol", "moderate", "--offset", "6", "--episodes", "2", "--seed", "1"]
    assert success_rate.main([*options, "--model", str(trained_folder), "--output", str(written)]) == 0
    result = json.loads(written.read_text())
    assert (result["protocol"], result["budget"]) == ("moderate-6", 12)
    assert result["pairs_sha256"] == pairs.draw("two_room", "moderate-6", 2, 1).sha256()


def refusal(options: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert success_rate.main(["--env", "two_room", *options]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_lists_that_do_not_fit_are_refused_in_one_sentence(
    trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, foreign, damaged = (tmp_path / f"{name}.safetensors" for name in ("other", "foreign", "damaged"))
    pairs.draw("two_room", "moderate", 2, seed=1).save(other)
    safetensors.numpy.save_file({"state": np.zeros(2)}, foreign)
    damaged.write_bytes(other.read_bytes()[:100])
    model = ["--model", str(trained_folder), "--episodes", "2"]
    strict = [*model, "--protocol", "strict", "--pairs", str(other)]
    assert "made for lewm/TwoRoom-v0 and moderate, not for lewm/TwoRoom-v0 and strict" in refusal(strict, capsys)
    assert "is not a list of pairs" in refusal([*model, "--pairs", str(foreign)], capsys)
    assert "is damaged or not a list of pairs" in refusal([*model, "--pairs", str(damaged)], capsys)
    assert "there is no list of pairs at" in refusal([*model, "--pairs", str(tmp_path / "none")], capsys)
    assert "not both" in refusal([*model, "--pairs", str(other), "--seed", "1"], capsys)
    many = ["--model", str(trained_folder), "--episodes", "201"]
    assert "the list of pairs holds 200, not 201" in refusal(many, capsys)
    here = ["--model", str(trained_folder), "--offset"]
    assert "the offset of protocol `strict` cannot be chosen" in refusal(["--protocol", "strict", *here, "50"], capsys)
    moderate = ["--protocol", "moderate", *here]
    assert "no list of moderate-60 pairs of two_room ships, only of far, moderate, moderate-100" in refusal(
        [*moderate, "60"], capsys
    )
    for beyond in ("0", "151"):
        assert f"offset must be from 1 to 150, got {beyond}" in refusal([*moderate, beyond], capsys)
