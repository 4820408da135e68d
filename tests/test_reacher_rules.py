"""The rules of evaluation on the reacher: what is solved, and which pairs count."""

from __future__ import annotations

import math

import numpy as np

from lewm_agent.agents.behavior.reacher_expert import ReacherExpert
from lewm_agent.envs.reacher.env import ReacherEnv
from lewm_agent.eval.worlds import reacher as reacher_rules


def test_rule_of_the_joints_is_the_success_of_the_environment() -> None:
    for wrap_shoulder in (True, False):
        env = ReacherEnv(wrap_shoulder=wrap_shoulder, terminate_on_success=False)
        _, info = env.reset(seed=0, options={"goal_state": [3.1, 0.5, 0.0, 0.0]})
        expert = ReacherExpert(env)
        states, told = [info["state"]], [info["is_success"]]
        for _ in range(60):
            info = env.step(expert(None, info))[4]
            states.append(info["state"])
            told.append(info["is_success"])
        solved = reacher_rules.joints_at_goal(np.array(states), info["goal_state"], wrap_shoulder)
        assert solved.tolist() == told
        assert set(told) == {True, False}


def test_rule_of_the_fingertip_wants_two_steps_in_a_row() -> None:
    goal = np.array([1.0, 0.5, 0.0, 0.0])
    near = np.array([1.03, 0.5, 2.0, 0.0])  # 7 mm away along the arc
    far = np.array([1.06, 0.5, 0.0, 0.0])  # 14 mm
    states = np.array([near, far, near, near, near, far, near])
    assert reacher_rules.fingertip_near_goal(states, goal).tolist() == [True, False, True, True, True, False, True]
    stays = [False, False, False, True, True, False, False]
    assert reacher_rules.fingertip_stays_at_goal(states, goal).tolist() == stays
    mirrored = np.array([[1.0 + 0.5, -0.5, 0.0, 0.0]])  # another configuration, the same fingertip
    assert reacher_rules.fingertip_near_goal(mirrored, goal).tolist() == [True]
    assert not reacher_rules.joints_at_goal(mirrored, goal, wrap_shoulder=True)[0]


def test_pairs_that_start_solved_do_not_count() -> None:
    def window(start: list[float]) -> np.ndarray:
        return np.linspace([*start, 0.0, 0.0], [3.0, 0.5, 0.0, 0.0], 26)

    a_turn_away = [3.0 - 2.0 * math.pi, 0.5]
    assert reacher_rules.joints_start_apart(window([2.9, 0.5]))
    assert not reacher_rules.joints_start_apart(window([2.96, 0.5]))
    assert not reacher_rules.joints_start_apart(window(a_turn_away))
    assert reacher_rules.fingertip_starts_apart(window([2.9, 0.5]))
    assert not reacher_rules.fingertip_starts_apart(window([2.97, 0.5]))
    assert not reacher_rules.fingertip_starts_apart(window(a_turn_away))


def test_at_rest_stops_the_arm_where_it_is() -> None:
    states = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 1.0, -1.0, 2.0]])
    assert reacher_rules.at_rest(states).tolist() == [[1.0, 2.0, 0.0, 0.0], [5.0, 1.0, 0.0, 0.0]]
    assert reacher_rules.at_rest(states[0]).tolist() == [1.0, 2.0, 0.0, 0.0]
    assert states[0, 2] == 3.0
