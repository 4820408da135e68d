"""Play trials with an agent or with a simple controller, and record what happened."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lewm_agent.acting_agent import ActingAgent
from lewm_agent.environment import Environment, action_bounds
from lewm_agent.evaluation.success import Success
from lewm_agent.evaluation.suite import Floor, MakeEnvironment, Suite
from lewm_agent.evaluation.trials import (
    Situation,
    Trial,
    as_vector,
    begin,
    goal_numbers,
    goal_picture,
    present_state,
    step,
    wanted_state,
)
from lewm_agent.planning.decider import NO_GOAL_STATES
from lewm_agent.planning.episodes import Frames, Goal
from lewm_agent.tools.frames import as_rgb, resized
from lewm_agent.tools.workers import worker_pool

Ending = Callable[[Trial, NDArray[np.float64]], bool]
"""Whether an episode ends here, from its trial and the numbers that decide so far (T, M)."""
Watcher = Callable[[Any, bool], None]
"""Is given the agent's memory of an episode after a decision, and whether a plan was made."""


@dataclass
class Trace:
    """What happened on one trial, and the time to decide.

    T is the budget, or less where the episode ended before. Seconds are wall-clock; time spent deciding for several
    environments at once is shared out evenly.

    Attributes:
        states: numbers (T + 1, M) that decide about success; in a world of this package its states.
        distances: (T + 1,) from the goal, where the environment or the rule of success tells one.
        actions: (T, A), as the environment was given them.
        ended: whether the environment terminated the episode.
        latent_distances: of every frame that the planner looked at from the goal, as it judges plans; none where it
            has no latents.
    """

    states: list[NDArray[np.float64]] = field(default_factory=list)
    distances: list[float | None] = field(default_factory=list)
    actions: list[NDArray[Any]] = field(default_factory=list)
    ended: bool = False
    plans: int = 0
    planning_seconds: float = 0.0
    seconds: float = 0.0
    latent_distances: list[float] = field(default_factory=list)

    def add(self, situation: Situation, success: Success, trial: Trial) -> None:
        """Record the situation after a reset or a step."""
        self.states.append(success.measure(situation, trial))
        self.distances.append(success.distance(situation, trial))
        self.ended = situation.ended

    def add_decision(self, seconds: float, planned: bool) -> None:
        """Count one decision, and whether it made a plan."""
        self.seconds += seconds
        if planned:
            self.plans += 1
            self.planning_seconds += seconds

    def solved(self, success: Success, trial: Trial) -> NDArray[np.bool_]:
        """At which of its situations (T + 1,) the goal was reached."""
        return success.holds(np.stack(self.states), trial)


def play_floor(
    suite: Suite, env: Environment, floor: Floor, numbers: Sequence[int], ending: Ending | None = None
) -> Iterator[Trace]:
    """Traces of a controller that needs no frames, one after the other.

    Args:
        suite: what is played; randomness depends on its seed and the trial's number only.
        env: where.
        floor: the controller.
        numbers: of the trials.
        ending: where an episode ends before the budget does; None: nowhere.
    """
    low, high = action_bounds(env.action_space)
    for number in numbers:
        trial, rng = suite.trials[number], np.random.default_rng([suite.seed, number])
        trace, situation = Trace(), begin(env, trial)
        trace.add(situation, suite.success, trial)
        while situation.steps < suite.budget and not situation.ended:
            action = np.asarray(floor(trial, situation.steps, situation.info, rng), dtype=np.float32)
            situation = step(situation, np.clip(action, low, high))
            trace.add(situation, suite.success, trial)
            if ending is not None and ending(trial, np.stack(trace.states)):
                break
        yield trace


@dataclass
class Player:
    """An agent that plays trials, several at a time.

    Attributes:
        make: makes one environment that renders.
        agent: who acts.
        success: when a goal counts as reached.
        seed: of the planner's noise; every trial has its own, so a trace does not depend on which others are played.
        budget: environment steps on each trial.
        watcher: is shown every decision of every trial.
        ending: where an episode ends before the budget does; None: nowhere.
        goal_state: whether goals are told in numbers, and not shown.
    """

    make: MakeEnvironment
    agent: ActingAgent[Any, Any]
    success: Success
    seed: int
    budget: int
    watcher: Watcher | None = None
    ending: Ending | None = None
    goal_state: bool = False
    _environments: list[Environment] = field(default_factory=list)

    def play(self, numbers: Sequence[int], trials: Sequence[Trial]) -> list[Trace]:
        """Traces of some trials, played side by side; ``numbers`` are their places in the suite."""
        while len(self._environments) < len(trials):
            self._environments.append(self.make())
        situations = [begin(env, trial) for env, trial in zip(self._environments, trials, strict=False)]
        traces = [Trace() for _ in trials]
        for situation, trial, trace in zip(situations, trials, traces, strict=True):
            trace.add(situation, self.success, trial)
        goals = np.stack([self._goal(s, trial) for s, trial in zip(situations, trials, strict=True)])
        looks: dict[int, NDArray[Any]] = {}
        memories = list(self.agent.initial_memories([pair_seed(self.seed, number) for number in numbers]))
        going_on = list(range(len(trials)))
        for _ in range(self.budget):
            looking = {i for i in going_on if self.agent.controller.needs_frame(memories[i])}
            for i in looking:
                looks[i] = self._look(situations[i])
            seen = np.stack([looks[i] for i in going_on])
            towards = "goal_state" if goals.dtype.kind == "f" else "goal"
            observation = {self.agent.looks_at: seen, towards: goals[going_on]}
            began = time.perf_counter()
            actions, decided = self.agent.predict(observation, [memories[i] for i in going_on])
            seconds = (time.perf_counter() - began) / len(going_on)
            for i, action, memory in zip(going_on, actions, decided, strict=True):
                planned = memory.plans > memories[i].plans
                memories[i] = memory
                traces[i].add_decision(seconds, planned)
                if i in looking and (apart := self.agent.controller.goal_distance(memory)) is not None:
                    traces[i].latent_distances.append(apart)
                if self.watcher is not None:
                    self.watcher(memory, planned)
                traces[i].actions.append(as_vector(situations[i].env, action))
                situations[i] = step(situations[i], traces[i].actions[-1])
                traces[i].add(situations[i], self.success, trials[i])
            going_on = [i for i in going_on if not self._is_over(trials[i], traces[i])]
            if not going_on:
                break
        return traces

    def _goal(self, start: Situation, trial: Trial) -> Goal:
        """As the agent is given it: a picture (H, W, 3), or numbers."""
        if self.agent.looks_at == "state":
            return wanted_state(start, trial)
        if not self.goal_state:
            return self._seen(goal_picture(start, trial))
        head = self.agent.model.goal_states
        if head is None:
            raise ValueError(NO_GOAL_STATES)
        told = goal_numbers(start, trial)
        return head.vector({name: told[name] for name in head.sizes if name in told} or told)

    def _look(self, situation: Situation) -> NDArray[Any]:
        """What the agent decides on: the frame or, if it is told that, the state."""
        return present_state(situation) if self.agent.looks_at == "state" else self._seen(situation.env.render())

    def _seen(self, picture: Any) -> Frames:
        return resized(as_rgb(np.asarray(picture)), self.agent.config.model.image_size)

    def _is_over(self, trial: Trial, trace: Trace) -> bool:
        return trace.ended or (self.ending is not None and self.ending(trial, np.stack(trace.states)))


MakePlayer = Callable[[], Player]
Batch = tuple[list[int], list[Trial]]
_player: Player | None = None


def play_in_processes(make_player: MakePlayer, batches: Sequence[Batch], workers: int) -> Iterator[tuple[int, Trace]]:
    """Number and trace of every trial of the batches, as they are finished; processor cores are shared out evenly.

    Args:
        make_player: makes the player, once in every process; picklable.
        batches: trials that are played side by side, with their numbers.
        workers: processes.

    Raises:
        RuntimeError: one of them died.
    """
    if not batches:
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    prepare = functools.partial(_start_worker, make_player, threads)
    try:
        with worker_pool(min(workers, len(batches)), prepare) as pool:
            waiting = {pool.submit(_play_in_worker, batch): batch for batch in batches}
            for finished in as_completed(waiting):
                yield from zip(waiting[finished][0], finished.result(), strict=True)
    except BrokenProcessPool:
        raise RuntimeError("a playing process died, as it does when memory runs out: use fewer --workers") from None


def _start_worker(make_player: MakePlayer, threads: int) -> None:
    global _player
    torch.set_num_threads(threads)
    _player = make_player()


def _play_in_worker(batch: Batch) -> list[Trace]:
    if _player is None:
        raise RuntimeError("a playing process was used without being prepared")
    return _player.play(*batch)


def pair_seed(seed: int, index: int) -> int:
    """Seed of the planner's noise on one pair of a list."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
