"""Names of the environments of this package."""

from __future__ import annotations

import difflib

import gymnasium as gym

ENVIRONMENTS: dict[str, str] = {
    "cube": "lewm/Cube-v0",
    "push_t": "lewm/PushT-v0",
    "reacher": "lewm/Reacher-v0",
    "two_room": "lewm/TwoRoom-v0",
}
"""Short name of an environment -> its Gymnasium id."""
_WORLDS = {
    "cube": ("cube.env:CubeEnv", 200),
    "push_t": ("push_t.env:PushTEnv", 200),
    "reacher": ("reacher.env:ReacherEnv", 200),
    "two_room": ("two_room.env:TwoRoomEnv", 100),
}
"""Short name -> where its class is, and after how many steps an episode is cut off."""


def register_environments() -> None:
    """Make the environments known to ``gymnasium.make``; runs when ``lewm_agent.envs`` is imported."""
    for name, (entry_point, steps) in _WORLDS.items():
        gym.register(id=ENVIRONMENTS[name], entry_point=f"lewm_agent.envs.{entry_point}", max_episode_steps=steps)


def short_name(gymnasium_id: str) -> str:
    """Inverse of ``ENVIRONMENTS``. Raises ``KeyError`` for an environment of others."""
    return {known: name for name, known in ENVIRONMENTS.items()}[gymnasium_id]


def environment_id(name: str) -> str:
    """Return the Gymnasium id for a short name; an id that Gymnasium knows, or ``module:id``, is returned as it is.

    Raises:
        ValueError: if there is no such environment; the message names the closest one.
    """
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name]
    if name in gym.registry or ":" in name:
        return name
    known = [*ENVIRONMENTS, *ENVIRONMENTS.values()]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"this package has {', '.join(ENVIRONMENTS)}"
    raise ValueError(f"no environment `{name}`; {hint}")
