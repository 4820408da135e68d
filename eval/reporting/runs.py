"""Results of evaluations, read from the JSON of eval/success_rate.py and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dacite

from lewm_agent.eval.worlds.protocols import BUDGET, PROTOCOL_NAMES, kind_and_offset
from lewm_agent.evaluation.goals import ListedGoals, RecordedGoals, TaskGoals
from lewm_agent.evaluation.intervals import Interval, rate
from lewm_agent.planning.presets import planner_name
from lewm_agent.tools import strict_json

PROTOCOLS = (*PROTOCOL_NAMES, *(goals.protocol for goals in (RecordedGoals, TaskGoals, ListedGoals)))
"""In the order in which results are shown."""
MOST_STEPS = 10_000
"""Largest budget of a result; every step is a corner of a curve."""
ONE_TRAINING = ("name", "weights_sha256", "seed", "inverse_dynamics_error")
"""Parts of a model's record that differ between trainings of one recipe."""


@dataclass(frozen=True)
class Rate:
    """Success in percent and its 95 % interval."""

    success_rate: float
    success_rate_ci95: Interval


@dataclass(frozen=True)
class StartRate(Rate):
    """Success on the pairs with one kind of start."""

    pairs: int


@dataclass(frozen=True)
class Record:
    """What happened on one pair."""

    success: bool
    first_success_step: int | None
    least_distance: float | None
    rollout: str | None = None


@dataclass(frozen=True)
class Model:
    """Which weights."""

    name: str
    weights_sha256: str
    seed: int | None = None


@dataclass(frozen=True)
class Result(Rate):
    """The part of a result's JSON that is computed with (docs/reference/results-schema.md)."""

    env: str
    protocol: str
    seed: int
    planner_seed: int
    pairs_sha256: str
    planner: dict[str, Any] | None
    success_at_end: float
    start_solved_percent: float
    starts: dict[str, StartRate]
    floors: dict[str, Rate]
    seconds_per_plan: float
    model: Model
    command: str
    versions: dict[str, Any]
    hardware: dict[str, Any]
    records: list[Record]
    budget: int = BUDGET
    success: str = "the protocol's rule"

    @property
    def kind(self) -> str:
        """The protocol without its offset."""
        return kind_and_offset(self.protocol)[0]

    @property
    def offset(self) -> int:
        """That the protocol is named with; the usual one otherwise."""
        return kind_and_offset(self.protocol)[1]


@dataclass(frozen=True)
class Run:
    """One result and where it was read.

    Attributes:
        path: of its JSON.
        values: the JSON whole.
        result: the JSON checked.
        number: by which the page calls it.
    """

    path: Path
    values: dict[str, Any]
    result: Result
    number: int = 0

    @property
    def world(self) -> str:
        """Name of the environment for people: lewm/TwoRoom-v0 is Two-Room."""
        name = re.sub(r"-v\d+$", "", self.result.env.rsplit("/", 1)[-1])
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name)

    @property
    def planner(self) -> str:
        """Name of the planner preset, and where the settings differ from it."""
        settings = self.result.planner
        return "none" if settings is None else planner_name(settings)

    @property
    def label(self) -> str:
        """Enough to tell it from the other runs."""
        aim = ", goals in numbers" if self.in_numbers else ""
        return f"{self.number}: {self.result.model.name}, planner {self.planner}, seed {self.result.planner_seed}{aim}"

    @property
    def in_numbers(self) -> bool:
        """Whether the agent was told its goals in numbers, and not shown pictures of them."""
        return "goal_state" in self.values

    @property
    def outcomes(self) -> list[bool]:
        """Solved or not, pair by pair."""
        return [record.success for record in self.result.records]

    @property
    def pairs(self) -> tuple[str, tuple[int, int], str]:
        """World, protocol and pairs; the protocol as two numbers to sort by."""
        return self.world, (PROTOCOLS.index(self.result.kind), self.result.offset), self.result.pairs_sha256

    @property
    def agent(self) -> tuple[str, str, bool]:
        """Weights and planner settings, whatever they are called, and how goals are given."""
        return self.result.model.weights_sha256, json.dumps(self.result.planner, sort_keys=True), self.in_numbers

    @property
    def identity(self) -> Hashable:
        """Equal for two measurements of one thing on one kind of device."""
        return self.pairs, self.agent, self.result.planner_seed, self._device

    @property
    def recipe(self) -> Hashable:
        """Equal for runs that differ in seeds only; weights whose configuration is unknown are their own recipe."""
        record = self.values["model"]
        kept = {key: value for key, value in record.items() if key not in ONE_TRAINING}
        weights = "" if "config" in record else self.result.model.weights_sha256
        return self.pairs, self.agent[1:], self._device, weights, json.dumps(kept, sort_keys=True)

    @property
    def _device(self) -> str:
        return f"{self.result.hardware.get('device')} {self.result.hardware.get('accelerator')}"


def read(paths: Iterable[Path]) -> list[Run]:
    """Results, numbered in the order of the page. Raises ``ValueError`` for other files, or the same run twice."""
    known: dict[Hashable, Run] = {}
    for path in paths:
        run = _read_one(path)
        if run.identity in known:
            raise ValueError(f"{known[run.identity].path} and {path} are the same run")
        known[run.identity] = run
    if not known:
        raise ValueError("give at least one JSON file written by eval/success_rate.py --output")
    ordered = sorted(known.values(), key=lambda run: run.pairs)
    return [Run(run.path, run.values, run.result, number) for number, run in enumerate(ordered, start=1)]


def _read_one(path: Path) -> Run:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    values = strict_json.read(path)
    fault = f"{path} is not a result of eval/success_rate.py: "
    if not isinstance(values, dict):
        raise ValueError(f"{fault}it is a {type(values).__name__}, not an object with keys")
    try:
        result = dacite.from_dict(Result, values, dacite.Config(cast=[tuple]))
    except dacite.MissingValueError as error:
        raise ValueError(f"{fault}the key `{error.field_path}` is missing") from None
    except dacite.WrongTypeError as error:
        raise ValueError(f"{fault}the key `{error.field_path}` holds {str(error.value)[:40]!r}") from None
    except TypeError as error:
        raise ValueError(f"{fault}an interval is not two numbers ({error})") from None
    _check(result, fault)
    return Run(path, values, result)


def _check(result: Result, fault: str) -> None:
    """What follows from the records must be what the result says."""
    solved, count = sum(record.success for record in result.records), len(result.records)
    if not count:
        raise ValueError(f"{fault}the key `records` is empty")
    if result.kind not in PROTOCOLS:
        raise ValueError(f"{fault}the key `protocol` holds {result.protocol!r}, not one of {', '.join(PROTOCOLS)}")
    if not 1 <= result.budget <= MOST_STEPS:
        raise ValueError(f"{fault}the key `budget` holds {result.budget}, not a number of steps from 1 to {MOST_STEPS}")
    if rate(solved, count)["success_rate"] != result.success_rate:
        raise ValueError(f"{fault}success_rate is {result.success_rate}, but {solved} of {count} records are solved")
    for number, record in enumerate(result.records):
        step = record.first_success_step
        if record.success != (step is not None):
            raise ValueError(f"{fault}record {number} has a success without a first_success_step, or the reverse")
        if step is not None and not 1 <= step <= result.budget:
            raise ValueError(f"{fault}record {number} is solved at step {step} of {result.budget}")
    for name, percent in _percentages(result):
        if not 0 <= percent <= 100:
            raise ValueError(f"{fault}the key `{name}` holds {percent}, not a percentage")
    if result.seconds_per_plan <= 0:
        raise ValueError(f"{fault}seconds_per_plan is {result.seconds_per_plan}")


def _percentages(result: Result) -> Iterator[tuple[str, float]]:
    """All that a result holds, by the names of their keys."""
    for name in ("success_at_end", "start_solved_percent"):
        yield name, getattr(result, name)
    for name, rated in {"success_rate": result, **result.starts, **result.floors}.items():
        yield from ((name, percent) for percent in (rated.success_rate, *rated.success_rate_ci95))
