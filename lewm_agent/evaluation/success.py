"""When a goal counts as reached."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.rollout import measured
from lewm_agent.evaluation.trials import Situation, Trial

Vector = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Judge = Callable[[Any, dict[str, Any], Mapping[str, Vector]], bool]
"""A user's function of the environment (unwrapped), its info, and what is known of the goal, such as ``state``."""
KEYS = ("is_success", "success")
"""Of an info that says by itself whether the goal is reached."""
WAYS = (
    "the name of a key of info (is_success), a column with a tolerance (state:0.05, or of a part of it, "
    "state[0:2]:0.05), or a function (module:function)"
)


class Success(ABC):
    """What is kept of every situation of an episode, and at which of them the goal is reached.

    ``str`` of it goes into results.
    """

    @abstractmethod
    def measure(self, situation: Situation, trial: Trial) -> Vector:
        """Numbers (M,) that decide."""

    def holds(self, kept: Vector, trial: Trial) -> Booleans:
        """At which of the situations of an episode, whose numbers are (T, M), the goal is reached, (T,).

        By default where the first number is positive.
        """
        return kept[:, 0] > 0

    def distance(self, situation: Situation, trial: Trial) -> float | None:
        """How far the goal still is, if the environment's info says so."""
        found = situation.info.get("distance")
        return float(found) if isinstance(found, int | float | np.number) and np.isfinite(found) else None


@dataclass(frozen=True)
class InfoSays(Success):
    """The environment's info says it, under one of some keys; at the start it need not have it yet."""

    keys: tuple[str, ...] = KEYS

    def __str__(self) -> str:
        return " or ".join(self.keys)

    def measure(self, situation: Situation, trial: Trial) -> Vector:
        """1 or 0. Raises ``ValueError`` if no step's info has such a key."""
        said = [bool(situation.info[key]) for key in self.keys if key in situation.info]
        if not said and situation.steps:
            raise ValueError(f"the environment's info has no {self}; say what success is: {WAYS}")
        return np.array([float(any(said))])


@dataclass(frozen=True)
class Judged(Success):
    """A user's function says it."""

    judge: Judge
    name: str

    def __str__(self) -> str:
        return self.name

    def measure(self, situation: Situation, trial: Trial) -> Vector:
        """1 or 0."""
        return np.array([float(bool(self.judge(situation.env.unwrapped, situation.info, trial.wanted)))])


@dataclass(frozen=True)
class Within(Success):
    """A column is nearer to its value in the goal than a tolerance: Euclidean, over all its numbers or a part."""

    column: str
    part: slice
    tolerance: float
    text: str

    def __str__(self) -> str:
        return self.text

    def measure(self, situation: Situation, trial: Trial) -> Vector:
        """The column. Raises ``ValueError`` if the environment or the goal does not have it."""
        found = measured(situation.observation, situation.info)
        for of, columns in (("environment", found), ("goal", trial.wanted)):
            if self.column not in columns:
                raise ValueError(f"the {of} has no column {self.column!r}; it has {', '.join(columns) or 'none'}")
        values = np.asarray(found[self.column], np.float64)[self.part]
        if values.shape != self._wanted(trial).shape or not values.size:
            raise ValueError(
                f"{self.text}: there are numbers of shape {values.shape}, and {self._wanted(trial).shape} in the goal"
            )
        return values

    def holds(self, kept: Vector, trial: Trial) -> Booleans:
        """Where the distance is at most the tolerance."""
        return np.asarray(np.linalg.norm(kept - self._wanted(trial), axis=1) <= self.tolerance)

    def distance(self, situation: Situation, trial: Trial) -> float:
        """In the column's own unit."""
        return float(np.linalg.norm(self.measure(situation, trial) - self._wanted(trial)))

    def _wanted(self, trial: Trial) -> Vector:
        return np.asarray(trial.wanted[self.column], np.float64)[self.part]


_COLUMN = re.compile(r"(\w+)(?:\[(\d*):(\d*)\])?:([0-9.eE+-]+)")


def success_of(given: str | Judge | Success) -> Success:
    """What success is, as it was asked for.

    Args:
        given: name of a key of info (``is_success``), a column and a tolerance (``state:0.05``, ``state[0:2]:0.05``), a
            function (``module:function``) or, in Python, the function itself, of (unwrapped environment, info, what is
            known of the goal).

    Raises:
        ValueError: text that is none of these, or a function that cannot be imported.
    """
    if isinstance(given, Success):
        return given
    if callable(given):
        return Judged(given, f"{given.__module__}:{getattr(given, '__qualname__', type(given).__name__)}")
    if given.isidentifier():
        return InfoSays((given,))
    if column := _COLUMN.fullmatch(given):
        name, first, last, tolerance = column.groups()
        part = slice(int(first) if first else None, int(last) if last else None)
        return Within(name, part, _positive(tolerance, given), given)
    if ":" not in given:
        raise ValueError(f"success is {WAYS}, not {given!r}")
    return Judged(named_object(given), given)


def _positive(text: str, given: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise ValueError(f"a tolerance is a number of at least 0, as in state:0.05, not {given!r}")
    return value


def named_object(name: str) -> Any:
    """What ``module:function`` names. Raises ``ValueError`` if it cannot be imported or called."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} cannot be imported ({error}); give module:function") from None
    if not callable(found):
        raise ValueError(f"{name} is no function")
    return found
