"""Where starts and goals come from: recorded episodes, the environment's own task, or a list."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.rollout import episode_seed, measured
from lewm_agent.environment import Environment
from lewm_agent.evaluation.success import KEYS, WAYS, InfoSays, Judge, Success, named_object, success_of
from lewm_agent.evaluation.suite import MakeEnvironment, Record, Suite, usual_floors
from lewm_agent.evaluation.trials import Situation, Trial, begin, goal_numbers, goal_picture, trials_sha256
from lewm_agent.planning.episodes import Frames
from lewm_agent.tools import strict_json
from lewm_agent.tools.checks import whole_number
from lewm_agent.tools.frames import as_rgb, resized

HELD_OUT_STREAM = 1
"""Of the seeds of episodes; collection draws from stream 0."""
TASK = "task"
"""Asks for the environment's own goals."""
NO_NUMBERS = ("pixels", "action", "reward", "terminated", "truncated")
"""Columns that say nothing of where the environment is."""
ALIKE, STRAY = 24, 0.001
"""Two frames of one situation: at most this share of their values differs by more levels."""


class Goals(ABC):
    """Where the starts and goals of an evaluation come from."""

    protocol: ClassVar[str]
    """Name in results."""

    @abstractmethod
    def trials(self, env: Environment, count: int, seed: int) -> list[Trial]:
        """So many trials, which depend on the seed alone."""

    def drawn(self, env: Environment, seed: int) -> Trial:
        """One trial, which depends on the seed alone, for an attempt to be recorded."""
        return self.trials(env, 1, seed)[0]

    @abstractmethod
    def success(self, asked: Success | None, start: Situation, trial: Trial) -> Success:
        """What success is, for what is asked and the start of a trial. Raises ``ValueError`` if nothing says it."""

    def budget(self, env: Environment) -> int:
        """Steps the agent has where nobody says: until the environment's time limit."""
        limit = None if env.spec is None else env.spec.max_episode_steps
        if not limit:
            raise ValueError("the environment has no time limit; say how many steps the agent has (budget)")
        return int(limit)

    def kinds(self, env: Environment) -> dict[str, Callable[[Record], bool]]:
        """Kinds of trials that are also reported apart."""
        return {}

    def more(self) -> dict[str, Any]:
        """What the result says of where they come from."""
        return {}

    def suite(
        self,
        environment: str,
        make: MakeEnvironment,
        *,
        episodes: int,
        seed: int,
        success: str | Judge | Success | None = None,
        budget: int | None = None,
        goal_state: bool = False,
    ) -> Suite:
        """The trials with all that is needed to play them; whatever does not fit is told here, before anything is.

        Args:
            environment: its name.
            make: makes it, rendering square frames.
            episodes: how many trials.
            seed: they are drawn with.
            success: what it is (:func:`lewm_agent.evaluation.success.success_of`); None for what the environment says,
                where that is about these goals.
            budget: steps the agent has; None for what the source says.
            goal_state: tell the agent the goals in numbers, in place of pictures.

        Raises:
            ValueError: there are not so many, the environment cannot be brought to their starts, or nothing says when
                they are solved.
        """
        env = make()
        found = self.trials(env, whole_number("episodes", episodes, 1), whole_number("seed", seed))
        start = begin(env, found[0])
        (goal_numbers if goal_state else goal_picture)(start, found[0])
        chosen = self.success(None if success is None else success_of(success), start, found[0])
        chosen.measure(start, found[0])
        return Suite(
            environment=environment,
            protocol=self.protocol,
            make=make,
            trials=found,
            success=chosen,
            budget=self.budget(env) if budget is None else whole_number("budget", budget, 1),
            seed=seed,
            sha256=trials_sha256(found),
            floors=functools.partial(usual_floors, trials=found),
            kinds=self.kinds(env),
            more=self.more(),
            goal_state=goal_state,
        )


@dataclass(frozen=True)
class RecordedGoals(Goals):
    """Starts and goals some steps apart in recorded episodes, with what was recorded of both.

    A start is reached by ``reset(options={"state": ..., "goal_state": ...})`` or without the goal's, if the environment
    comes to the recorded situation so, else by the seed and the actions of the episode.

    Attributes:
        dataset: the episodes.
        offset: environment steps from start to goal.
        episodes: indices (n,) of those that may be drawn from; None for all.
    """

    protocol = "recorded"
    dataset: OfflineDataset
    offset: int = 25
    episodes: NDArray[np.int64] | None = None

    def trials(self, env: Environment, count: int, seed: int) -> list[Trial]:
        """Rows drawn uniformly from the episodes, each at most once."""
        data, (width,) = self.dataset, env.action_space.shape or (0,)
        if data.action_dim != width:
            raise ValueError(f"{data.path} has actions of {data.action_dim} numbers, the environment of {width}")
        if self.offset < 1 or self.offset % data.frame_interval:
            raise ValueError(
                f"the offset must be a multiple of {data.frame_interval}, of whose rows {data.path} has frames, and at "
                f"least 1, not {self.offset}"
            )
        episodes = data.episode_array(self.episodes)
        rows = [range(0, int(data.episode_lengths[e]) - self.offset, data.frame_interval) for e in episodes]
        ends = np.cumsum([len(each) for each in rows])
        if not len(ends) or ends[-1] < count:
            raise ValueError(
                f"{data.path} has {ends[-1] if len(ends) else 0} rows in {len(episodes)} episodes that no training saw "
                f"with a goal {self.offset} steps later, fewer than {count}; ask for fewer, or collect more"
            )
        picks = np.sort(np.random.default_rng([seed, HELD_OUT_STREAM]).choice(int(ends[-1]), count, replace=False))
        places = np.searchsorted(ends, picks, side="right").tolist()
        chosen = [(int(episodes[p]), rows[p][int(i - ends[p])]) for p, i in zip(places, picks, strict=True)]
        return list(self._reached(env, chosen))

    def success(self, asked: Success | None, start: Situation, trial: Trial) -> Success:
        """What info says only if the environment was told the goal."""
        if asked is not None and not isinstance(asked, InfoSays):
            return asked
        told, goal = start.info.get("goal_state"), trial.options.get("goal_state")
        was_told = told is not None and goal is not None and np.allclose(told, goal)
        if was_told and any(key in start.info for key in KEYS):
            return asked or InfoSays()
        ways = [f"{name}:0.05 or, of a part of it, {name}[0:2]:0.05" for name in trial.wanted]
        raise ValueError(
            "what the environment says of success is about a goal of its own, not about a recorded one; say when that "
            f"is reached: {'; '.join([*ways, 'or a function, module:function'])}"
        )

    def budget(self, env: Environment) -> int:
        """Twice as many steps as the recorded way takes."""
        return 2 * self.offset

    def kinds(self, env: Environment) -> dict[str, Callable[[Record], bool]]:
        """Those which the start does not solve."""
        return {"starts_away_from_the_goal": lambda record: not record["start_solved"]}

    def more(self) -> dict[str, Any]:
        """Which data."""
        return {"goals": {"dataset": str(self.dataset.path), "offset": self.offset}}

    def _reached(self, env: Environment, chosen: Sequence[tuple[int, int]]) -> Iterator[Trial]:
        """The trials, by the first way that brings the environment to all their starts."""
        numbers = self._numbers([episode for episode, _ in chosen])
        ways: list[Way] = [*([_with_states, _with_state] if "state" in numbers else []), _with_actions]
        for episode, row in chosen:
            at = {name: rows[episode] for name, rows in numbers.items()}
            start = {name: rows[row] for name, rows in at.items()}
            trial, frame = self._recorded(episode, row, {name: rows[row + self.offset] for name, rows in at.items()})
            ways = [way for way in ways if _arrives(env, way(trial, start), start, frame)][:1]
            if not ways:
                raise ValueError(
                    f"the environment does not come to row {row} of episode {episode} of {self.dataset.path}, neither "
                    "by reset(options={'state': ...}) nor by the episode's seed and actions. Are these its data? One "
                    "that draws from other sources than the seed of its reset can be given a list of starts instead"
                )
            yield ways[0](trial, start)

    def _numbers(self, episodes: Sequence[int]) -> dict[str, dict[int, NDArray[Any]]]:
        """Of every column that says where the environment is, the rows (n, S) of some episodes."""
        data, wanted = self.dataset, np.unique(episodes)
        ends = np.cumsum(data.episode_lengths[wanted])[:-1]
        columns = {name: data.column(name, wanted) for name in data.columns if name not in NO_NUMBERS}
        vectors = {name: rows for name, rows in columns.items() if rows.ndim == 2 and rows.dtype.kind == "f"}
        return {name: dict(zip(wanted.tolist(), np.split(rows, ends), strict=True)) for name, rows in vectors.items()}

    def _recorded(self, episode: int, row: int, wanted: Mapping[str, NDArray[Any]]) -> tuple[Trial, Frames]:
        """A trial that begins with the episode, and the frame recorded of its start."""
        data = self.dataset
        first, goal = int(data.episode_starts[episode]), row + self.offset
        start_frame, goal_frame = data.read_frames(np.array([first + row, first + goal]))
        actions = data.actions[first : first + goal]
        trial = Trial(
            seed=0 if data.metadata is None else episode_seed(data.metadata.seed, episode),
            actions=actions[:row],
            goal=goal_frame,
            wanted=wanted,
            recorded=actions[row:],
            about={"episode": episode, "start_row": row},
        )
        return trial, start_frame


Way = Callable[[Trial, Mapping[str, NDArray[Any]]], Trial]
"""From a trial that begins with its episode, and the numbers of the start, to one that begins at the start."""


def _with_states(trial: Trial, start: Mapping[str, NDArray[Any]]) -> Trial:
    options = {"state": start["state"], "goal_state": trial.wanted["state"]}
    return dataclasses.replace(trial, seed=0, options=options, actions=())


def _with_state(trial: Trial, start: Mapping[str, NDArray[Any]]) -> Trial:
    """With another seed than the episode's, at whose first row whoever ignores options would arrive as well."""
    return dataclasses.replace(trial, seed=0, options={"state": start["state"]}, actions=())


def _with_actions(trial: Trial, start: Mapping[str, NDArray[Any]]) -> Trial:
    return trial


def _arrives(env: Environment, trial: Trial, start: Mapping[str, NDArray[Any]], frame: Frames) -> bool:
    """Whether a trial begins in the recorded situation: the same numbers, or where there are none the same frame."""
    try:
        situation = begin(env, trial)
    except Exception:  # environments refuse options that they do not know with whatever error they like
        return False
    found = measured(situation.observation, situation.info)
    shared = [name for name in start if name in found and name != "goal_state"]
    if shared:
        pairs = [(found[name], start[name]) for name in shared]
        return all(a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in pairs)
    drawn = resized(as_rgb(np.asarray(env.render())), len(frame)).astype(int)
    return bool((np.abs(drawn - resized(frame, len(frame))) > ALIKE).mean() <= STRAY)


@dataclass(frozen=True)
class TaskGoals(Goals):
    """The environment's own: every reset draws a start and a goal, whose picture it has.

    One with numbered tasks, as OGBench's have (``num_tasks``), is asked for each of them in turn.
    """

    protocol = "task"

    def trials(self, env: Environment, count: int, seed: int) -> list[Trial]:
        """With seeds that no collection draws."""
        seeds = [episode_seed(seed, number, HELD_OUT_STREAM) for number in range(count)]
        tasks = _tasks(env)
        if not tasks:
            return [Trial(seed=each, about={"seed": each}) for each in seeds]
        return [_of_task(each, number % tasks + 1) for number, each in enumerate(seeds)]

    def drawn(self, env: Environment, seed: int) -> Trial:
        """What a reset with the seed begins, so that it is found again by the seed of a recorded episode."""
        tasks = _tasks(env)
        return _of_task(seed, seed % tasks + 1) if tasks else Trial(seed=seed)

    def success(self, asked: Success | None, start: Situation, trial: Trial) -> Success:
        """What info says, unless it is asked otherwise."""
        return asked or InfoSays()

    def kinds(self, env: Environment) -> dict[str, Callable[[Record], bool]]:
        """The numbered tasks."""
        return {f"task_{task}": functools.partial(_is_of, task) for task in range(1, _tasks(env) + 1)}


def _of_task(seed: int, task: int) -> Trial:
    return Trial(seed, {"task_id": task, "render_goal": True}, about={"seed": seed, "task": task})


def _tasks(env: Environment) -> int:
    return int(getattr(env.unwrapped, "num_tasks", 0))


def _is_of(task: int, record: Record) -> bool:
    return bool(record["task"] == task)


@dataclass(frozen=True)
class ListedGoals(Goals):
    """Trials that somebody lists, in their order."""

    protocol = "listed"
    listed: Sequence[Trial] = field(default=())

    def trials(self, env: Environment, count: int, seed: int) -> list[Trial]:
        """The first ones; all, if there are no more."""
        if not self.listed:
            raise ValueError("the list of starts and goals is empty")
        about = [{**trial.about, "number": number} for number, trial in enumerate(self.listed[:count])]
        return [dataclasses.replace(trial, about=said) for trial, said in zip(self.listed, about, strict=False)]

    def drawn(self, env: Environment, seed: int) -> Trial:
        """Any of them."""
        every = self.trials(env, len(self.listed), seed)
        return every[int(np.random.default_rng(seed).integers(len(every)))]

    def success(self, asked: Success | None, start: Situation, trial: Trial) -> Success:
        """What is asked for; else what info says, where goals are the environment's own."""
        if asked is None and trial.goal is not None:
            raise ValueError(f"say when a listed goal is reached: {WAYS}")
        return asked or InfoSays()

    def more(self) -> dict[str, Any]:
        """How many there are."""
        return {"goals": {"listed": len(self.listed)}}


def read_list(path: Path) -> list[Trial]:
    """Trials from a JSON file: a list of objects with the names of :class:`Trial`, where ``goal`` is a picture's path.

    Paths begin at the file. Raises ``ValueError`` for anything else.
    """
    entries = strict_json.read(path)
    known = {"seed", "options", "actions", "goal", "wanted"}
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} is no list of objects with {', '.join(sorted(known))}")
    return [_from_json(path, number, entry, known) for number, entry in enumerate(entries)]


def _from_json(path: Path, number: int, entry: dict[str, Any], known: set[str]) -> Trial:
    if unknown := sorted(entry.keys() - known):
        raise ValueError(f"{path}: entry {number} has {unknown[0]!r}; it may have {', '.join(sorted(known))}")
    picture = entry.get("goal")
    if picture is not None and not (path.parent / picture).is_file():
        raise ValueError(f"{path}: entry {number} names a picture that is not there: {path.parent / picture}")
    goal = None if picture is None else as_rgb(np.asarray(imageio.imread(path.parent / picture)))
    wanted = {name: np.asarray(values, np.float64) for name, values in entry.get("wanted", {}).items()}
    return Trial(entry.get("seed", 0), entry.get("options", {}), entry.get("actions", []), goal, wanted)


def goals_from(given: Any, offset: int = 25) -> Goals:
    """Where goals come from, as it was asked for.

    Args:
        given: a dataset or the path of one, for recorded goals; ``task``, for the environment's own; trials, a JSON
            file of them (:func:`read_list`) or ``module:function`` that returns them.
        offset: steps from start to goal, of recorded ones.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(given, Goals):
        return given
    if isinstance(given, OfflineDataset):
        return RecordedGoals(given, offset)
    if isinstance(given, str | Path):
        return _named(str(given), offset)
    if isinstance(given, Sequence) and all(isinstance(trial, Trial) for trial in given):
        return ListedGoals(given)
    raise ValueError(f"goals are a dataset, {TASK!r}, a list of Trial or the name of one of these, not {given!r}")


def _named(name: str, offset: int) -> Goals:
    if name == TASK:
        return TaskGoals()
    path = Path(name)
    if path.suffix == ".json":
        return ListedGoals(read_list(path))
    if path.exists():
        return RecordedGoals(OfflineDataset(path), offset)
    if ":" in name:
        return ListedGoals(list(named_object(name)()))
    raise ValueError(
        f"there are no goals {name!r}: give the folder of a dataset, {TASK!r} for the environment's own goals, a .json "
        "list of starts and goals, or module:function that returns one"
    )
