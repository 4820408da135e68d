"""Starts and goals of any environment, for commands that play them."""

from __future__ import annotations

from typing import Any

from lewm_agent import environment
from lewm_agent.envs import ENVIRONMENTS, environment_id
from lewm_agent.eval.command import check_world
from lewm_agent.evaluation.suite import Suite
from lewm_agent.goal_agent import GoalAgent
from lewm_agent.tools.command import console


def check_has_record(env: str) -> None:
    """Raise ``ValueError`` for an environment that is no world of this package, whose goals nobody has said."""
    if environment_id(env) not in ENVIRONMENTS.values():
        raise ValueError(
            f"say where starts and goals in {env} come from: --goals DATASET (with --success), --goals task "
            "for its own goals, or --goals LIST.json"
        )


def any_suite(agent: GoalAgent[Any, Any], env: str, goals: str, **asked: Any) -> Suite:
    """Starts and goals in an environment that is made as the agent knows it.

    Args:
        agent: who is to play; trained there.
        env: short name or Gymnasium id.
        goals: where they come from.
        asked: further arguments of :meth:`GoalAgent.suite`.
    """
    kwargs = {**agent.description.environment_kwargs, "image_size": agent.config.model.image_size}
    made = environment.make(env, **kwargs)
    check_world(agent, environment.name_of(made))
    with console(stderr=True).status("coming to the starts"):
        return agent.suite(made, goals=goals, **asked)
