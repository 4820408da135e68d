"""Play the shipped pairs of a world with an agent, and see which are solved: for commands that compare many agents."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lewm_agent import LeWMAgent
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.playing.rollouts import Player, Trace, make_environment
from lewm_agent.eval.worlds import world_of
from lewm_agent.eval.worlds.protocols import Pair, ProtocolName


def play_shipped(
    agent: LeWMAgent,
    environment: str,
    protocol_name: ProtocolName,
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
    rules = world_of(environment).protocol(protocol_name)
    pairs = shipped(environment, protocol_name).first(episodes).pairs
    kwargs = {**agent.description.environment_kwargs, **rules.environment_kwargs}
    make = functools.partial(make_environment, environment, kwargs)

    def solved(pair: Pair, states: NDArray[np.float64]) -> bool:
        return bool(rules.success(states, pair.goal_state)[1:].any())

    player = Player(make, agent, planner_seed, rules.budget, ending=None if to_the_end else solved)
    for first in range(0, len(pairs), num_envs):
        batch = pairs[first : first + num_envs]
        for pair, trace in zip(batch, player.play(range(first, first + len(batch)), batch), strict=True):
            yield trace, solved(pair, np.stack(trace.states))
