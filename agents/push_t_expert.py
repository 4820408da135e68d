"""Behavior for the Push-T world: an expert that plans pushes on the simulator, and weak random pushing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from lewm_agent.agents.push_t_routes import (
    CLEARANCE,
    in_picture,
    moved_clear,
    moved_into_picture,
    route,
    touching_points,
)
from lewm_agent.envs.push_t import PushTEnv
from lewm_agent.envs.push_t_simulation import (
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

_HOLD = 3  # steps for which a push heads for the same target
_GAP = 5.0  # px between agent and block where a push from a new side begins
_TOUCH_SPACING = 20.0  # px
_TURN = 0.6  # rad; standard deviation of the turns of a random push
_TRIES, _TRIES_FROM_HERE = 4, 32  # random pushes: from every point beside the block, and from where the agent is
_ROUNDS, _KEPT, _VARIANTS = 2, 6, 6  # refinement of the best pushes
_STEPS_TO_BEGIN, _STEP_LENGTH = 3, 30.0  # a walk to a new side takes 3 steps and one for every 30 px, roughly
_ARRIVED = 12.0  # px from where a push begins
_PATIENCE = 40  # steps on the way there
_WALL_PENALTY = 3.0  # px of progress that a px of overlap with a wall costs
_STOPPING_TIME = 0.05  # s; velocity times this is how far the agent still glides

_CENTER = np.mean(OUTLINE, axis=0)
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
        return _action_towards(np.clip(np.clip(target, block - WEAK_RANGE, block + WEAK_RANGE), near, far), agent)


@dataclass(frozen=True)
class _Push:
    """A push: where it begins (None: where the agent is) and the targets it heads for, in the world, px."""

    begin: Point | None
    targets: tuple[Point, ...]


class PushTExpert:
    """Pushes the block to its goal, then walks round it to the agent's goal.

    A push is a place beside the block and two targets that the agent heads for, three steps each. From random pushes on
    every side the one with the most progress per step is chosen, after some refinement, by simulating them all.
    Progress is that of the corners of the T towards those of the goal. After the first target, and on arrival beside
    the block, the rest is planned anew. When the corners are within 7 px the agent walks to its own goal, clear of the
    block. Gaussian noise on every action makes the data varied.

    With the default noise 149 of 150 episodes are solved within 200 steps, after 78 steps on average, at 0.4 CPU
    seconds an episode; without noise 60 of 60, after 54 steps.

    State and goal are ``info["state"]`` and ``info["goal_state"]``. Before the first ``reset`` it acts as after
    ``reset(0)``.
    """

    def __init__(self, env: gym.Env[Any, Any], action_noise: float = 0.1) -> None:
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
        """Start an episode; its pushes and noise depend on ``seed`` alone."""
        self._generator = np.random.default_rng(seed)
        self._push: _Push | None = None
        self._steps = 0
        self._is_placed = False

    def __call__(self, observation: Any, info: dict[str, Any]) -> Action:
        """Return the action, (2,) float32 in [-1, 1]; the observation is not used."""
        state = np.asarray(info["state"], dtype=np.float64)
        noise = self._generator.normal(0.0, self.action_noise * ACTION_SCALE, size=2)
        return _action_towards(self._target(state, info["goal_state"]) + noise, state[:2])

    def _target(self, state: State, goal: State) -> State:
        """Where to head for, px."""
        push = self._push
        if push is not None and push.begin is not None:
            push = self._approaching(push, state, goal)
        elif push is None or self._steps == _HOLD:
            push = self._next_push(push, state, goal)
        if push is not self._push:
            self._push, self._steps = push, 0
        self._steps += 1
        if push is None:
            return np.array(_next_point(state, (goal[0], goal[1])))
        return np.array(push.targets[0] if push.begin is None else _next_point(state, push.begin))

    def _approaching(self, push: _Push, state: State, goal: State) -> _Push:
        """Go on to where the push begins, or plan anew: on arrival, or if the block has come in the way."""
        begin = push.begin or (state[0], state[1])
        if math.dist(state[:2], begin) < _ARRIVED:
            return self._plan(state, goal, push.targets, stay=True)
        if self._steps > _PATIENCE or distance_to_block(begin, state[2:5]) < AGENT_RADIUS:
            return self._plan(state, goal)
        return push

    def _next_push(self, push: _Push | None, state: State, goal: State) -> _Push | None:
        """Plan, unless the block is placed."""
        error = _pose_error(state[2:5], goal[2:5])
        self._is_placed = error < (DISTURBED if self._is_placed else PLACED)
        if self._is_placed:
            return None
        return self._plan(state, goal, push.targets[1:] if push is not None else ())

    def _plan(self, state: State, goal: State, targets: tuple[Point, ...] = (), stay: bool = False) -> _Push:
        return _PushPlanner(self._generator, state, goal).plan(targets, stay)


class _PushPlanner:
    """Chooses a push in one situation by simulating many."""

    def __init__(self, generator: np.random.Generator, state: State, goal: State) -> None:
        self._generator = generator
        self._state = state
        self._goal = goal[2:5].tolist()
        self._error = _pose_error(state[2:5], self._goal)
        self._simulation = Simulation()

    def plan(self, targets: tuple[Point, ...], stay: bool) -> _Push:
        """Return a push that makes much progress per step.

        Args:
            targets: of a push from where the agent is, to compare with; or none.
            stay: whether to begin where the agent is.
        """
        pushes = self._pushes_from_here()
        if targets:
            pushes.append(_Push(None, targets))
        if not stay:
            pushes += self._pushes_from_all_sides()
        pool = self._ranked(pushes)
        for _ in range(_ROUNDS):
            best = pool[:_KEPT]
            pool = best + self._ranked([self._varied(push) for _, push in best for _ in range(_VARIANTS)])
            pool.sort(key=_progress_of)
        return pool[0][1]

    def _ranked(self, pushes: list[_Push]) -> list[tuple[float, _Push]]:
        return sorted(((self._progress(push), push) for push in pushes), key=_progress_of)

    def _pushes_from_here(self) -> list[_Push]:
        here = float(self._state[0]), float(self._state[1])
        _, inward = min(self._sides(), key=lambda side: math.dist(side[0], here))
        return [_Push(None, self._targets(here, inward)) for _ in range(_TRIES_FROM_HERE)]

    def _pushes_from_all_sides(self) -> list[_Push]:
        sides = [(begin, inward) for begin, inward in self._sides() if in_picture(begin)]
        return [_Push(begin, self._targets(begin, inward)) for begin, inward in sides for _ in range(_TRIES)]

    def _sides(self) -> list[tuple[Point, Point]]:
        """Points around the block and the directions towards it, in the world."""
        _, _, x, y, angle = self._state[:5].tolist()
        begins = to_world([point for point, _ in _SIDES], (x, y, angle))
        inwards = to_world([inward for _, inward in _SIDES], (0.0, 0.0, angle))
        return [((bx, by), (ix, iy)) for (bx, by), (ix, iy) in zip(begins.tolist(), inwards.tolist(), strict=True)]

    def _targets(self, begin: Point, direction: Point) -> tuple[Point, ...]:
        """Two random strokes, up to twice as long as the block is away from its goal."""
        (x, y), heading = begin, math.atan2(direction[1], direction[0])
        longest = min(ACTION_SCALE, 2.0 * self._error)
        targets = []
        for gap in (_GAP, 0.0):
            heading += self._generator.normal(0.0, _TURN)
            length = gap + longest * self._generator.uniform()
            x, y = x + length * math.cos(heading), y + length * math.sin(heading)
            targets.append(moved_into_picture((x, y)))
        return tuple(targets)

    def _varied(self, push: _Push) -> _Push:
        spread = min(15.0, 1.0 + 0.3 * self._error)
        targets = np.array(push.targets) + self._generator.normal(0.0, spread, size=(len(push.targets), 2))
        return _Push(push.begin, tuple(moved_into_picture(target) for target in targets))

    def _progress(self, push: _Push) -> float:
        """Progress of a push, px per step."""
        start = self._state.copy()
        steps = _HOLD * len(push.targets)
        if push.begin is not None:
            steps += _STEPS_TO_BEGIN + int(math.dist(push.begin, start[:2]) / _STEP_LENGTH)
            start[:2], start[5:7] = push.begin, 0.0
        self._simulation.restore(start)
        for target in push.targets:
            for _ in range(_HOLD):
                _move(self._simulation, target)
        pose = self._simulation.block_pose
        end = _pose_error(pose, self._goal) + _WALL_PENALTY * _overlap_with_walls(pose)
        return (self._error - end) / steps


_SIDES = touching_points(_TOUCH_SPACING, AGENT_RADIUS + _GAP)


def _progress_of(item: tuple[float, _Push]) -> float:
    return -item[0]


def _move(simulation: Simulation, target: Point) -> None:
    """Head for a target as far as the action space allows."""
    x, y = simulation.agent_position
    simulation.move_towards(
        min(max(target[0], x - ACTION_SCALE), x + ACTION_SCALE), min(max(target[1], y - ACTION_SCALE), y + ACTION_SCALE)
    )


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


def _overlap_with_walls(pose: Pose) -> float:
    """How far, px, the block reaches into a wall."""
    corners = to_world(OUTLINE, pose)
    return max(0.0, WALL_EDGES[0] - float(corners.min()), float(corners.max()) - WALL_EDGES[1])


def _action_towards(target: State, agent: State) -> Action:
    action: Action = np.clip((target - agent) / ACTION_SCALE, -1.0, 1.0).astype(np.float32)
    return action


def _check_environment(env: gym.Env[Any, Any]) -> None:
    if not isinstance(env.unwrapped, PushTEnv):
        raise TypeError(f"this policy needs a Push-T environment, got {env.unwrapped}")
