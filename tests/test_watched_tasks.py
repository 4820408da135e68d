"""What one sees first of a world: a start that is legal and not solved."""

from __future__ import annotations

import gymnasium as gym
import pytest

from lewm_agent.envs.two_room.geometry import Geometry, disk_is_clear
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.watch import Options
from lewm_agent.eval.worlds import WORLDS
from lewm_agent.eval.worlds.world import Task


def tasks_of(name: str, seed: int) -> tuple[gym.Env[object, object], list[Task]]:
    world = WORLDS[name]
    kwargs = {"render_mode": "rgb_array", "image_size": 16, "terminate_on_success": False}
    env = gym.make(world.environment, disable_env_checker=True, **kwargs).unwrapped
    drawn = world.view(env).tasks(seed)  # type: ignore[arg-type]
    return env, drawn or [Task(pair.state, pair.goal_state) for pair in shipped(name, "moderate").pairs]


@pytest.mark.parametrize("name", WORLDS)
def test_no_start_is_solved(name: str) -> None:
    env, tasks = tasks_of(name, Options(name).seed)
    for task in tasks[:40]:
        _, info = env.reset(options={"state": task.state, "goal_state": task.goal_state})
        assert not info["is_success"]


@pytest.mark.parametrize("seed", [0, 1])
def test_no_disk_touches_a_wall(seed: int) -> None:
    _, tasks = tasks_of("two_room", seed)
    assert all(disk_is_clear(place, Geometry()) for task in tasks for place in (task.state, task.goal_state))
    assert len({tuple(task.state) for task in tasks}) == len(tasks)
