"""What evaluation knows of each world: which pairs count, when they are solved, who sets the floors, how to watch it.

A new world is one environment folder, one behavior policy, and one module here that makes its :class:`World`.
"""

from __future__ import annotations

from lewm_agent.envs import ENVIRONMENTS, environment_id
from lewm_agent.eval.worlds import cube, push_t, reacher, two_room
from lewm_agent.eval.worlds.world import World

WORLDS: dict[str, World] = {module.WORLD.name: module.WORLD for module in (cube, push_t, reacher, two_room)}
"""Records by short name of the environment."""


def world_of(name: str) -> World:
    """The record of an environment, called by its short name or its Gymnasium id.

    Raises:
        ValueError: there is no such environment, or it has no record.
    """
    environment = environment_id(name)
    for world in WORLDS.values():
        if world.environment == environment:
            return world
    raise ValueError(
        f"evaluation has no record of {environment}, so it does not know which pairs count and when they are solved; "
        f"it has records of {', '.join(WORLDS)} (a new one is a module in eval/worlds)"
    )


def world_played(environment: str) -> World:
    """The record of a world whose episodes are played anew. Raises ``ValueError`` for other environments."""
    if environment not in ENVIRONMENTS.values():
        raise ValueError(f"say which recorded episodes of {environment} to look at: --dataset (lewm collect)")
    return world_of(environment)
