"""Play the shipped pairs of a world with an agent, and see which are solved: for commands that compare many agents."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from lewm_agent import LeWMAgent
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.protocols import ProtocolName, protocol
from lewm_agent.eval.rollouts import Player, Trace, make_environment


def play_shipped(
    agent: LeWMAgent,
    environment: str,
    protocol_name: ProtocolName,
    episodes: int,
    planner_seed: int = 0,
    *,
    num_envs: int = 1,
) -> Iterator[tuple[Trace, bool]]:
    """Every trace, and whether its pair was solved; neither depends on ``num_envs``.

    Args:
        agent: who acts.
        environment: Gymnasium id.
        protocol_name: which pairs, and what counts as success.
        episodes: how many pairs of the shipped list, from its beginning.
        planner_seed: of the planner's noise.
        num_envs: pairs that are played side by side.
    """
    rules = protocol(environment, protocol_name)
    pairs = shipped(environment, protocol_name).first(episodes).pairs
    kwargs = {**agent.description.environment_kwargs, **rules.environment_kwargs}
    player = Player(functools.partial(make_environment, environment, kwargs), agent, planner_seed, rules.budget)
    for first in range(0, len(pairs), num_envs):
        batch = pairs[first : first + num_envs]
        for pair, trace in zip(batch, player.play(range(first, first + len(batch)), batch), strict=True):
            yield trace, bool(rules.success(np.stack(trace.states), pair.goal_state)[1:].any())
