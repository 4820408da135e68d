"""An environment of one's own is evaluated as this package's are: goals from data, from itself or from a list."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import pytest

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.eval import report, success_rate
from lewm_agent.evaluation import measuring
from lewm_agent.evaluation.goal_images import GoalImages
from lewm_agent.evaluation.goals import RecordedGoals, goals_from
from lewm_agent.evaluation.playing import Player
from lewm_agent.evaluation.success import success_of
from lewm_agent.evaluation.trials import Trial


class Dot(gym.Env[Any, Any]):
    """A dot in a square; what it does besides depends on the test."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space: gym.spaces.Space[Any] = gym.spaces.Box(-1, 1, (2,), np.float32)
    goal = np.array([0.5, 0.5])

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = self.drawn()
        return self.told()

    def drawn(self) -> Any:
        return self.np_random.uniform(-1, 1, 2)

    def told(self) -> Any:
        return self.place.astype(np.float32), {}

    def step(self, action: Any) -> Any:
        self.place = np.clip(self.place + 0.1 * np.asarray(action), -1, 1)
        observation, info = self.told()
        return observation, 0.0, False, False, info

    def render(self) -> Any:
        return self.picture(self.place)

    def picture(self, place: Any) -> Any:
        frame = np.full((16, 16, 3), 255, np.uint8)
        x, y = ((place + 1) * 6).astype(int)
        frame[y : y + 4, x : x + 4] = 0
        return frame


class Settable(Dot):
    """Takes a start and a goal, and says when that is reached."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        given = options or {}
        self.place = np.asarray(given.get("state", self.place))
        self.goal = np.asarray(given.get("goal_state", self.goal))
        return self.told()

    def told(self) -> Any:
        near = bool(np.abs(self.place - self.goal).max() < 0.15)
        info = {"state": self.place, "goal_state": self.goal, "is_success": near, "distance": 0.0}
        return self.place.astype(np.float32), info

    def goal_frame(self) -> Any:
        return self.picture(self.goal)


class Global(Dot):
    """Draws from NumPy's global generator."""

    def drawn(self) -> Any:
        return np.random.uniform(-1, 1, 2)


class Unseeded(Dot):
    """Draws from a space that nobody seeds."""

    def drawn(self) -> Any:
        return gym.spaces.Box(-1, 1, (2,), np.float64).sample()


class Forgetful(Dot):
    """Begins anew wherever it likes."""

    calls = 0

    def drawn(self) -> Any:
        Forgetful.calls += 1
        return np.random.default_rng(Forgetful.calls).uniform(-1, 1, 2)


class Numbered(Settable):
    """Has numbered tasks, and draws their goals when asked to, as OGBench does."""

    num_tasks = 2

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.goal = np.full(2, 0.5 if (options or {}).get("task_id") == 1 else -0.5)
        observation, _ = super().reset(seed=seed)
        return observation, {"goal_rendered": self.picture(self.goal)}

    def told(self) -> Any:
        observation, info = super().told()
        return observation, {"success": float(info["is_success"])}


class Robotic(Dot):
    """Observes as Gymnasium-Robotics' environments do."""

    observation_space = gym.spaces.Dict(
        dict.fromkeys(("observation", "achieved_goal", "desired_goal"), Dot.observation_space)
    )

    def told(self) -> Any:
        place = self.place.astype(np.float32)
        observed = {"observation": place, "achieved_goal": place, "desired_goal": self.goal.astype(np.float32)}
        return observed, {"is_success": False}


class Four(Dot):
    """Goes in one of four directions, and ends at the edge."""

    action_space = gym.spaces.Discrete(4)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        observation, *_, info = super().step(np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[action])
        return observation, 0.0, bool(np.abs(self.place).max() == 1), False, info


KINDS = {kind.__name__: kind for kind in (Dot, Settable, Global, Unseeded, Forgetful, Numbered, Robotic, Four)}
for name, kind in KINDS.items():
    gym.register(f"tests/{name}-v0", kind, max_episode_steps=30)

Made = tuple[LeWMAgent, OfflineDataset]


@pytest.fixture(scope="module")
def made(tiny_config: AgentConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Agents with data of theirs; only those of Dot and Four have learned, and act for the others."""
    found: dict[str, Made] = {}
    for name in KINDS:
        folder = tmp_path_factory.mktemp(name)
        agent = LeWMAgent(f"tests/{name}-v0", tiny_config)
        episodes = 30 if name == "Four" else 8  # many of whose episodes end early
        data = agent.collect(folder / "data", "random", episodes=episodes, progress=False)
        if name in ("Dot", "Four"):
            agent.learn(data, folder / "run", workers=0, progress=False)
        else:
            agent.description, agent.model = found["Dot"][0].description, found["Dot"][0].model
        found[name] = agent, data
    return found


@pytest.mark.parametrize("name", ["Dot", "Global", "Unseeded", "Four"])
def test_recorded_starts_are_reached_by_seed_and_actions(made: dict[str, Made], name: str) -> None:
    agent, data = made[name]
    result = agent.evaluate(goals=data, success="observation:0.01", offset=4, episodes=5, progress=False)
    assert result["budget"] == 8 and result["env"] == f"tests/{name}-v0" and result["protocol"] == "recorded"
    assert result["floors"]["replay"]["success_rate"] == 100
    assert ("zero_action" in result["floors"]) == (name != "Four")
    for record in result["records"]:
        assert record["episode"] in agent.unseen_episodes(data)
        assert record["least_distance"] is not None


@pytest.mark.parametrize("name", ["Dot", "Settable"])
def test_every_row_is_reached_the_first_as_well(made: dict[str, Made], name: str) -> None:
    agent, data = made[name]
    source = RecordedGoals(data, offset=28, episodes=np.array([0, 1]))
    suite = agent.suite(goals=source, success="observation:0.1" if name == "Dot" else None, episodes=6)
    assert [trial.about for trial in suite.trials] == [
        {"episode": episode, "start_row": row} for episode in (0, 1) for row in (0, 1, 2)
    ]


def test_a_settable_environment_is_told_start_and_goal_and_says_itself_what_success_is(made: dict[str, Made]) -> None:
    agent, data = made["Settable"]
    suite = agent.suite(goals=data, offset=6, episodes=3)
    assert all(trial.options.keys() == {"state", "goal_state"} and not len(trial.actions) for trial in suite.trials)
    result = agent.evaluate(goals=data, offset=6, episodes=3, progress=False)
    assert result["floors"]["replay"]["success_rate"] == 100
    kinds = {"is_success", "success"}
    assert result["success"] == " or ".join(sorted(kinds))


def test_recorded_goals_of_an_environment_as_in_gymnasium_robotics(made: dict[str, Made]) -> None:
    agent, data = made["Robotic"]
    assert {"observation", "achieved_goal"} < set(data.columns)
    result = agent.evaluate(goals=data, success="achieved_goal:0.05", offset=4, episodes=3, progress=False)
    assert result["floors"]["replay"]["success_rate"] == 100
    with pytest.raises(ValueError, match="about a goal of its own"):
        agent.evaluate(goals=data, success="is_success", offset=4, episodes=3, progress=False)


def test_an_environment_that_does_not_come_back_is_refused(made: dict[str, Made]) -> None:
    agent, data = made["Forgetful"]
    with pytest.raises(ValueError, match=r"the environment does not come to row \d+ of episode"):
        agent.evaluate(goals=data, success="observation:0.01", episodes=3, progress=False)


def test_own_goals_and_numbered_tasks(made: dict[str, Made]) -> None:
    result = made["Settable"][0].evaluate(goals="task", episodes=3, progress=False)
    assert result["budget"] == 30 and "replay" not in result["floors"]
    agent, _ = made["Numbered"]
    result = agent.evaluate(goals="task", episodes=5, budget=4, progress=False)
    assert [record["task"] for record in result["records"]] == [1, 2, 1, 2, 1]
    assert {name: kind["pairs"] for name, kind in result["starts"].items()} == {"task_1": 3, "task_2": 2}
    assert all(record["least_distance"] is None for record in result["records"])
    with pytest.raises(ValueError, match="has no picture of its goal"):
        made["Dot"][0].evaluate(goals="task", progress=False)


def test_a_list_in_python_and_in_a_file(made: dict[str, Made], tmp_path: Path) -> None:
    agent, _ = made["Dot"]
    picture = Dot().picture(np.array([0.5, 0.5]))
    imageio.imwrite(tmp_path / "goal.png", picture)
    entry = {"seed": 3, "actions": [[1.0, 0.0]] * 2, "goal": "goal.png", "wanted": {"observation": [0.5, 0.5]}}
    (tmp_path / "goals.json").write_text(json.dumps([entry, {**entry, "seed": 4}]))
    trials = [
        Trial(seed, actions=[[1.0, 0.0]] * 2, goal=picture, wanted={"observation": np.array([0.5, 0.5])})
        for seed in (3, 4)
    ]
    given: list[Any] = [trials, tmp_path / "goals.json"]
    listed, filed = (
        agent.evaluate(goals=goals, success="observation[0:1]:0.1", budget=5, progress=False) for goals in given
    )
    assert listed["records"] == filed["records"] and listed["floors"] == filed["floors"]
    assert listed["episodes"] == 2 and listed["pairs_sha256"] == filed["pairs_sha256"]
    with pytest.raises(ValueError, match="say when a listed goal is reached"):
        agent.evaluate(goals=trials, budget=5, progress=False)


def reached(env: Any, info: dict[str, Any], goal: Any) -> bool:
    return bool(np.abs(env.place - goal["observation"]).max() < 0.1)


def test_the_command_says_what_python_says_whatever_the_processes(made: dict[str, Made], tmp_path: Path) -> None:
    agent, data = made["Dot"]
    agent.save_pretrained(tmp_path / "model")
    told = {"goals": str(data.path), "success": f"{__name__}:reached", "offset": 5, "episodes": 4, "seed": 2}
    python = agent.evaluate(**{**told, "success": reached}, progress=False)  # type: ignore[arg-type]
    arguments = [f"--{name}={value}" for name, value in told.items()]
    arguments += ["--env", "tests/Dot-v0", "--model", str(tmp_path / "model"), "--num-envs", "3"]
    output = tmp_path / "out.json"
    assert success_rate.main([*arguments, "--workers", "2", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert result["records"] == python["records"] and result["floors"] == python["floors"]
    assert result["pairs_sha256"] == python["pairs_sha256"]


def test_result_videos_and_report(made: dict[str, Made], tmp_path: Path) -> None:
    agent, data = made["Dot"]
    output = tmp_path / "out.json"
    options = {"offset": 5, "episodes": 4, "output": output, "video": tmp_path / "gifs", "videos": 2, "progress": False}
    result = agent.evaluate(goals=data, success="observation:0.1", **options)  # type: ignore[arg-type]
    assert json.loads(output.read_text()) == result
    shown = [record["video"] for record in result["records"] if record["video"]]
    assert len(shown) == 2 and all((tmp_path / path).is_file() for path in shown)
    made["Numbered"][0].evaluate(goals="task", episodes=2, budget=4, output=tmp_path / "t.json", progress=False)
    assert report.main([str(output), str(tmp_path / "t.json"), "--output", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert "observation:0.1" in page and "the environment&#39;s own" in page and "Numbered, protocol task" in page
    assert not list(tmp_path.glob("*.unfinished"))


def test_an_interrupted_evaluation_continues(
    made: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, data = made["Dot"]
    told: dict[str, Any] = {"goals": data, "success": "observation:0.1", "offset": 5, "episodes": 4, "progress": False}
    whole, played, play = agent.evaluate(**told), [], Player.play

    def stop_before_the_third(player: Player, numbers: Any, trials: Any) -> Any:
        if len(played) == 2:
            raise KeyboardInterrupt
        played.append(list(numbers))
        return play(player, numbers, trials)

    monkeypatch.setattr(Player, "play", stop_before_the_third)
    with pytest.raises(KeyboardInterrupt):
        agent.evaluate(**told, output=tmp_path / "out.json")
    played.clear()
    assert agent.evaluate(**told, output=tmp_path / "out.json")["records"] == whole["records"]
    assert played == [[2], [3]]
    assert measuring.UNFINISHED not in "".join(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "about a goal of its own, not about a recorded one; say when that is reached: observation:0.05"),
        ({"success": "is_success"}, "about a goal of its own"),
        ({"success": "state:0.1"}, "the environment has no column 'state'; it has observation"),
        ({"success": "observation[3:]:0.1"}, r"numbers of shape \(0,\)"),
        ({"success": "observation:-1"}, "a tolerance is a number of at least 0"),
        ({"success": "no_module_at_all:f"}, "no_module_at_all:f cannot be imported"),
        ({"success": "two words"}, "success is the name of a key of info"),
        ({"goals": "nowhere"}, "there are no goals 'nowhere'"),
        ({"goals": 3}, "goals are a dataset"),
        ({"success": "observation:0.1", "offset": 31}, "has 0 rows .* fewer than 5"),
        ({"success": "observation:0.1", "offset": 0}, "the offset must be"),
        ({"success": "observation:0.1", "budget": 0}, "budget must be"),
        ({"success": "observation:0.1", "env": "tests/Four-v0"}, "acts in other spaces"),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_the_work(
    made: dict[str, Made], asked: dict[str, Any], message: str
) -> None:
    agent, data = made["Dot"]
    with pytest.raises(ValueError, match=message):
        agent.evaluate(**{"goals": data, "episodes": 5, "progress": False, **asked})


def test_a_step_without_success_in_its_info_is_told(made: dict[str, Made]) -> None:
    trial = Trial(goal=Dot().picture(np.zeros(2)))
    with pytest.raises(ValueError, match="the environment's info has no is_success; say what success is"):
        made["Dot"][0].evaluate(goals=[trial], success="is_success", budget=3, progress=False)


def test_unseen_episodes(made: dict[str, Made], tiny_config: AgentConfig, tmp_path: Path) -> None:
    agent, data = made["Dot"]
    held_out = agent.unseen_episodes(data)
    assert len(held_out) == 2  # a quarter
    grown = agent.collect(tmp_path / "data", "random", episodes=11, progress=False)
    np.testing.assert_array_equal(agent.unseen_episodes(grown), [*held_out, 8, 9, 10])
    others = agent.collect(tmp_path / "others", "random", episodes=3, seed=5, progress=False)
    np.testing.assert_array_equal(agent.unseen_episodes(others), [0, 1, 2])
    assert len(LeWMAgent("tests/Dot-v0", tiny_config).unseen_episodes(data)) == 8


def test_stable_baselines_evaluates_on_goal_images(made: dict[str, Made]) -> None:
    from stable_baselines3.common.evaluation import evaluate_policy

    agent, data = made["Dot"]
    source = RecordedGoals(data, offset=5, episodes=agent.unseen_episodes(data))
    env = GoalImages(
        gym.make("tests/Dot-v0", render_mode="rgb_array"), source, success="observation:0.1", episodes=4, image_size=16
    )
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation) and info["is_success"] in (True, False)
    for _ in range(10):
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        assert terminated == info["is_success"]
        if terminated:
            break
    assert terminated or truncated
    env.reset(seed=3)  # the next one is the first again
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=4, warn=False)
    result = agent.evaluate(goals=source, success="observation:0.1", episodes=4, progress=False)
    assert 0 <= mean <= 1 and len(result["records"]) == 4


def test_a_part_of_a_column_is_measured() -> None:
    rule = success_of("observation[0:1]:0.1")
    trial = Trial(wanted={"observation": np.array([0.0, 9.0])})
    holds = rule.holds(np.array([[0.05], [0.2]]), trial)
    assert holds.tolist() == [True, False] and str(rule) == "observation[0:1]:0.1"


def test_goals_are_taken_as_they_are(made: dict[str, Made]) -> None:
    source = RecordedGoals(made["Dot"][1], offset=3)
    assert goals_from(source, 9) is source
    assert dataclasses.asdict(goals_from([]))["listed"] == []
