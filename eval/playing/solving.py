"""Play the shipped pairs of a world with an agent, and see which are solved: for commands that compare many agents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lewm_agent import LeWMAgent
from lewm_agent.eval.pairs import shipped
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
