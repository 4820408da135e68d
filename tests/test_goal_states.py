"""Goals in numbers: fitted after training, saved with the model, played on the same pairs as pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent, cli
from lewm_agent.agents.registry import make_agent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.eval import success_rate
from lewm_agent.evaluation.trials import Situation, Trial, goal_numbers
from lewm_agent.models.goal_states import GoalStates

NAN = float("nan")


class Pointer(gym.Env[Any, Any]):
    """Observes as Gymnasium-Robotics' environments do, and has no picture of its goal."""

    place = gym.spaces.Box(-1, 1, (2,), np.float32)
    observation_space = gym.spaces.Dict({"observation": place, "achieved_goal": place, "desired_goal": place})
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.at, self.goal = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        return self.observed(), {}

    def observed(self) -> Any:
        return {"observation": self.at, "achieved_goal": self.at, "desired_goal": self.goal}

    def step(self, action: Any) -> Any:
        self.at = np.clip(self.at + 0.2 * np.asarray(action, np.float32), -1, 1)
        return self.observed(), 0.0, False, False, {"is_success": bool(np.abs(self.at - self.goal).max() < 0.3)}

    def render(self) -> Any:
        frame = np.full((16, 16, 3), 255, np.uint8)
        x, y = ((self.at + 1) * 6).astype(int)
        frame[y : y + 4, x : x + 4] = 0
        return frame


gym.register("tests/Pointer-v0", Pointer, max_episode_steps=30)


@pytest.fixture
def trained(trained_folder: Path) -> LeWMAgent:
    return LeWMAgent.from_pretrained(trained_folder)


def test_training_fits_the_head_and_the_model_keeps_it(trained: LeWMAgent, tmp_path: Path) -> None:
    head = trained.model.goal_states
    assert head is not None and head.sizes == {"state": 2} and 0 < float(head.error) < 1.5
    again = LeWMAgent.from_pretrained(trained.save_pretrained(tmp_path / "again")).model.goal_states
    assert again is not None and torch.equal(again.error, head.error)
    told = trained.about().traits["goals in numbers"]
    assert told.startswith("state (2); held-out error")
    assert told in (tmp_path / "again" / "README.md").read_text()


def test_a_latent_of_numbers_is_near_that_of_the_frame_recorded_there(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset
) -> None:
    head = tiny_agent.learn_goal_states(tiny_dataset, progress=False).model.goal_states
    assert head is not None
    states, rows = tiny_dataset.column("state"), np.arange(0, tiny_dataset.num_frames, 10)
    with torch.inference_mode():
        latents = tiny_agent.model.encode(torch.as_tensor(tiny_dataset.read_frames(rows)))
        spread = (latents - latents.mean(0)).square().sum(1).mean()

        def error(numbers: Any) -> float:
            aimed = head(torch.as_tensor(head.vector(numbers)))
            return float((aimed - latents).square().sum(1).mean() / spread)

        whole, other = error(states[rows]), error(states[rows[::-1]])
        left_open = error(np.where([True, False], states[rows], np.nan))
    assert whole < 0.8 < other and whole < left_open < other


def test_acting_goes_on_towards_the_same_numbers_and_begins_anew_towards_others(
    trained: LeWMAgent, tiny_dataset: OfflineDataset
) -> None:
    frame = tiny_dataset.read_frames(np.array([0]))[0]
    for wanted, plans in (([100.0, NAN], 1), ({"state": [100.0, NAN]}, 1), ([120.0, NAN], 2)):
        action = trained.act(frame, goal_state=wanted)
        assert trained.action_space.contains(action) and trained._memory[0].plans == plans
    both = trained.predict({"pixels": np.stack([frame] * 2), "goal_state": np.array([[100.0, 50.0], [NAN, 20.0]])})[0]
    assert both.shape == (2, 2)
    alone = trained.predict({"pixels": frame, "goal_state": np.array([100.0, 50.0])})[0]
    np.testing.assert_array_equal(both[0], alone)


@pytest.mark.parametrize(
    "wanted",
    [
        [1.0],
        [[1.0, 2.0, 3.0]],
        {"speed": [1.0, 2.0]},
        {"state": [1.0, 2.0], "speed": [1.0, 2.0]},
        {},
        [np.inf, 1.0],
        [NAN, NAN],
        [[[1.0, 2.0]]],
        "left",
        [[1.0], [1.0, 2.0]],
        [1e30, 1.0],
        {"state": [[1.0, 2.0], [NAN, -5e3]]},
    ],
)
def test_numbers_that_cannot_be_are_one_sentence(trained: LeWMAgent, tiny_dataset: OfflineDataset, wanted: Any) -> None:
    told = r"(is state of 2 numbers|must have a finite number|must be numbers|state\[[01]\] is .* in the data it was)"
    with pytest.raises(ValueError, match=f"goal_state {told}"):
        trained.act(tiny_dataset.read_frames(np.array([0]))[0], goal_state=wanted)


def test_data_of_another_environment_are_refused(trained: LeWMAgent, tmp_path: Path) -> None:
    data = LeWMAgent("tests/Pointer-v0", trained.config).collect(tmp_path / "data", "random", 4, progress=False)
    with pytest.raises(ValueError, match="was recorded in tests/Pointer-v0, and the model was trained in lewm/TwoRoom"):
        trained.learn_goal_states(data, progress=False)


def test_one_goal_is_given_not_two(trained: LeWMAgent, tiny_dataset: OfflineDataset) -> None:
    frame = tiny_dataset.read_frames(np.array([0]))[0]
    with pytest.raises(ValueError, match="a goal image and a goal_state: give one"):
        trained.act(frame, frame, goal_state=[1.0, 2.0])


@pytest.mark.parametrize("kind", ["lewm", "gcbc"])
def test_without_the_head_it_is_said(tiny_config: AgentConfig, tiny_dataset: OfflineDataset, kind: str) -> None:
    agent: Any = make_agent(kind, "two_room", tiny_config)
    with pytest.raises(ValueError, match="takes goal images alone"):
        agent.act(tiny_dataset.read_frames(np.array([0]))[0], goal_state=[1.0, 2.0])
    with pytest.raises(ValueError, match="takes goal images alone"):
        agent.evaluate(goals=tiny_dataset, success="state:5", goal_state=True)


def test_columns_by_name_and_open_ones() -> None:
    head = GoalStates({"observation": 3, "achieved_goal": 2}, latent_dim=4)
    assert head.sizes == {"achieved_goal": 2, "observation": 3}
    np.testing.assert_array_equal(head.vector([1.0, 2.0]), [1, 2, NAN, NAN, NAN])
    np.testing.assert_array_equal(head.vector(head.vector([1.0, 2.0])), [1, 2, NAN, NAN, NAN])
    np.testing.assert_array_equal(head.vector({"observation": np.ones((2, 3))}), [[NAN, NAN, 1, 1, 1]] * 2)
    assert torch.isfinite(head(torch.as_tensor(head.vector([[1.0, NAN]])))).all()


def test_the_same_pairs_with_pictures_and_in_numbers(
    trained_folder: Path, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--goals", str(tiny_dataset.path)]
    arguments += ["--success", "state:9", "--episodes", "3", "--offset", "10"]
    for name, more in (("pictures", []), ("numbers", ["--goal-state"])):
        assert success_rate.main([*arguments, *more, "--output", str(tmp_path / name)]) == 0
    pictures, numbers = (json.loads((tmp_path / name).read_text()) for name in ("pictures", "numbers"))
    assert pictures["pairs_sha256"] == numbers["pairs_sha256"] and pictures["floors"] == numbers["floors"]
    assert "goal_state" not in pictures and numbers["goal_state"]["columns"] == {"state": 2}
    assert pictures["records"] != numbers["records"]


def test_the_command_fits_it_to_a_model_that_has_none(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_agent.model.goal_states = None
    model, output = str(tiny_agent.save_pretrained(tmp_path / "model")), str(tmp_path / "output")
    assert cli.main(["goal-states", model, str(tiny_dataset.path), output]) == 0
    assert cli.main(["info", output]) == 0
    assert "held-out error" in capsys.readouterr().out
    weights = LeWMAgent.from_pretrained(output).model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in tiny_agent.model.state_dict().items())


def test_goals_that_an_environment_tells_in_numbers_alone(tiny_config: AgentConfig, tmp_path: Path) -> None:
    agent = LeWMAgent("tests/Pointer-v0", tiny_config)
    data = agent.collect(tmp_path / "data", "random", episodes=8, progress=False)
    agent.learn(data, tmp_path / "run", workers=0, progress=False)
    with pytest.raises(ValueError, match="tell goals in numbers"):
        agent.evaluate(goals="task", progress=False)
    told: dict[str, Any] = {"goals": "task", "episodes": 3, "budget": 5, "goal_state": True, "progress": False}
    result = agent.evaluate(**told, output=tmp_path / "out.json", video=tmp_path / "gifs", videos=1)
    assert result["goal_state"]["columns"] == {"achieved_goal": 2, "observation": 2}
    assert len([*(tmp_path / "gifs").glob("*.gif")]) == 1
    assert agent.evaluate(**told, workers=2)["records"] == agent.evaluate(**told)["records"]


@pytest.mark.parametrize(
    ("observation", "info", "wanted", "expected"),
    [
        ({}, {"goal_state": [1, 2]}, {"state": np.array([3.0])}, {"state": [3.0]}),
        ({}, {"goal_state": [1, 2]}, {}, {"state": [1, 2]}),
        ({"desired_goal": [1]}, {}, {}, {"achieved_goal": [1]}),
        ({}, {"goal": np.array([4.0])}, {}, {"observation": [4.0]}),
    ],
)
def test_where_numbers_of_a_goal_come_from(observation: Any, info: Any, wanted: Any, expected: Any) -> None:
    found = goal_numbers(Situation(gym.Env(), observation, info), Trial(wanted=wanted))
    assert {name: np.asarray(values).tolist() for name, values in found.items()} == expected
    with pytest.raises(ValueError, match="nothing says this goal in numbers"):
        goal_numbers(Situation(gym.Env(), {}, {"goal": np.zeros((4, 4, 3))}), Trial())
