"""What plays the pairs of a world beside an agent: the suite of a protocol, with floors and, after them, ceilings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm_agent.datasets.rollout import BehaviorPolicy
from lewm_agent.environment import Environment
from lewm_agent.eval.worlds.protocols import Pair
from lewm_agent.eval.worlds.world import World
from lewm_agent.evaluation.suite import Floor, usual_floors
from lewm_agent.evaluation.trials import Trial


def _expert(policy: BehaviorPolicy) -> Floor:
    """A scripted expert, which sees states and the goal state; what it draws depends on the seed and the trial."""

    def act(trial: Trial, step: int, info: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
        if step == 0:
            policy.reset(int(rng.integers(2**32)))
        return policy(None, info)

    return act


def floors(world: World, pairs: list[Pair], env: Environment) -> dict[str, Floor]:
    """Controllers for pairs of a world; the ceilings come last.

    Args:
        world: whose pairs are played.
        pairs: which; their recorded actions are replayed only where they have some, which those of ``far`` have not.
        env: in which they will be played, one after the other.
    """
    found = usual_floors(env, [pair.trial for pair in pairs])
    replayed = {name: found.pop(name) for name in ("replay",) if name in found}
    line = {} if world.straight_line is None else {"straight_line": world.straight_line}
    return {**found, **line, **replayed, "expert": _expert(world.expert(env))}
