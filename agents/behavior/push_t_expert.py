"""Behavior for the Push-T world: an expert that plans pushes on the simulator, and weak random pushing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from lewm_agent.agents.behavior.push_t_routes import (
    CLEARANCE,
    in_picture,
    moved_clear,
    route,
    touching_points,
)
from lewm_agent.envs.push_t.env import PushTEnv
from lewm_agent.envs.push_t.simulation import (
    ACTION_SCALE,
    AGENT_RADIUS,
    OUTLINE,
    WALL_EDGES,
    Point,
    Simulation,
    State,
    distance_to_block,
    to_world,
)

Action = npt.NDArray[np.float32]
Pose = tuple[float, float, float]

WEAK_RANGE = 100.0
"""px; the weak policy's targets stay within this of the block on each axis (stable-worldmodel, ``WeakPolicy``)."""
PLACED = 7.0
"""px; the block is placed when the corners of the T are this near to the goal's, root mean square."""
DISTURBED = 10.0
"""px; a placed block that was moved this far from the goal is pushed again."""

_PACES = ((40.0, 25.0), (15.0, 12.5), (0.0, 6.0))
"""px: with the block at least so far from its goal, the agent heads so far ahead of itself during a stroke."""
_SPEED = 0.5  # of what it heads for ahead of itself the agent moves in a step, in the long run
_LONGEST = 10  # steps of a stroke
_NEARLY = 0.25  # share of the progress per step that a longer stroke may fall short
_GIVEN_UP = 1.0  # px of progress lost after which a stroke is not followed further
_GAP = 5.0  # px between agent and block where a stroke from a new side begins
_TOUCH_SPACING = 30.0  # px
_FAN = tuple(math.radians(each) for each in (-40, -20, 0, 20, 40))
"""rad; directions of strokes from places beside the block, around straight at it."""
_FAN_FROM_HERE = tuple(math.radians(each) for each in range(-75, 76, 15))
_WALK = 60.0  # px ahead of itself that the agent heads for on its way
_STEPS_TO_BEGIN, _STEP_LENGTH = 3, 20.0  # a walk to a new side takes 3 steps and one for every 20 px, roughly
_ARRIVED = 12.0  # px from where a push begins
_PATIENCE = 40  # steps on the way there
_WALL_PENALTY = 3.0  # px of progress that a px of overlap with a wall costs
_STOPPING_TIME = 0.05  # s; velocity times this is how far the agent still glides

_CENTER = np.mean(OUTLINE, axis=0)
_REACH = float(np.linalg.norm(np.array(OUTLINE) - _CENTER, axis=1).max())
_SQUARED_RADIUS = float(np.mean(np.sum((np.array(OUTLINE) - _CENTER) ** 2, axis=1)))


class WeakPush:
    """Heads for random targets near the block.

    Every step a target is drawn within 100 px of the agent on each axis and clipped to within 100 px of the block, as
    by the weak policy of stable-worldmodel, ``envs/pusht/expert_policy.py``; here it is also clipped to the room
    between the walls, through which agent and block would leave otherwise. Before the first ``reset`` it acts as after
    ``reset(0)``.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Create the policy for one environment.

        Raises:
            TypeError: if ``env`` is not a Push-T environment.
        """
        _check_environment(env)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start an episode; its actions depend on ``seed`` alone."""
        self._generator = np.random.default_rng(seed)

    def __call__(self, observation: Any, info: dict[str, Any]) -> Action:
        """Return the action, (2,) float32 in [-1, 1]; the observation is not used."""
        agent, block = info["state"][:2], info["state"][2:4]
        target = agent + ACTION_SCALE * self._generator.uniform(-1.0, 1.0, size=2)
        near, far = WALL_EDGES[0] + AGENT_RADIUS, WALL_EDGES[1] - AGENT_RADIUS
        return action_towards(np.clip(np.clip(target, block - WEAK_RANGE, block + WEAK_RANGE), near, far), agent)


@dataclass(frozen=True)
class _Stroke:
    """A straight push: where it begins (None: where the agent is), how far ahead to head (px), for how many steps."""

    begin: Point | None
    ahead: Point
    steps: int


class PushTExpert:
    """Pushes the block to its goal with straight strokes, then walks round it to the agent's goal.

    A stroke goes up to ten steps in one direction, at one of three paces. Of a fixed fan of strokes, from where the
    agent is and from places all around the block, the one with the most progress per step is chosen by simulating them
    all, and of its ends nearly as good the latest; progress is that of the corners of the T towards those of the goal.
    After a stroke, and on arrival beside the block, the next one is planned. When the corners are within 7 px the
    agent walks to its own goal, clear of the block. Nothing is drawn at random but a little Gaussian noise on every
    action: what the expert does can be foreseen from what it sees, so that it can be imitated.

    With the default noise 3,466 of 3,500 episodes are solved within 200 steps, after 106 steps on average, at 0.3 CPU
    seconds an episode.

    State and goal are ``info["state"]`` and ``info["goal_state"]``. Before the first ``reset`` it acts as after
    ``reset(0)``.
    """

    def __init__(self, env: gym.Env[Any, Any], action_noise: float = 0.03) -> None:
        """Create the expert for one environment.

        Args:
            env: a Push-T environment, wrapped or not.
            action_noise: standard deviation of the noise on each action component, in units of the action (100 px).

        Raises:
            TypeError: if ``env`` is not a Push-T environment.
            ValueError: if the noise is negative.
        """
        _check_environment(env)
        if not (np.isfinite(action_noise) and action_noise >= 0.0):
            raise ValueError(f"action_noise must be zero or more, got {action_noise}")
        self.action_noise = float(action_noise)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start an episode; its noise depends on ``seed`` alone."""
        self._generator = np.random.default_rng(seed)
        self._stroke: _Stroke | None = None
        self._steps = 0
        self._is_placed = False

    def __call__(self, observation: Any, info: dict[str, Any]) -> Action:
        """Return the action, (2,) float32 in [-1, 1]; the observation is not used."""
        state = np.asarray(info["state"], dtype=np.float64)
        noise = self._generator.normal(0.0, self.action_noise * ACTION_SCALE, size=2)
        return action_towards(self._target(state, info["goal_state"]) + noise, state[:2])

    def _target(self, state: State, goal: State) -> State:
        """Where to head for, px."""
        stroke = self._stroke
        if stroke is not None and stroke.begin is not None:
            stroke = self._approaching(stroke, state, goal)
        elif stroke is None or self._steps == stroke.steps:
            stroke = self._next_stroke(state, goal)
        if stroke is not self._stroke:
            self._stroke, self._steps = stroke, 0
        self._steps += 1
        if stroke is None:
            return _step_towards((goal[0], goal[1]), state)
        return state[:2] + stroke.ahead if stroke.begin is None else _step_towards(stroke.begin, state)

    def _approaching(self, stroke: _Stroke, state: State, goal: State) -> _Stroke:
        """Go on to where the stroke begins, or plan anew: on arrival, or if the block has come in the way."""
        begin = stroke.begin or (state[0], state[1])
        if math.dist(state[:2], begin) < _ARRIVED:
            return _StrokePlanner(state, goal).plan(stay=True)
        if self._steps > _PATIENCE or distance_to_block(begin, state[2:5]) < AGENT_RADIUS:
            return _StrokePlanner(state, goal).plan()
        return stroke

    def _next_stroke(self, state: State, goal: State) -> _Stroke | None:
        """Plan, unless the block is placed."""
        error = _pose_error(state[2:5], goal[2:5])
        self._is_placed = error < (DISTURBED if self._is_placed else PLACED)
        return None if self._is_placed else _StrokePlanner(state, goal).plan()


class _StrokePlanner:
    """Chooses a stroke in one situation by simulating many."""

    def __init__(self, state: State, goal: State) -> None:
        self._state = state
        self._goal = goal[2:5].tolist()
        self._error = _pose_error(state[2:5], self._goal)
        self._pace = next(pace for error, pace in _PACES if self._error >= error)
        self._simulation = Simulation()

    def plan(self, stay: bool = False) -> _Stroke:
        """Return the stroke with the most progress per step.

        Args:
            stay: whether to begin where the agent is.
        """
        candidates = self._candidates_from_here()
        if not stay:
            candidates += self._candidates_from_all_sides()
        best, stroke = -math.inf, _Stroke(None, (0.0, 0.0), 1)
        for begin, ahead, way in sorted(candidates, key=lambda each: each[2]):
            value, steps = self._best_end(begin, ahead, way, best)
            if value > best:
                best, stroke = value, _Stroke(begin, ahead, steps)
        return stroke

    def _candidates_from_here(self) -> list[tuple[Point | None, Point, int]]:
        here = float(self._state[0]), float(self._state[1])
        _, inward = min(self._sides(), key=lambda side: math.dist(side[0], here))
        return [(None, ahead, 0) for ahead in self._fan(inward, _FAN_FROM_HERE)]

    def _candidates_from_all_sides(self) -> list[tuple[Point | None, Point, int]]:
        sides = [(begin, inward, self._steps_to(begin)) for begin, inward in self._sides() if in_picture(begin)]
        return [(begin, ahead, way) for begin, inward, way in sides for ahead in self._fan(inward, _FAN)]

    def _steps_to(self, begin: Point) -> int:
        """Roughly how long it takes to walk round the block to where a stroke begins."""
        pose = self._state[2:5].tolist()
        start = moved_clear(self._state[:2].tolist(), pose)
        way = [start, *route(start, begin, pose)]
        return _STEPS_TO_BEGIN + int(sum(math.dist(*leg) for leg in itertools.pairwise(way)) / _STEP_LENGTH)

    def _fan(self, direction: Point, angles: Sequence[float]) -> list[Point]:
        """How far ahead to head, in directions turned from the one given."""
        headings = math.atan2(direction[1], direction[0]) + np.array(angles)
        return [(self._pace * math.cos(heading), self._pace * math.sin(heading)) for heading in headings]

    def _sides(self) -> list[tuple[Point, Point]]:
        """Points around the block and the directions towards it, in the world."""
        _, _, x, y, angle = self._state[:5].tolist()
        begins = to_world([point for point, _ in _SIDES], (x, y, angle))
        inwards = to_world([inward for _, inward in _SIDES], (0.0, 0.0, angle))
        return [((bx, by), (ix, iy)) for (bx, by), (ix, iy) in zip(begins.tolist(), inwards.tolist(), strict=True)]

    def _best_end(self, begin: Point | None, ahead: Point, way: int, to_beat: float) -> tuple[float, int]:
        """The most progress, px per step, of strokes that end after one step, two, and so on.

        With it comes the length of the longest of them that is nearly as good. A stroke is not followed further when
        it loses progress or can no longer beat another.
        """
        start = self._state.copy()
        if begin is not None:
            start[:2], start[5:7] = begin, 0.0
        self._simulation.restore(start)
        rates: list[float] = []
        most = 0.0
        for steps in range(1, _LONGEST + 1):
            progress = self._progress_after_step(ahead)
            rates.append(progress / (way + steps))
            most = max(most, progress)
            if progress < most - _GIVEN_UP or self._hoped(progress, way + steps, _LONGEST - steps) < to_beat:
                break
        best = max(rates)
        return best, max(steps for steps, rate in enumerate(rates, 1) if rate >= best - _NEARLY * abs(best))

    def _hoped(self, progress: float, steps: int, left: int) -> float:
        """The progress per step of a stroke that is ``steps`` old, if all its effort counts from now on."""
        speed = _SPEED * self._pace
        more = min(left, (self._error - progress) / speed)
        return (progress + speed * more) / (steps + more)

    def _progress_after_step(self, ahead: Point) -> float:
        x, y = self._simulation.agent_position
        self._simulation.move_towards(x + ahead[0], y + ahead[1])
        pose = self._simulation.block_pose
        return self._error - _pose_error(pose, self._goal) - _WALL_PENALTY * _overlap_with_walls(pose)


_SIDES = touching_points(_TOUCH_SPACING, AGENT_RADIUS + _GAP)


def _pose_error(pose: Any, goal: Any) -> float:
    """Root mean square distance, px, of the corners of the T at one pose from those at another."""
    middle_x, middle_y = _middle(pose)
    goal_x, goal_y = _middle(goal)
    turned = 2.0 * _SQUARED_RADIUS * (1.0 - math.cos(pose[2] - goal[2]))
    return math.sqrt((middle_x - goal_x) ** 2 + (middle_y - goal_y) ** 2 + turned)


def _middle(pose: Any) -> Point:
    x, y = _CENTER
    cosine, sine = math.cos(pose[2]), math.sin(pose[2])
    return pose[0] + cosine * x - sine * y, pose[1] + sine * x + cosine * y


def _next_point(state: State, destination: Point) -> Point:
    """Where to head for on the way to a destination round the block."""
    pose = state[2:5].tolist()
    glided = state[:2] + _STOPPING_TIME * state[5:7]
    start = moved_clear(glided.tolist(), pose)
    if math.dist(start, glided) > 3.0:
        return start
    return route(start, moved_clear(destination, pose, min(CLEARANCE, AGENT_RADIUS + 1.0)), pose)[0]


def _step_towards(destination: Point, state: State) -> State:
    """Where to head for on the way to a destination: not further than a walker's step."""
    step = np.array(_next_point(state, destination)) - state[:2]
    return state[:2] + step * min(1.0, _WALK / max(float(np.linalg.norm(step)), 1e-9))


def _overlap_with_walls(pose: Pose) -> float:
    """How far, px, the block reaches into a wall."""
    middle = _middle(pose)
    if WALL_EDGES[0] + _REACH < min(middle) and max(middle) < WALL_EDGES[1] - _REACH:
        return 0.0
    corners = to_world(OUTLINE, pose)
    return max(0.0, WALL_EDGES[0] - float(corners.min()), float(corners.max()) - WALL_EDGES[1])


def action_towards(target: State, agent: State) -> Action:
    """The action (2,) of an agent at one place (2,), px, that heads for another, or as far that way as one can."""
    return np.clip((target - agent) / ACTION_SCALE, -1.0, 1.0).astype(np.float32)


def _check_environment(env: gym.Env[Any, Any]) -> None:
    if not isinstance(env.unwrapped, PushTEnv):
        raise TypeError(f"this policy needs a Push-T environment, got {env.unwrapped}")
