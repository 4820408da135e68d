"""What the smaller measuring commands share: the options of a model, and one sentence for what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.markup import escape

from lewm_agent import LeWMAgent
from lewm_agent.goal_agent import GoalAgent
from lewm_agent.tools.replacing import write_atomically

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True)
class ModelOptions:
    """Which model to look into, and where the result goes."""

    env: str
    """Environment: a short name (push_t) or a Gymnasium id."""
    model: str | None = None
    """Bundled name, folder or Hub id; by default the bundled model of the environment."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    output: Path | None = None
    """Where to write the JSON."""
    picture: Path | None = None
    """Where to draw the figures (PNG)."""


def load_model(name: str, environment: str, device: str, planner: str | None = None) -> LeWMAgent:
    """The agent of that name. Raises ``ValueError`` if it was trained on another environment than this Gymnasium id."""
    agent = LeWMAgent.from_pretrained(name, planner=planner, device=device)
    check_world(agent, environment)
    return agent


def check_world(agent: GoalAgent[Any, Any], environment: str) -> None:
    """Raise ``ValueError`` if an agent was trained on another environment than this Gymnasium id."""
    if agent.description.environment != environment:
        raise ValueError(f"the model was trained on {agent.description.environment}, not on {environment}")


def keep(options: ModelOptions, result: dict[str, Any], draw: Callable[[Path], None]) -> None:
    """Write the result and draw the picture where the options ask for them."""
    if options.output is not None:
        write_atomically(options.output, json.dumps(result, indent=1) + "\n")
    if options.picture is not None:
        draw(options.picture)


def run(
    options: type[OptionsT], work: Callable[[OptionsT], None], arguments: list[str] | None, *, resumes: bool = False
) -> int:
    """Parse the options, do the work, and return the exit code.

    Args:
        options: dataclass of the command line; its docstring is the description.
        work: what to do with them.
        arguments: instead of the command line's.
        resumes: whether the same command continues what was interrupted.

    Returns:
        2, with one sentence, after a ``ValueError``; 130 when interrupted.
    """
    console = Console(stderr=True)
    try:
        work(tyro.cli(options, args=arguments, description=options.__doc__))
    except ValueError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues" if resumes else "interrupted", highlight=False)
        return 130
    return 0
