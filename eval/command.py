"""What the measuring commands share: the options of a model, and how their results are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from lewm_agent import LeWMAgent
from lewm_agent.checkpoints import hub
from lewm_agent.envs import ENVIRONMENTS, environment_id
from lewm_agent.eval.options import DataOptions, ModelOptions
from lewm_agent.goal_agent import GoalAgent
from lewm_agent.tools import command
from lewm_agent.tools.outputs import reserved
from lewm_agent.tools.replacing import write_json

OptionsT = TypeVar("OptionsT")


def model_name(options: DataOptions) -> str:
    """By which the model is asked for. Raises ``ValueError`` where nothing says it."""
    if options.model is not None:
        return options.model
    if options.env is None:
        raise ValueError("say which model: --model, or --env for the bundled one of an environment")
    return bundled(options.env)


def load_subject(options: DataOptions) -> tuple[LeWMAgent, str]:
    """The model that is meant, and its environment. Raises ``ValueError`` if it was trained on another one."""
    agent = LeWMAgent.from_pretrained(model_name(options), device=options.device)
    known = agent.description.environment or "unregistered"
    if options.env is not None and environment_id(options.env).rpartition(":")[2] != known.rpartition(":")[2]:
        raise ValueError(f"the model was trained on {known}, not on {environment_id(options.env)}")
    return agent, known


def bundled(env: str) -> str:
    """Name of the bundled model of an environment, be there a folder called like it. Raises ``ValueError``."""
    names = {gymnasium_id: name for name, gymnasium_id in ENVIRONMENTS.items()}
    name = names.get(environment_id(env))
    if name not in hub.bundled():
        raise ValueError(f"no model of {env} comes with the package: give one with --model")
    return f"{hub.BUNDLED}{name}"


def load_model(name: str, environment: str, device: str, planner: str | None = None) -> LeWMAgent:
    """The agent of that name. Raises ``ValueError`` if it was trained on another environment than this Gymnasium id."""
    agent = LeWMAgent.from_pretrained(name, planner=planner, device=device)
    check_world(agent, environment)
    return agent


def check_world(agent: GoalAgent[Any, Any], environment: str) -> None:
    """Raise ``ValueError`` if an agent was trained on another environment than this Gymnasium id."""
    if agent.description.environment != environment:
        raise ValueError(f"the model was trained on {agent.description.environment}, not on {environment}")


def at_least(options: Any, **fewest: int) -> None:
    """Raise ``ValueError`` unless the options of these names are at least as large."""
    for name, least in fewest.items():
        if getattr(options, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(options, name)}")


def keep(options: ModelOptions | DataOptions, result: dict[str, Any], draw: Callable[[Path], None]) -> None:
    """Write the result and draw the picture where the options ask for them."""
    if options.output is not None:
        write_json(options.output, result)
    if options.picture is not None:
        draw(options.picture)


def run(
    options: type[OptionsT],
    work: Callable[[OptionsT], int | None],
    arguments: Sequence[str] | None,
    *,
    writes: Sequence[str] = (),
    prog: str | None = None,
    continues: str = "",
) -> int:
    """Parse the options, do the work, and return the exit code, as :func:`lewm_agent.tools.command.run` does.

    Args:
        options: dataclass of the command line; its docstring is the description.
        work: what to do with them.
        arguments: instead of the command line's.
        writes: names of the options that are paths of files to be written, which are tried and held before the work;
            one that is called ``picture`` has to end like a picture.
        prog: name of the command, where it is not that of the script.
        continues: how an interrupted run is continued, where it is.
    """

    def parse_and_work(given: list[str]) -> int | None:
        chosen = tyro.cli(options, args=given, description=options.__doc__, prog=prog)
        outputs = {name: getattr(chosen, name) for name in writes}
        if outputs.get("picture") is not None:
            from lewm_agent.eval.reporting.pictures import picture_format  # matplotlib takes long to import

            picture_format(outputs["picture"])
        with reserved(*outputs.values()):
            return work(chosen)

    return command.run(parse_and_work, arguments, continues=continues)
