"""The evaluation: protocols, floors, determinism, the JSON and its refusals."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from lewm_agent import LeWMAgent
from lewm_agent.agents.behavior.policies import behavior_policy
from lewm_agent.datasets import OfflineDataset
from lewm_agent.envs import ENVIRONMENTS
from lewm_agent.envs.two_room.geometry import Geometry
from lewm_agent.eval import success_rate
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.watching.frame_decoder import FrameDecoder
from lewm_agent.eval.worlds import WORLDS
from lewm_agent.eval.worlds.held_out import Episode, draw_pairs, held_out_episodes
from lewm_agent.eval.worlds.protocols import Pair
from lewm_agent.eval.worlds.two_room import clean_crossing, legal_arrival, near_goal
from lewm_agent.evaluation import measuring
from lewm_agent.evaluation.intervals import rate
from lewm_agent.evaluation.journal import Journal
from lewm_agent.evaluation.playing import Player, Trace, play_floor
from lewm_agent.evaluation.suite import Suite
from lewm_agent.evaluation.trials import Trial

ENVIRONMENT = "lewm/TwoRoom-v0"
FIELDS = {
    "env",
    "protocol",
    "budget",
    "planner",
    "episodes",
    "seed",
    "pairs_sha256",
    "starts",
    "workers",
    "success_rate",
    "success_rate_ci95",
    "success_at_end",
    "start_solved_percent",
    "floors",
    "seconds_per_plan",
    "seconds_per_decision",
    "model",
    "versions",
    "hardware",
    "records",
}


def run(folder: Path, output: Path, *options: str) -> dict[str, object]:
    arguments = ["--env", "two_room", "--model", str(folder), "--episodes", "4", "--output", str(output), *options]
    assert success_rate.main(arguments) == 0
    return json.loads(output.read_text())


def test_the_json_holds_every_figure(trained_folder: Path, tmp_path: Path) -> None:
    result = run(trained_folder, tmp_path / "out.json", "--protocol", "moderate", "--seed", "3")
    assert result.keys() >= FIELDS
    assert len(result["records"]) == 4  # type: ignore[arg-type]
    names = {"random", "zero_action", "straight_line", "replay", "expert"}
    assert set(result["floors"]) == names  # type: ignore[call-overload]
    assert result["floors"]["replay"]["success_rate"] == 100  # type: ignore[index]
    assert result["floors"]["expert"]["success_rate"] == 100  # type: ignore[index]
    assert result["floors"]["zero_action"]["success_rate"] == 0  # type: ignore[index]
    assert result["start_solved_percent"] == 0
    low, high = result["success_rate_ci95"]  # type: ignore[misc]
    assert low <= result["success_rate"] <= high
    assert result["budget"] == 50


def test_far_goals_have_150_steps_and_no_replay(
    trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, record = [], measuring._record

    def counted(trial: Trial, trace: Trace, suite: Suite) -> dict[str, Any]:
        lengths.append(len(trace.states))
        return record(trial, trace, suite)

    monkeypatch.setattr(measuring, "_record", counted)
    one, two = (run(trained_folder, tmp_path / n, "--protocol", "far", "--num-envs", n) for n in ("1", "3"))
    assert one["budget"] == 150 and set(lengths) == {151}
    assert set(one["floors"]) == {"random", "zero_action", "straight_line", "expert"}  # type: ignore[call-overload]
    assert one["floors"]["expert"]["success_rate"] == 100  # type: ignore[index]
    assert (one["records"], one["floors"]) == (two["records"], two["floors"])


def test_an_agent_sees_varied_pairs_in_their_colors(
    trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backgrounds, predict = set(), LeWMAgent.predict

    def looked_at(agent: LeWMAgent, observation: Any, *rest: Any) -> Any:
        frames = np.concatenate([observation["pixels"], observation["goal"]])
        backgrounds.update(tuple(color) for color in np.median(frames, axis=(1, 2)).astype(int).tolist())
        return predict(agent, observation, *rest)

    monkeypatch.setattr(LeWMAgent, "predict", looked_at)
    result = run(trained_folder, tmp_path / "out.json", "--protocol", "varied", "--video", str(tmp_path / "gifs"))
    records: Any = result["records"]
    assert backgrounds == {tuple(record["factors"]["background_color"]) for record in records}
    gif = imageio.imread(tmp_path / records[0]["video"])
    shown = np.median(gif[0, 8:-8, 8:232].reshape(-1, 3), axis=0)
    assert np.abs(shown - records[0]["factors"]["background_color"]).max() < 8  # a GIF has 256 colors


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_expert_depends_on_seed_and_pair_alone(name: str) -> None:
    suite = dataclasses.replace(shipped(name, "far").first(2).suite(), budget=4)
    env = suite.make()
    expert = suite.floors(env)["expert"]
    _, second = play_floor(suite, env, expert, [0, 1])
    (alone,) = play_floor(suite, env, expert, [1])
    np.testing.assert_array_equal(second.states, alone.states)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_expert_comes_nearer_to_a_far_goal(name: str) -> None:
    suite = shipped(name, "far").first(1).suite()
    env = suite.make()
    (trace,) = play_floor(suite, env, suite.floors(env)["expert"], [0])
    assert trace.solved(suite.success, suite.trials[0]).any()


def test_one_environment_or_eight_give_the_same_result(trained_folder: Path, tmp_path: Path) -> None:
    one, eight = (run(trained_folder, tmp_path / f"{n}.json", "--num-envs", n) for n in ("1", "8"))
    assert one["records"] == eight["records"]
    assert one["floors"] == eight["floors"]
    other = run(trained_folder, tmp_path / "other.json", "--seed", "1")
    assert other["records"] != one["records"]


def test_videos_show_agent_and_goal(trained_folder: Path, tmp_path: Path) -> None:
    run(trained_folder, tmp_path / "out.json", "--video", str(tmp_path / "gifs"), "--videos", "2")
    gifs = sorted((tmp_path / "gifs").glob("*.gif"))
    assert len(gifs) == 2
    frames = imageio.imread(gifs[0])
    assert frames.shape[0] > 1 and frames.shape[2] > 1.8 * frames.shape[1] and frames.shape[3] == 3


def test_videos_also_show_what_the_plan_expects(
    trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = LeWMAgent.from_pretrained(trained_folder, device="cpu").world_model
    decoder = FrameDecoder.of(model)
    torch.nn.init.zeros_(decoder.draw[1].weight)
    torch.nn.init.constant_(decoder.draw[1].bias, 100.0)  # white, whatever is imagined
    decoder.save(tmp_path / "decoder.safetensors", model)
    options = ("--videos", "1", "--decoder", str(tmp_path / "decoder.safetensors"))
    run(trained_folder, tmp_path / "out.json", "--video", str(tmp_path / "gifs"), *options)
    (gif,) = (tmp_path / "gifs").glob("*.gif")
    frames = imageio.imread(gif)
    assert frames.shape[2] > 2.8 * frames.shape[1]
    left, middle, right = (part[:, 20:-20, 40:-40] for part in np.array_split(frames, 3, axis=2))
    assert middle.min() > 250 > max(left.min(), right.min())
    arguments = ["--env", "two_room", "--model", str(trained_folder), *options]
    assert success_rate.main(arguments) == 2
    assert "with --video" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env", "two_rom"], "no environment `two_rom`; did you mean `two_room`?"),
        (["--env", "two_room", "--episodes", "0"], "episodes must be at least 1, got 0"),
        (["--env", "two_room", "--num-envs", "0"], "num_envs must be at least 1, got 0"),
        (["--env", "two_room", "--model", "nothing"], "no model `nothing`"),
        (["--env", "two_room", "--device", "tpu"], "device 'tpu' is not available here"),
        (["--env", "two_room", "--planner", "papr"], "did you mean `paper`?"),
    ],
)
def test_bad_options_give_one_sentence(
    trained_folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    model = [] if "--model" in options else ["--model", str(trained_folder)]
    assert success_rate.main([*options, *model]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def saved_with(trained: Path, folder: Path, **changes: Any) -> Path:
    """The trained agent saved as if it had been trained elsewhere."""
    agent = LeWMAgent.from_pretrained(trained)
    agent.description = dataclasses.replace(agent.description, **changes)
    return agent.save_pretrained(folder / "model")


def test_drawn_looks_of_training_do_not_change_what_an_agent_is_measured_on(
    trained_folder: Path, tmp_path: Path
) -> None:
    arguments = LeWMAgent.from_pretrained(trained_folder).description.environment_kwargs
    folder = saved_with(trained_folder, tmp_path, environment_kwargs={**arguments, "drawn_looks": True})
    plain, drawn = run(trained_folder, tmp_path / "plain.json"), run(folder, tmp_path / "drawn.json")
    assert LeWMAgent.from_pretrained(folder).env.unwrapped.drawn_looks  # type: ignore[attr-defined]
    assert (drawn["records"], drawn["pairs_sha256"]) == (plain["records"], plain["pairs_sha256"])


def test_a_model_of_another_environment_is_refused(
    trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved_with(trained_folder, tmp_path, environment="lewm/Cube-v0")
    assert success_rate.main(["--env", "two_room", "--model", str(folder)]) == 2
    message = "the model was trained on lewm/Cube-v0, not on lewm/TwoRoom-v0"
    assert message in " ".join(capsys.readouterr().err.split())


def test_held_out_episodes_are_no_collected_ones(tiny_dataset: OfflineDataset) -> None:
    collected = np.stack([tiny_dataset.episode(i)["state"][0] for i in range(tiny_dataset.num_episodes)])
    episodes = held_out_episodes(ENVIRONMENT, seed=0)  # the seed the data were collected with
    for _ in range(tiny_dataset.num_episodes):
        _, episode = next(episodes)
        assert np.abs(collected - episode["state"][0]).max(axis=1).min() > 1e-6


def recorded(pair: Pair, episodes: dict[int, Episode]) -> Episode:
    """The recorded rows from start to goal."""
    return {name: episodes[pair.episode][name][pair.start : pair.start + 26] for name in ("state", "action")}


def test_pairs_follow_their_protocol() -> None:
    geometry = Geometry()
    for name in ("moderate", "strict"):
        pairs = draw_pairs(ENVIRONMENT, WORLDS["two_room"].protocol(name), 10, seed=0)
        episodes = dict(itertools.islice(held_out_episodes(ENVIRONMENT, 0), 1 + max(pair.episode for pair in pairs)))
        assert len({pair.episode for pair in pairs}) == 10
        for pair in pairs:
            assert geometry.room(pair.state) != geometry.room(pair.goal_state)
            rows = recorded(pair, episodes)
            assert clean_crossing(rows["state"], 16.0 if name == "moderate" else 8.0)
            np.testing.assert_array_equal(pair.state, rows["state"][0])
            np.testing.assert_array_equal(pair.goal_state, rows["state"][-1])
            np.testing.assert_array_equal(pair.actions, rows["action"][:-1])
    paper = shipped("two_room", "paper").pairs
    rooms = [geometry.room(pair.state) == geometry.room(pair.goal_state) for pair in paper]
    assert 0.7 < np.mean(rooms) < 0.9  # 81 % re-measured on the released behavior


def test_strict_success_needs_a_legal_route_through_the_door() -> None:
    goal = np.array([150.0, 49.0])
    through_door = np.linspace([80.0, 49.0], goal, 20)
    through_wall = np.linspace([80.0, 120.0], goal, 20)
    assert legal_arrival(through_door, goal)[-1]
    assert not legal_arrival(through_wall, goal).any()
    assert near_goal(through_wall, goal)[-1]
    assert not legal_arrival(through_door[10:], goal).any()  # never crossed
    assert not legal_arrival(through_door[:-3], goal).any()  # more than 8 px away


def test_crossings_that_touch_a_wall_or_start_solved_are_not_eligible() -> None:
    straight = np.linspace([80.0, 49.0], [150.0, 49.0], 26)
    assert clean_crossing(straight, 16.0)
    assert not clean_crossing(straight + np.array([0.0, 8.0]), 16.0)  # clips the door's edge
    assert not clean_crossing(np.linspace([40.0, 49.0], [80.0, 49.0], 26), 16.0)  # same room
    assert not clean_crossing(np.linspace([105.0, 49.0], [115.0, 49.0], 26), 16.0)  # solved at the start


def test_wilson_interval_of_a_known_case() -> None:
    # 48 of 50, as published for this method on Push-T: about 86.5 to 98.9.
    assert rate(48, 50)["success_rate_ci95"] == pytest.approx([86.54, 98.9], abs=0.05)


def test_expert_is_the_behavior_of_the_held_out_episodes() -> None:
    _, episode = next(held_out_episodes(ENVIRONMENT, seed=5))
    policy = behavior_policy("expert", gym.make(ENVIRONMENT))
    assert policy.action_noise == 2.0  # type: ignore[attr-defined]  # the paper's data
    assert np.abs(episode["action"][:-1]).max() <= 1


def test_two_processes_give_the_same_result(trained_folder: Path, tmp_path: Path) -> None:
    one = run(trained_folder, tmp_path / "one.json", "--num-envs", "2")
    two = run(trained_folder, tmp_path / "two.json", "--num-envs", "1", "--workers", "2")
    assert one["records"] == two["records"]


def test_an_interrupted_evaluation_continues(
    trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(trained_folder, tmp_path / "whole.json")
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--episodes", "4", "--num-envs", "1"]
    arguments += ["--output", str(tmp_path / "out.json")]
    play, played = Player.play, []

    def stop_before_the_third(player: Player, numbers: list[int], trials: list[Trial]) -> list[Trace]:
        if len(played) == 2:
            raise KeyboardInterrupt
        played.append(numbers)
        return play(player, numbers, trials)

    monkeypatch.setattr(Player, "play", stop_before_the_third)
    assert success_rate.main(arguments) == 130
    assert "the same command continues" in " ".join(capsys.readouterr().err.split())
    journal = tmp_path / "out.json.unfinished"
    journal.write_text(journal.read_text() + '{"pair": 2, "trace": {"sta')  # killed while writing a line
    played.clear()
    assert success_rate.main(arguments) == 0
    assert played == [[2], [3]]
    assert json.loads((tmp_path / "out.json").read_text())["records"] == whole["records"]
    assert not journal.exists()


def test_an_evaluation_that_is_interrupted_in_its_floors_continues_there(
    trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(trained_folder, tmp_path / "whole.json")
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--episodes", "4"]
    arguments += ["--output", str(tmp_path / "out.json")]
    played: list[int] = []

    def stop_after_six(suite: Suite, env: Any, floor: Any, numbers: list[int]) -> Any:
        for number, trace in zip(numbers, play_floor(suite, env, floor, numbers), strict=True):
            if len(played) == 6:
                raise KeyboardInterrupt
            played.append(number)
            yield trace

    monkeypatch.setattr(measuring, "play_floor", stop_after_six)
    assert success_rate.main(arguments) == 130
    assert played == [0, 1, 2, 3, 0, 1]  # of the second floor, two
    played[:] = [-1] * 7  # do not stop again
    assert success_rate.main(arguments) == 0
    assert played[7:9] == [2, 3] and len(played[7:]) == 2 + 3 * 4
    assert json.loads((tmp_path / "out.json").read_text())["floors"] == whole["floors"]


@pytest.mark.parametrize("garbage", ["}{", "[1]", "{}", '{"pair": 0, "trace": {"x": 1}}', '{"pair": 0, "floor": "a"}'])
def test_a_damaged_journal_is_named_in_one_sentence(garbage: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json.unfinished"
    request = {"protocol": "paper"}
    with Journal(path, request) as journal:
        journal.add_floor("random", 0, True)
    header, good = path.read_text().splitlines(keepends=True)
    path.write_text(header + garbage + "\n" + good)
    with pytest.raises(ValueError, match=r"out\.json\.unfinished is damaged in line 2: delete that line"):
        Journal(path, request)
    path.write_text(header + good + garbage)  # killed while writing the last line
    with Journal(path, request) as journal:
        assert journal.solved == {("random", 0): True}
    assert path.read_text() == header + good


def test_a_damaged_journal_ends_the_command(
    trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.json.unfinished").write_bytes(b"\xff\xfe\n")
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--output", str(tmp_path / "out.json")]
    assert success_rate.main(arguments) == 2
    assert "out.json.unfinishedisdamagedinline1" in "".join(capsys.readouterr().err.split())  # broken into lines
    assert (tmp_path / "out.json.unfinished").read_bytes() == b"\xff\xfe\n"


def test_what_another_evaluation_left_is_not_taken(trained_folder: Path, tmp_path: Path) -> None:
    whole = run(trained_folder, tmp_path / "whole.json")
    (tmp_path / "out.json.unfinished").write_text('{"pairs_sha256": "of others"}\n{"pair": 0, "trace": {}}\n')
    assert run(trained_folder, tmp_path / "out.json")["records"] == whole["records"]


def test_videos_are_of_the_nearest_failures_and_of_solved_pairs(trained_folder: Path, tmp_path: Path) -> None:
    options = ("--video", str(tmp_path / "gifs"), "--videos", "4", "--protocol", "paper")
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--episodes", "12", *options]
    assert success_rate.main([*arguments, "--output", str(tmp_path / "out.json")]) == 0
    records = json.loads((tmp_path / "out.json").read_text())["records"]
    shown = [record for record in records if record["video"]]
    failed = sorted((r for r in records if not r["success"]), key=lambda r: r["least_distance"])
    assert len(shown) == 4
    assert all((tmp_path / record["video"]).is_file() for record in shown)
    shown_failures = [record for record in failed if record["video"]]
    assert len(shown_failures) >= 2 and shown_failures == failed[: len(shown_failures)]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_was_played_outlives_a_stop_in_the_floors(
    trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    whole = run(trained_folder, tmp_path / "whole.json")
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--episodes", "4"]
    arguments += ["--output", str(tmp_path / "out.json")]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "play_floor", stop)
        assert success_rate.main(arguments) == 130
    monkeypatch.setattr(Player, "play", stop)  # nothing is left to play
    assert success_rate.main([*arguments, "--workers", workers]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["records"] == whole["records"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "whole.json"]
