"""What evaluation knows of one world, as one record; beside it a world has an environment and a behavior policy."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.rollout import BehaviorPolicy
from lewm_agent.environment import Environment
from lewm_agent.envs import ENVIRONMENTS
from lewm_agent.envs.goal_env import GoalEnv, Vector
from lewm_agent.eval.worlds.protocols import (
    FAR_BUDGET,
    GOAL_OFFSET,
    Far,
    Pair,
    Protocol,
    States,
    kind_and_offset,
    looks_in,
)
from lewm_agent.evaluation.suite import Floor
from lewm_agent.tools.checks import named

MOVER_WEIGHT = 0.03
"""What squared distances of the mover count beside those of the thing: on Push-T with exact states .03 solves 90 %."""


@dataclass(frozen=True)
class Event:
    """What happens in a world when eval/surprise.py wants it to surprise.

    Attributes:
        color: the factor that changes.
        changed_color: RGB it changes to, 0 to 255.
        moved: the part of the state that is replaced by another trajectory's.
    """

    color: str
    changed_color: tuple[int, int, int]
    moved: slice


@dataclass(frozen=True)
class Symmetry:
    """Turns and mirrors of a world onto itself: what follows from a turned state and action is what follows, turned.

    Each is called by its number; number 0 changes nothing.

    Attributes:
        count: how many there are.
        states: number and states (..., S) to the turned ones.
        actions: number and actions (..., A) to the turned ones.
        frames: number and frames (..., H, W, C) to the turned ones, but for what is painted on the ground.
    """

    count: int
    states: Callable[[int, States], States]
    actions: Callable[[int, NDArray[Any]], NDArray[Any]]
    frames: Callable[[int, NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Thing:
    """What is to be moved in a world, for eval/latent_precision.py and eval/true_dynamics.py.

    Attributes:
        places: names of the quantities that say where it is.
        unit: in which errors of its place are told.
        scale: units in one of the environment's.
        moves: units by which its place changes at least in a block that counts as moving it.
        angle: name of the quantity that says how it is turned, rad; None where that does not matter.
        radian: units that a turn by one rad is worth, as the limits of ``strict`` have it.
        mover: names of the quantities that say where that is which moves it; none where it moves by itself.
    """

    places: tuple[str, ...]
    unit: str
    scale: float
    moves: float
    angle: str | None = None
    radian: float = 0.0
    mover: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """Where an episode begins and where it should lead, both (S,)."""

    state: Vector
    goal_state: Vector


class View(ABC):
    """A world as the spectator of eval/watch.py sees it: where things are in its picture, which goal a click means.

    Places in a picture are (..., 2), x to the right and y downwards, in sides of the picture: (0, 0) to (1, 1).

    Attributes:
        unit: of ``info["distance"]``.
        marks: names of the K things whose places are followed.
        mouse: what the mouse does, for the spectator.
    """

    unit: str
    marks: tuple[str, ...]
    mouse: str

    def __init__(self, env: GoalEnv[Any]) -> None:
        """Look at one environment."""
        self.env = env

    @abstractmethod
    def places(self, states: Vector) -> Vector:
        """Where the marks are in the picture of states (..., S): (..., K, 2)."""

    @abstractmethod
    def goal_at(self, place: Vector, state: Vector, goal: Vector) -> Vector:
        """The goal (S,) that a click at a place (2,) means, or the nearest legal one.

        Args:
            place: in the picture.
            state: the present one.
            goal: the one until now.
        """

    def turned(self, goal: Vector, angle: float) -> Vector:
        """The goal turned clockwise by an angle, rad; the same where there is nothing to turn."""
        return goal

    def tasks(self, seed: int) -> list[Task] | None:
        """Starts and goals to watch, which depend on the seed; None: the held-out pairs of ``moderate``."""
        return None


@dataclass(frozen=True)
class World:
    """Everything that evaluation knows of one world.

    Attributes:
        name: short name of the environment; also of its recipe and of its bundled model.
        recorded_from: the behavior whose episodes pairs are drawn from: that of the released data.
        ends_at_success: whether those episodes end at the first success.
        paper: rules of the released evaluation.
        moderate: rules of CLEAR-LeWM's ``moderate``.
        strict: rules of CLEAR-LeWM's ``strict``.
        far: how far apart starts and goals are in ``far``.
        expert: makes the scripted expert without noise, which goes to the goal state in ``info``: a ceiling.
        view: makes what a spectator sees.
        event: what eval/surprise.py lets happen.
        straight_line: heads straight for the goal; None where that means nothing.
        starts: kinds of starts (S,) that are also reported apart.
        turns: quantity in rad -> turns to a whole one after which the thing looks as before, where they are several.
        symmetry: turns and mirrors of the world onto itself; None where there are none.
        thing: what is to be moved.
    """

    name: str
    recorded_from: str
    ends_at_success: bool
    paper: Protocol
    moderate: Protocol
    strict: Protocol
    far: Far
    expert: Callable[[Environment], BehaviorPolicy]
    view: Callable[[GoalEnv[Any]], View]
    event: Event
    thing: Thing
    straight_line: Floor | None = None
    starts: Mapping[str, Callable[[States], bool]] = field(default_factory=dict)
    turns: Mapping[str, int] = field(default_factory=dict)
    symmetry: Symmetry | None = None

    @property
    def environment(self) -> str:
        """Its Gymnasium id."""
        return ENVIRONMENTS[self.name]

    def coordinates(self, physics: Mapping[str, float]) -> list[float]:
        """Where the thing and its mover are, (K,) in the thing's unit, so that squared distances say how far apart.

        A turn by a small angle is as far as its arc with radius ``thing.radian``; squares of the mover's count
        ``MOVER_WEIGHT``.
        """
        thing, weight = self.thing, math.sqrt(MOVER_WEIGHT)
        places = [thing.scale * physics[name] for name in thing.places]
        places += [weight * thing.scale * physics[name] for name in thing.mover]
        if thing.angle is None:
            return places
        turns = self.turns.get(thing.angle, 1)
        angle, radius = turns * physics[thing.angle], thing.radian / turns
        return [*places, radius * math.sin(angle), radius * math.cos(angle)]

    @property
    def protocols(self) -> dict[str, Protocol]:
        """All rules by name, in the order in which results are shown."""
        return {
            "paper": self.paper,
            "moderate": self.moderate,
            "strict": self.strict,
            "varied": replace(self.moderate, other_looks="colors"),
            "far": replace(self.moderate, far=self.far, budget=FAR_BUDGET),
        }

    def protocol(self, name: str) -> Protocol:
        """The rules called ``name``, with an offset or without. Raises ``ValueError`` for unknown names."""
        kind, offset = kind_and_offset(name)
        rules = named(kind, self.protocols, "protocol")
        if kind == "varied":
            return replace(rules, other_looks=looks_in(name))
        if offset == GOAL_OFFSET:
            return rules
        usual = gym.spec(self.environment).max_episode_steps or 0
        return rules.at(offset, max(usual, 2 * offset) if self.ends_at_success else usual)


def make_environment(environment: str, kwargs: dict[str, Any]) -> Environment:
    """A world to play in. The task's own termination is off: an episode goes on after its first success."""
    fixed = {"render_mode": "rgb_array", "terminate_on_success": False}
    return gym.make(environment, disable_env_checker=True, **{**kwargs, **fixed})


def restore(env: Environment, pair: Pair, state: States) -> tuple[Any, dict[str, Any]]:
    """Put an environment into a state (S,), with the goal and the look of a pair."""
    return env.reset(seed=0, options={**pair.trial.options, "state": state})
