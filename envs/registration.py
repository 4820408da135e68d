"""Names of the environments of this package."""

from __future__ import annotations

import difflib

import gymnasium as gym

_REGISTERED = {
    "cube": ("lewm/Cube-v0", "CubeEnv", 200),
    "push_t": ("lewm/PushT-v0", "PushTEnv", 200),
    "reacher": ("lewm/Reacher-v0", "ReacherEnv", 200),
    "two_room": ("lewm/TwoRoom-v0", "TwoRoomEnv", 100),
}
"""Short name, also of the folder -> Gymnasium id, the class in ``env.py``, and when an episode is cut off."""
ENVIRONMENTS: dict[str, str] = {name: gymnasium_id for name, (gymnasium_id, _, _) in _REGISTERED.items()}
"""Short name of an environment -> its Gymnasium id."""


def register_environments() -> None:
    """Make the environments known to ``gymnasium.make``; runs when ``lewm_agent.envs`` is imported."""
    for name, (gymnasium_id, class_name, steps) in _REGISTERED.items():
        gym.register(gymnasium_id, f"lewm_agent.envs.{name}.env:{class_name}", max_episode_steps=steps)


def environment_id(name: str) -> str:
    """Return the Gymnasium id for a short name; an id that Gymnasium knows, or ``module:id``, is returned as it is.

    Raises:
        ValueError: if there is no such environment; the message names the closest one.
    """
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name]
    if name in gym.registry or ":" in name:
        return name
    close = difflib.get_close_matches(name, [*ENVIRONMENTS, *gym.registry], n=1)
    here = f"this package has {', '.join(ENVIRONMENTS)}; one of another package is called module:{name}"
    hint = f"did you mean `{close[0]}`?" if close else here
    raise ValueError(f"no environment `{name}`; {hint}")
