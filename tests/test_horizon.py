"""Success against distance, and the oracle's subgoals."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from lewm_agent import LeWMAgent
from lewm_agent.eval import horizon, pairs
from lewm_agent.eval.playing.solving import play_pair, play_shipped
from lewm_agent.eval.playing.subgoals import PATIENCE, ExpertWay, Guide, RecordedWay, Way
from lewm_agent.eval.worlds import WORLDS
from lewm_agent.eval.worlds.protocols import Pair, States
from lewm_agent.eval.worlds.world import make_environment, restore
from lewm_agent.evaluation.playing import pair_seed

WORLD = WORLDS["two_room"]
LINES = ["random", "expert", "amortised", "amortised, recorded 5 ahead", "amortised, expert 5 ahead"]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lists of near goals."""
    folder = tmp_path_factory.mktemp("lists")
    for name in ("moderate-6", "moderate-12"):
        pairs.draw("two_room", name, 3, seed=1).save(folder / f"two_room-{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def agent() -> LeWMAgent:
    return LeWMAgent.from_pretrained("two_room", planner="amortised", device="cpu")


def test_lines_are_played_once_and_drawn(lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "horizon.json"
    run = ["--env", "two_room", "--planners", "amortised", "--offsets", "12", "6", "--floors", "random", "expert"]
    run += ["--oracle", "recorded", "expert", "--ahead", "5", "--pairs", str(lists), "--output", str(output)]
    assert horizon.main([*run, "--episodes", "2"]) == 0
    points = json.loads(output.read_text())
    assert [(point["protocol"], point["line"]) for point in points] == [
        (protocol, line) for protocol in ("moderate-12", "moderate-6") for line in LINES
    ]
    for point in points:
        solved = sum(step is not None for step in point["solved_at"])
        assert (point["episodes"], point["success_rate"], point["seed"]) == (2, 50.0 * solved, 1)
        assert point["budget"] == 2 * point["offset"]
        assert all(step is None or 1 <= step <= point["budget"] for step in point["solved_at"])
    assert imageio.imread(output.with_suffix(".png")).std() > 10
    assert horizon.main([*run, "--episodes", "3"]) == 0
    longer = json.loads(output.read_text())
    assert [point["solved_at"][:2] for point in longer] == [point["solved_at"] for point in points]
    assert {point["episodes"] for point in longer} == {3}
    monkeypatch.setattr(horizon, "play_pair", lambda *_: pytest.fail("played again"))
    for episodes in ("3", "1"):
        assert horizon.main([*run, "--episodes", episodes]) == 0
        assert json.loads(output.read_text()) == longer


def test_without_a_guide_a_pair_goes_as_an_evaluation_has_it(agent: LeWMAgent) -> None:
    rules = WORLD.protocol("moderate")
    env = make_environment(WORLD.environment, {**agent.description.environment_kwargs, **rules.environment_kwargs})
    chosen = pairs.shipped("two_room", "moderate").first(2).pairs
    own = [play_pair(agent, env, rules, pair, pair_seed(0, number)) for number, pair in enumerate(chosen)]
    for (trace, solved), played in zip(play_shipped(agent, "two_room", "moderate", 2), own, strict=True):
        assert played.decisions == len(trace.actions)
        assert played.solved_at == (len(trace.actions) if solved else None)


def test_the_recorded_way_leads_to_the_goal_leg_by_leg() -> None:
    states = np.arange(12.0)[:, None]
    way, ends = RecordedWay(states, 5), []
    for _ in range(4):
        leg = way.next_leg(states[0])
        assert len(leg) >= 2 and (np.diff(leg[:, 0]) == 1).all()
        ends.append(leg[-1, 0])
    assert ends == [5, 10, 11, 11]


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_the_expert_goes_on_from_the_present_state_and_stops_at_the_goal(name: str) -> None:
    world = WORLDS[name]
    rules, pair = world.moderate, pairs.shipped(name, "moderate").pairs[0]
    env = make_environment(world.environment, rules.environment_kwargs)
    ahead = ExpertWay(world, env, rules, pair, 4)
    first = ahead.next_leg(pair.state)
    np.testing.assert_array_equal(first[0], pair.state)
    np.testing.assert_array_equal(ahead.next_leg(pair.state), first)
    assert len(first) == 5 and not np.array_equal(first[-1], pair.state)
    arrives = ExpertWay(world, env, rules, pair, 100).next_leg(pair.state)
    np.testing.assert_array_equal(arrives[:5], first)
    np.testing.assert_array_equal(arrives[-1], pair.goal_state)
    assert not rules.success(arrives[:-1], pair.goal_state).any()


class Counted(Way):
    """Goes to and fro between two states, five steps each way."""

    def __init__(self, pair: Pair) -> None:
        self.legs = [np.linspace(pair.state, pair.goal_state, 6), np.linspace(pair.goal_state, pair.state, 6)]
        self.taken = 0

    def next_leg(self, state: States) -> States:
        self.taken += 1
        return self.legs[(self.taken - 1) % 2]


def test_a_subgoal_is_kept_until_it_is_reached_or_overdue_and_memory_with_it(agent: LeWMAgent) -> None:
    pair = pairs.shipped("two_room", "moderate").pairs[0]
    env = make_environment(WORLD.environment, agent.description.environment_kwargs)
    way = Counted(pair)
    guide = Guide(agent, env, pair, way)
    restore(env, pair, pair.state)
    at_start, at_goal = np.asarray(env.render()), env.unwrapped.goal_frame()  # type: ignore[attr-defined]
    (memory,) = agent.initial_memories([0])
    for step in range(5 * PATIENCE):  # it does not move
        memory, target = guide.aimed(memory, at_start, [pair.state] * (step + 1))
        assert way.taken == 1
    np.testing.assert_array_equal(target, at_goal)
    _, (decided,) = agent.predict({"pixels": at_start[None], "goal": target[None]}, [memory])
    assert decided.plans == 1 and len(decided.latents) == 1
    kept, _ = guide.aimed(decided, at_start, [pair.state] * (5 * PATIENCE + 1))
    assert way.taken == 2 and kept.latents is decided.latents  # overdue
    guide.aimed(decided, at_start, [pair.state] * (5 * PATIENCE + 2))
    assert way.taken == 3  # the way back led to where it is: reached


def test_what_cannot_be_measured_is_refused_in_one_sentence(
    lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*options: str) -> str:
        run = ["--env", "two_room", "--pairs", str(lists), "--offsets", "6", "--output", str(tmp_path / "h.json")]
        assert horizon.main([*run, *options]) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "the list of pairs holds 3, not 4" in refusal("--episodes", "4")
    assert "two_room-moderate-9.safetensors" in refusal("--offsets", "9", "--episodes", "1")
    assert "--model is of one world" in refusal("--model", "other", "--env", "two_room", "cube")
    assert "--ahead must be at least 1" in refusal("--ahead", "0", "--episodes", "1")
    assert not list(tmp_path.iterdir())
    (tmp_path / "h.json").write_text('[{"line": 1}]')
    assert "is not JSON of this command" in refusal("--episodes", "1")
