"""Play pairs with an agent or with a simple controller, and record which states were visited."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from lewm_agent.environment import Environment, action_bounds
from lewm_agent.eval.worlds.protocols import Pair
from lewm_agent.eval.worlds.world import Floor
from lewm_agent.goal_agent import GoalAgent
from lewm_agent.tools.workers import worker_pool

MakeEnvironment = Callable[[], Environment]
Ending = Callable[[Pair, NDArray[np.float64]], bool]
"""Whether an episode ends here, from its pair and the states visited so far (T, S)."""
Watcher = Callable[[Any, bool], None]
"""Is given the agent's memory of an episode after a decision, and whether a plan was made."""


@dataclass
class Trace:
    """What happened on one pair: visited states (T + 1, S), distances (T + 1,), and the time to decide.

    T is the budget, or less where the episode ended before. Seconds are wall-clock; time spent deciding for several
    environments at once is shared out evenly.
    """

    states: list[NDArray[np.float64]] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    plans: int = 0
    planning_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, info: dict[str, Any]) -> None:
        """Record the situation after a reset or a step."""
        self.states.append(np.array(info["state"]))
        self.distances.append(float(info["distance"]))

    def add_decision(self, seconds: float, planned: bool) -> None:
        """Count one decision, and whether it made a plan."""
        self.seconds += seconds
        if planned:
            self.plans += 1
            self.planning_seconds += seconds


def make_environment(environment: str, kwargs: dict[str, Any]) -> Environment:
    """A world to play pairs in. The task's own termination is off: an episode goes on after its first success."""
    fixed = {"render_mode": "rgb_array", "terminate_on_success": False}
    return gym.make(environment, disable_env_checker=True, **{**kwargs, **fixed})


def play_floor(
    env: Environment, floor: Floor, seed: int, budget: int, numbers: Sequence[int], pairs: Sequence[Pair]
) -> Iterator[Trace]:
    """Traces of a controller that needs no frames, one after the other.

    Args:
        env: where it plays.
        floor: the controller.
        seed: its randomness depends on this and the pair's number only.
        budget: environment steps.
        numbers: places of the pairs in their list.
        pairs: to be played.
    """
    low, high = action_bounds(env.action_space)
    for number, pair in zip(numbers, pairs, strict=True):
        rng = np.random.default_rng([seed, number])
        trace = Trace()
        _, info = restore(env, pair, pair.state)
        trace.add(info)
        for step in range(budget):
            action = np.asarray(floor(pair, step, info, rng), dtype=np.float32)
            info = env.step(np.clip(action, low, high))[-1]
            trace.add(info)
        yield trace


@dataclass
class Player:
    """An agent that plays pairs, several at a time.

    Attributes:
        make: makes one environment that renders.
        agent: who acts.
        seed: of the planner's noise; every pair has its own, so a trace does not depend on which others are played.
        budget: environment steps on each pair.
        watcher: is shown every decision of every pair.
        ending: where an episode ends before the budget does; None: nowhere.
    """

    make: MakeEnvironment
    agent: GoalAgent[Any, Any]
    seed: int
    budget: int
    watcher: Watcher | None = None
    ending: Ending | None = None
    _environments: list[Environment] = field(default_factory=list)

    def play(self, numbers: Sequence[int], pairs: Sequence[Pair]) -> list[Trace]:
        """Traces of some pairs, played side by side; ``numbers`` are their places in the list of pairs."""
        while len(self._environments) < len(pairs):
            self._environments.append(self.make())
        envs = self._environments[: len(pairs)]
        traces = [Trace() for _ in pairs]
        for env, pair, trace in zip(envs, pairs, traces, strict=True):
            trace.add(restore(env, pair, pair.state)[1])
        goals = np.stack([env.unwrapped.goal_frame() for env in envs])  # type: ignore[attr-defined]
        frames = np.zeros_like(goals)
        memories = list(self.agent.initial_memories([pair_seed(self.seed, number) for number in numbers]))
        going_on = list(range(len(pairs)))
        for _ in range(self.budget):
            for i in going_on:
                if self.agent.controller.needs_frame(memories[i]):
                    frames[i] = envs[i].render()
            observation = {"pixels": frames[going_on], "goal": goals[going_on]}
            began = time.perf_counter()
            actions, decided = self.agent.predict(observation, [memories[i] for i in going_on])
            seconds = (time.perf_counter() - began) / len(going_on)
            for i, action, memory in zip(going_on, actions, decided, strict=True):
                planned = memory.plans > memories[i].plans
                memories[i] = memory
                traces[i].add_decision(seconds, planned)
                if self.watcher is not None:
                    self.watcher(memory, planned)
                traces[i].add(envs[i].step(action)[-1])
            going_on = [i for i in going_on if not self._is_over(pairs[i], traces[i])]
            if not going_on:
                break
        return traces

    def _is_over(self, pair: Pair, trace: Trace) -> bool:
        return self.ending is not None and self.ending(pair, np.stack(trace.states))


MakePlayer = Callable[[], Player]
Batch = tuple[list[int], list[Pair]]
_player: Player | None = None


def play_in_processes(make_player: MakePlayer, batches: Sequence[Batch], workers: int) -> Iterator[tuple[int, Trace]]:
    """Number and trace of every pair of the batches, as they are finished; processor cores are shared out evenly.

    Args:
        make_player: makes the player, once in every process; picklable.
        batches: pairs that are played side by side, with their numbers.
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


def restore(env: Environment, pair: Pair, state: NDArray[np.float64]) -> tuple[Any, dict[str, Any]]:
    """Put an environment into a state (S,), with the goal and the look of a pair."""
    return env.reset(seed=0, options={"state": state, "goal_state": pair.goal_state, "factors": pair.factors})


def pair_seed(seed: int, index: int) -> int:
    """Seed of the planner's noise on one pair of a list."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
