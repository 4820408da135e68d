"""Attempts of an agent are recorded like any episodes, with the model that made them, their goals and their success."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from lewm_agent import AgentConfig, LeWMAgent, cli, collecting_agent
from lewm_agent.attempts.playing import with_noise
from lewm_agent.datasets import OfflineDataset, episode_seed
from lewm_agent.inspection import describe
from lewm_agent.planning.episodes import EpisodeMemory

BUDGET = 6


@pytest.fixture
def agent(trained_folder: Path) -> LeWMAgent:
    return LeWMAgent.from_pretrained(trained_folder, device="cpu")


@pytest.fixture
def two_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting_agent, "collect", functools.partial(collecting_agent.collect, shard_episodes=2))


def attempts(agent: LeWMAgent, path: Path, episodes: int = 4, **options: Any) -> OfflineDataset:
    return agent.collect(path, "self", episodes, **{"budget": BUDGET, "progress": False, **options})


def columns(data: OfflineDataset) -> list[dict[str, np.ndarray]]:
    return [data.episode(number) for number in range(data.num_episodes)]


def same(one: OfflineDataset, other: OfflineDataset) -> bool:
    pairs = zip(columns(one), columns(other), strict=True)
    return all(np.array_equal(a[name], b[name], equal_nan=name == "action") for a, b in pairs for name in a)


def test_the_metadata_tell_which_model_attempted_what_and_with_what_success(agent: LeWMAgent, tmp_path: Path) -> None:
    data = attempts(agent, tmp_path / "data", budget=60)
    told = json.loads((tmp_path / "data" / "metadata.json").read_text())
    assert told["attempts"]["weights_sha256"] == agent.weights_sha256() and told["attempts"]["agent"] == "lewm"
    assert told["attempts"]["goals"] == {"protocol": "task"} and told["attempts"]["planner"] == agent.planner_settings
    reached = [episode["goal_reached"][1:].any() for episode in columns(data)]
    assert told["reached"] == sum(reached)
    for episode, solved in zip(columns(data), reached, strict=True):
        assert episode["terminated"].any() == solved == bool(episode["goal_reached"][-1])
        assert solved or (len(episode["action"]) == 61 and episode["truncated"].tolist()[-2:] == [True, False])
    assert describe(str(tmp_path / "data"))["attempts"] == f"{sum(reached)} of 4 reached their goal (protocol task)"


def test_goals_of_the_environment_are_those_of_its_resets(agent: LeWMAgent, tmp_path: Path) -> None:
    data = attempts(agent, tmp_path / "data", seed=3)
    for number, episode in enumerate(columns(data)):
        _, info = agent.env.reset(seed=episode_seed(3, number))
        np.testing.assert_allclose(episode["state"][0], info["state"])
        np.testing.assert_allclose(episode["goal_state"][-1], info["goal_state"])


@pytest.mark.usefixtures("two_a_shard")
def test_the_data_do_not_depend_on_processes_or_interruptions(agent: LeWMAgent, tmp_path: Path) -> None:
    whole = attempts(agent, tmp_path / "whole", noise=0.2)
    attempts(agent, tmp_path / "grown", 2, noise=0.2)
    assert same(attempts(agent, tmp_path / "grown", noise=0.2), whole)
    assert same(attempts(agent, tmp_path / "two", num_envs=2, noise=0.2), whole)
    assert [place.name for place in tmp_path.iterdir() if "model" in place.name] == []


def test_noise_changes_actions_within_their_bounds(agent: LeWMAgent, tmp_path: Path) -> None:
    clean, noisy = (attempts(agent, tmp_path / str(noise), noise=noise) for noise in (0.0, 0.9))
    assert not same(clean, noisy)
    actions = noisy.actions[~np.isnan(noisy.actions).any(axis=1)]
    assert (np.abs(actions) <= 1).all() and (np.abs(actions) == 1).any()


def test_noise_among_choices_takes_another_at_random() -> None:
    rng, choice = np.random.default_rng(0), np.array([0, 0, 1], np.float32)
    taken = np.array([with_noise(choice, 0.5, None, rng) for _ in range(300)])
    assert (taken.sum(axis=1) == 1).all() and set(taken.argmax(axis=1)) == {0, 1, 2}
    assert 0.6 < (taken.argmax(axis=1) == 2).mean() < 0.75  # a third of the random ones as well


def test_the_history_is_of_what_was_executed(agent: LeWMAgent) -> None:
    codec = agent.world_model.codec
    memory = EpisodeMemory(0, executing=(codec.mean, codec.mean + 1))
    executed = np.array([0.5, -0.25], np.float32)
    changed = agent.controller.instead(memory, executed)
    assert changed.executing[0] is memory.executing[0]
    np.testing.assert_allclose(codec.denormalize(changed.executing[1]).numpy(), executed, atol=1e-6)


def test_goals_of_a_dataset_are_drawn_from_its_training_episodes(
    agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    data = attempts(agent, tmp_path / "data", 8, goals=tiny_dataset, offset=10, budget=None)
    told = data.metadata
    assert told is not None and told.attempts is not None
    assert told.attempts["goals"] == {"protocol": "recorded", "dataset": str(tiny_dataset.path), "offset": 10}
    assert max(data.episode_lengths) <= 21
    held_out = agent.unseen_episodes(tiny_dataset)
    states = {number: tiny_dataset.column("state", [number]) for number in range(12)}
    for episode in columns(data):
        start, goal = episode["state"][0], episode["goal_state"][0]
        homes = [n for n, rows in states.items() if np.isclose(rows, start).all(axis=1).any()]
        assert homes and not set(homes) <= set(held_out.tolist())
        assert any(np.isclose(states[home], goal, atol=1e-4).all(axis=1).any() for home in homes)


def test_it_learns_from_its_attempts(agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    data = attempts(agent, tmp_path / "data", 6, budget=25)
    before = agent.weights_sha256()
    agent.learn([tiny_dataset, data], tmp_path / "run", weights=[0.5, 0.5], epochs=0.1, progress=False)
    record = agent.description.training
    assert record is not None and f"6 episodes, policy self {before[:12]}, seed 0, weight 0.5" in record.data


def test_a_start_at_its_goal_is_drawn_anew(agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    near = attempts(agent, tmp_path / "near", 4, goals=tiny_dataset, offset=5)
    assert all(not episode["goal_reached"][0] for episode in columns(near))
    refused(agent, tmp_path / "none", "100 starts that were drawn are all at their goals", success=always)


def always(env: Any, info: dict[str, Any], wanted: Any) -> bool:
    return True


class NoPicture(gym.Env[Any, Any]):
    """Draws itself, but not its goal."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (2,))
    render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {"is_success": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), 0.0, False, False, {"is_success": False}

    def render(self) -> Any:
        return np.zeros((16, 16, 3), np.uint8)


def refused(agent: LeWMAgent, path: Path, sentence: str, policy: Any = "self", **options: Any) -> None:
    with pytest.raises(ValueError, match=sentence):
        agent.collect(path, policy, 2, progress=False, **options)
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"noise": 1.5}, "noise must be from 0 to 1, a share of half the range of actions, got 1.5"),
        ({"noise": float("nan")}, "noise must be from 0 to 1"),
        ({"budget": 0}, "budget must be a whole number of at least 1, got 0"),
        ({"goals": "nowhere"}, "there are no goals 'nowhere'"),
        ({"policy": "random", "noise": 0.1}, "goals, success, budget and noise are of attempts: give policy='self'"),
        ({"policy": "expert", "goals": "task"}, "goals, success, budget and noise are of attempts"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    agent: LeWMAgent, options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    refused(agent, tmp_path / "data", sentence, **options)


def test_an_agent_that_has_learned_nothing_or_of_other_actions_makes_no_attempts(
    agent: LeWMAgent, tiny_config: AgentConfig, tmp_path: Path
) -> None:
    untrained = LeWMAgent("two_room", tiny_config)
    refused(untrained, tmp_path / "data", "an agent that has learned nothing has no attempts worth recording")
    other = LeWMAgent(NoPicture(), tiny_config)
    by_another = untrained.collect(tmp_path / "by-another", agent, 2, budget=BUDGET, progress=False)
    assert same(by_another, attempts(agent, tmp_path / "own", 2))
    choices = LeWMAgent("CartPole-v1", tiny_config)
    refused(choices, tmp_path / "data", r"has learned actions from \[-1.0, -1.0\] .*: give an agent of this", agent)
    refused(other, tmp_path / "data", r"the environment has no picture of its goal", agent, budget=5)


def test_a_folder_of_another_model_or_noise_is_not_continued(
    agent: LeWMAgent, tiny_config: AgentConfig, tmp_path: Path
) -> None:
    attempts(agent, tmp_path / "data", 2)
    with pytest.raises(ValueError, match=r"holds a dataset with attempts {'noise': 0.0}, asked for is {'noise': 0.5}"):
        attempts(agent, tmp_path / "data", 2, noise=0.5)
    agent.world_model.action_mean.add_(0.5)
    with pytest.raises(ValueError, match=r"holds a dataset with policy 'self \w{12}', asked for is 'self \w{12}'"):
        attempts(agent, tmp_path / "data", 2)


def test_the_command(trained_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["collect", "--env", "two_room", "--path", str(tmp_path / "data"), "--episodes", "2", "--budget", "3"]
    assert cli.main([*given, "--policy", "self", "--model", str(trained_folder), "--noise", "0.1"]) == 0
    told = OfflineDataset(tmp_path / "data").metadata
    assert told is not None and told.attempts is not None and told.attempts["noise"] == 0.1
    assert cli.main([*given[:4], str(tmp_path / "other"), "--model", str(trained_folder)]) == 2
    assert "--model makes attempts of its own: it goes with --policy self" in " ".join(capfd.readouterr().err.split())
    wrong = ["collect", "--env", "reacher", "--path", str(tmp_path / "other"), "--policy", "self"]
    assert cli.main([*wrong, "--model", str(trained_folder)]) == 2
    assert "was trained on lewm/TwoRoom-v0, not on lewm/Reacher-v0" in " ".join(capfd.readouterr().err.split())
