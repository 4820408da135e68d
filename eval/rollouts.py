"""Play pairs with an agent or with a simple controller, and record which states were visited."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from lewm_agent import LeWMAgent
from lewm_agent.controller import Frames
from lewm_agent.environment import action_bounds
from lewm_agent.eval.protocols import BUDGET, Pair

Environment = gym.Env[Any, Any]
MakeEnvironment = Callable[[], Environment]
Floor = Callable[[Pair, int, dict[str, Any], np.random.Generator], NDArray[Any]]
"""Pair, time step, info of the environment and a generator to an action."""


@dataclass
class Trace:
    """What happened on one pair: visited states (51, S), distances (51,), and frames if they were asked for."""

    states: list[NDArray[np.float64]] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    frames: list[Frames] = field(default_factory=list)
    goal_frame: Frames | None = None

    def add(self, info: dict[str, Any]) -> None:
        """Record the situation after a reset or a step."""
        self.states.append(np.array(info["state"]))
        self.distances.append(float(info["distance"]))


@dataclass
class Clock:
    """Wall-clock seconds spent deciding, and how often."""

    seconds: float = 0.0
    planning_seconds: float = 0.0
    plans: int = 0
    decisions: int = 0

    def add(self, seconds: float, plans: int, decisions: int) -> None:
        """Count one call that decided for several environments."""
        self.seconds += seconds
        self.decisions += decisions
        self.plans += plans
        self.planning_seconds += seconds if plans else 0.0


def play_floor(make: MakeEnvironment, pairs: Sequence[Pair], floor: Floor, seed: int) -> list[Trace]:
    """Traces of a controller that needs no frames; its randomness depends on the seed and the pair only."""
    env = make()
    low, high = action_bounds(env.action_space)
    traces = []
    for index, pair in enumerate(pairs):
        rng = np.random.default_rng([seed, index])
        trace = Trace()
        _, info = _restore(env, pair)
        trace.add(info)
        for step in range(BUDGET):
            action = np.asarray(floor(pair, step, info, rng), dtype=np.float32)
            info = env.step(np.clip(action, low, high))[-1]
            trace.add(info)
        traces.append(trace)
    return traces


def play_agent(
    make: MakeEnvironment,
    agent: LeWMAgent,
    pairs: Sequence[Pair],
    *,
    seed: int,
    num_envs: int,
    keep_frames: int = 0,
    progress: Progress | None = None,
) -> tuple[list[Trace], Clock]:
    """Traces of the agent, ``num_envs`` pairs at a time.

    Args:
        make: makes one environment that renders.
        agent: who acts.
        pairs: starts and goals.
        seed: of the planner's noise; pair i has its own, so the result does not depend on ``num_envs``.
        num_envs: environments that are planned for together.
        keep_frames: how many of the first pairs keep all their frames, for videos.
        progress: where to show how many pairs are done.
    """
    clock = Clock()
    envs = [make() for _ in range(min(num_envs, len(pairs)))]
    bar = progress.add_task("episodes", total=len(pairs)) if progress else None
    traces: list[Trace] = []
    for first in range(0, len(pairs), len(envs)):
        chosen = pairs[first : first + len(envs)]
        keep = [first + i < keep_frames for i in range(len(chosen))]
        traces += _play_together(envs[: len(chosen)], agent, chosen, [seed, first], keep, clock)
        if progress and bar is not None:
            progress.update(bar, completed=len(traces))
    return traces, clock


def _play_together(
    envs: Sequence[Environment],
    agent: LeWMAgent,
    pairs: Sequence[Pair],
    seed: Sequence[int],
    keep: Sequence[bool],
    clock: Clock,
) -> list[Trace]:
    traces = [Trace() for _ in pairs]
    for env, pair, trace in zip(envs, pairs, traces, strict=True):
        trace.add(_restore(env, pair)[1])
    goals = np.stack([env.unwrapped.goal_frame() for env in envs])  # type: ignore[attr-defined]
    frames = np.zeros_like(goals)
    run_seed, first = seed
    memories = agent.initial_memories([_seed_of(run_seed, first + i) for i in range(len(pairs))])
    for step in range(BUDGET + 1):
        for i, env in enumerate(envs):
            if keep[i] or agent.controller.needs_frame(memories[i]):
                frames[i] = env.render()
            if keep[i]:
                traces[i].frames.append(frames[i].copy())
                traces[i].goal_frame = goals[i]
        if step == BUDGET:
            break
        plans = sum(memory.plans for memory in memories)
        began = time.perf_counter()
        actions, memories = agent.predict({"pixels": frames, "goal": goals}, memories)
        seconds = time.perf_counter() - began
        clock.add(seconds, sum(memory.plans for memory in memories) - plans, len(envs))
        for env, action, trace in zip(envs, actions, traces, strict=True):
            trace.add(env.step(action)[-1])
    return traces


def _restore(env: Environment, pair: Pair) -> tuple[Any, dict[str, Any]]:
    return env.reset(seed=0, options={"state": pair.state, "goal_state": pair.goal_state})


def _seed_of(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
