"""OGBench's own goals: numbered tasks, their pictures and their success, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from lewm_agent import environment
from lewm_agent.evaluation.goals import TaskGoals
from lewm_agent.evaluation.success import InfoSays
from lewm_agent.evaluation.trials import begin, goal_picture, step


@pytest.mark.parametrize("name", ["ogbench:pointmaze-medium-v0"])
def test_a_task_has_a_goal_that_its_seed_decides(name: str) -> None:
    env = environment.make(name, 32)
    trials = TaskGoals().trials(env, 6, seed=0)
    assert [trial.about["task"] for trial in trials] == [1, 2, 3, 4, 5, 1]
    first, again = begin(env, trials[1]), begin(env, trials[1])
    np.testing.assert_array_equal(first.observation, again.observation)
    np.testing.assert_array_equal(goal_picture(first, trials[1]), goal_picture(again, trials[1]))
    assert not np.array_equal(first.observation, first.info["goal"])
    moved = step(again, env.action_space.high)
    assert InfoSays().measure(moved, trials[1]).tolist() == [0.0] and "success" in moved.info
