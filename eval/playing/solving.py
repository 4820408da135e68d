"""Play pairs of a world with an agent only until they are solved: for commands that compare many agents."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lewm_agent import LeWMAgent
from lewm_agent.agents.registry import Agent
from lewm_agent.environment import Environment
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.playing.subgoals import Guide
from lewm_agent.eval.worlds.protocols import Pair, Protocol
from lewm_agent.eval.worlds.world import restore
from lewm_agent.evaluation.playing import Player, Trace
from lewm_agent.evaluation.trials import Trial


def play_shipped(
    agent: LeWMAgent,
    environment: str,
    protocol_name: str,
    episodes: int,
    planner_seed: int = 0,
    *,
    num_envs: int = 1,
    to_the_end: bool = False,
) -> Iterator[tuple[Trace, bool]]:
    """Every trace, up to where its pair is solved, and whether it is; neither depends on ``num_envs``.

    Args:
        agent: who acts.
        environment: Gymnasium id.
        protocol_name: which pairs, and what counts as success.
        episodes: how many pairs of the shipped list, from its beginning.
        planner_seed: of the planner's noise.
        num_envs: pairs that are played side by side.
        to_the_end: play solved pairs on until the budget ends, so that times are those of whole plans.
    """
    suite = shipped(environment, protocol_name).first(episodes).suite(agent.description.environment_kwargs)
    trials, success = suite.trials, suite.success

    def solved(trial: Trial, states: NDArray[np.float64]) -> bool:
        return bool(success.holds(states, trial)[1:].any())

    player = Player(suite.make, agent, success, planner_seed, suite.budget, ending=None if to_the_end else solved)
    for first in range(0, len(trials), num_envs):
        batch = trials[first : first + num_envs]
        for trial, trace in zip(batch, player.play(range(first, first + len(batch)), batch), strict=True):
            yield trace, solved(trial, np.stack(trace.states))


@dataclass(frozen=True)
class Played:
    """What became of one pair.

    Attributes:
        solved_at: step at which it was solved first; None if it was not.
        decisions: how many were made.
        seconds: they took together, without what a guide takes.
    """

    solved_at: int | None
    decisions: int
    seconds: float


def play_pair(
    agent: Agent, env: Environment, rules: Protocol, pair: Pair, seed: int, guide: Guide | None = None
) -> Played:
    """Play one pair until it is solved or the budget ends.

    Args:
        agent: who acts.
        env: where, made as the rules say.
        rules: what counts as solved, and the budget.
        pair: start and goal.
        seed: of the planner's noise.
        guide: hands the agent subgoals, whenever a plan is due, in place of the goal.
    """
    _, info = restore(env, pair, pair.state)
    states, seconds = [np.array(info["state"])], 0.0
    goal = np.asarray(env.unwrapped.goal_frame())  # type: ignore[attr-defined]
    (memory,), frame = agent.initial_memories([seed]), goal
    for step in range(1, rules.budget + 1):
        if agent.controller.needs_frame(memory):
            frame = np.asarray(env.render())
        if guide is not None and not memory.queue:
            memory, goal = guide.aimed(memory, frame, states)
        began = time.perf_counter()
        actions, (memory,) = agent.predict({"pixels": frame[None], "goal": goal[None]}, [memory])
        seconds += time.perf_counter() - began
        states.append(np.array(env.step(actions[0])[-1]["state"]))
        if rules.success(np.stack(states), pair.goal_state)[-1]:
            return Played(step, step, seconds)
    return Played(None, rules.budget, seconds)
