"""Tasks of OGBench and Gymnasium-Robotics: the same agent, the same command, and nothing of ours for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.eval import success_rate


def test_an_arm_of_ogbench(tiny_config: AgentConfig) -> None:
    name = "visual-scene-v0"  # cubes go the same way, and each takes seconds
    agent = LeWMAgent(f"ogbench:{name}", tiny_config)
    told: dict[str, Any] = {"goals": "task", "episodes": 1, "budget": 1, "floors": False, "progress": False}
    result = agent.evaluate(**told)  # a reset compiles the scene anew, which takes seconds
    assert result["env"] == name and result["success"] == "is_success or success"
    assert [(record["task"], record["start_solved"]) for record in result["records"]] == [(1, False)]


def test_a_point_maze_of_ogbench_by_the_command(tiny_config: AgentConfig, tmp_path: Path) -> None:
    env = "ogbench:pointmaze-medium-v0"
    model = LeWMAgent(env, tiny_config).save_pretrained(tmp_path / "model")
    arguments = ["--env", env, "--model", str(model), "--goals", "task", "--episodes", "6", "--budget", "2"]
    arguments += ["--output", str(tmp_path / "out.json"), "--video", str(tmp_path / "gifs"), "--videos", "1"]
    assert success_rate.main(arguments) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert [record["task"] for record in result["records"]] == [1, 2, 3, 4, 5, 1]
    assert not any(record["start_solved"] for record in result["records"])
    assert set(result["starts"]) == {f"task_{n}" for n in range(1, 6)}
    assert len([*(tmp_path / "gifs").glob("*.gif")]) == 1


def test_goals_of_gymnasium_robotics_in_numbers(tiny_config: AgentConfig, tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    agent = LeWMAgent("gymnasium_robotics:PointMaze_UMaze-v3", tiny_config)
    data = agent.collect(tmp_path / "data", "random", episodes=2, frame_interval=5, progress=False)
    assert {"observation", "achieved_goal"} < set(data.columns)
    agent.learn_goal_states(data, progress=False)
    told: dict[str, Any] = {"goals": "task", "episodes": 2, "budget": 2, "floors": False, "progress": False}
    with pytest.raises(ValueError, match="tell goals in numbers"):
        agent.evaluate(**told)
    result = agent.evaluate(**told, goal_state=True)
    assert "achieved_goal" in result["goal_state"]["columns"] and len(result["records"]) == 2
