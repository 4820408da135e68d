"""Two-Room: which pairs count and when they are solved, who sets the floors, what surprises, how it is watched.

States are agent positions (2,), px of the 224 px world.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lewm_agent.agents.behavior.two_room_expert import TwoRoomExpert
from lewm_agent.envs.goal_env import Vector
from lewm_agent.envs.two_room.env import TwoRoomEnv
from lewm_agent.envs.two_room.geometry import (
    WORLD_SIZE,
    Geometry,
    count_legal_crossings,
    disk_is_clear,
    nearest_clear,
    route_is_clear,
)
from lewm_agent.eval.worlds.protocols import Booleans, Far, Protocol, States
from lewm_agent.eval.worlds.world import Event, Task, Thing, View, World
from lewm_agent.evaluation.trials import Trial

PAPER_RADIUS = 16.0
"""px; the released success radius."""
STRICT_RADIUS = 8.0
"""px; half of it (CLEAR-LeWM, ``strict``)."""
WATCHED = 200
"""Tasks that are drawn for a spectator."""


def near_goal(states: States, goal: States, radius: float = PAPER_RADIUS) -> Booleans:
    """At which of the visited states (T, 2) the agent is less than ``radius`` from the goal (2,)."""
    return np.linalg.norm(states - goal, axis=-1) < radius


def clean_crossing(states: States, radius: float) -> bool:
    """Whether a recorded window (26, 2) leads from one room to the other without its disk touching a wall.

    Pairs that are solved at the start do not count either.
    """
    geometry = Geometry()
    return (
        geometry.room(states[0]) != geometry.room(states[-1])
        and disk_is_clear(states[0], geometry)
        and disk_is_clear(states[-1], geometry)
        and not near_goal(states[:1], states[-1], radius)[0]
        and route_is_clear(states, geometry)
    )


def separations(starts: States, goals: States) -> States:
    """Distances from starts (T, 2) to goals (U, 2), px, (T, U).

    Infinite for places in one room, and for a disk that touches a wall: they make no pair.
    """
    geometry = Geometry()
    rooms = [np.array([geometry.room(place) for place in places]) for places in (starts, goals)]
    clear = [np.array([disk_is_clear(place, geometry) for place in places]) for places in (starts, goals)]
    legal = np.not_equal.outer(*rooms) & np.logical_and.outer(*clear)
    return np.where(legal, np.linalg.norm(goals - starts[:, None], axis=-1), np.inf)


def legal_arrival(states: States, goal: States) -> Booleans:
    """At which visited states (T, 2) the agent is within 8 px, on the goal's side, after a wholly legal route.

    The route so far must be clear of walls throughout and cross legally between the rooms at least once.
    """
    geometry = Geometry()
    solved = near_goal(states, goal, STRICT_RADIUS)
    for time in np.flatnonzero(solved):
        route = states[: time + 1]
        solved[time] = (
            geometry.room(states[time]) == geometry.room(goal)
            and route_is_clear(route, geometry)
            and count_legal_crossings(route, geometry) >= 1
        )
    return solved


def straight_line(trial: Trial, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    """Unit speed towards the goal position, whatever wall is between; the goal's last pixels at less than that."""
    offset = info["goal_state"] - info["state"]
    distance = max(float(np.linalg.norm(offset)), 1e-9)
    return offset / distance * min(1.0, distance / 5.0)


class TwoRoomView(View):
    """The agent's disk."""

    unit = "px"
    marks = ("agent",)
    mouse = "click or drag: goal"

    def places(self, states: Vector) -> Vector:
        """See the base class."""
        return states[..., None, :] / WORLD_SIZE

    def goal_at(self, place: Vector, state: Vector, goal: Vector) -> Vector:
        """The nearest place clear of walls."""
        return nearest_clear(place * WORLD_SIZE, cast(TwoRoomEnv, self.env).geometry)

    def tasks(self, seed: int) -> list[Task]:
        """Starts and goals anywhere in both rooms, which are farther apart than those that success is measured on.

        The environment also draws disks that overlap a wall, which cannot get away from it, and goals that are reached
        at the start: these are left out.
        """
        rng = np.random.default_rng(seed)
        drawn = (self.env.reset(seed=int(rng.integers(2**31)))[1] for _ in itertools.count())
        tasks = (Task(info["state"], info["goal_state"]) for info in drawn)
        return list(itertools.islice(filter(_can_be_watched, tasks), WATCHED))


def _can_be_watched(task: Task) -> bool:
    clear = all(disk_is_clear(place, Geometry()) for place in (task.state, task.goal_state))
    return clear and not near_goal(task.state[None], task.goal_state)[0]


WORLD = World(
    name="two_room",
    recorded_from="expert",
    ends_at_success=True,
    paper=Protocol(near_goal, pool=1000, environment_kwargs={"collision": "released"}),
    moderate=Protocol(
        near_goal,
        functools.partial(clean_crossing, radius=PAPER_RADIUS),
        environment_kwargs={"collision": "swept"},
    ),
    strict=Protocol(
        legal_arrival,
        functools.partial(clean_crossing, radius=STRICT_RADIUS),
        environment_kwargs={"collision": "swept"},
    ),
    far=Far(separations, moderate=49.46),
    expert=functools.partial(TwoRoomExpert, action_noise=0.0, repeat_probability=0.0),
    view=TwoRoomView,
    event=Event("agent_color", (30, 144, 60), moved=slice(None)),
    thing=Thing(("agent_x", "agent_y"), "px", 1.0, moves=1.0),
    straight_line=straight_line,
)
