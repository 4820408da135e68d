"""The command ``lewm improve``: rounds of own attempts and learning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from lewm_agent.agents.registry import Agent, load_agent
from lewm_agent.attempts.rounds import VALIDATION_SEED, Row
from lewm_agent.eval.options import ProtocolName
from lewm_agent.eval.pairs import draw, recorded_in
from lewm_agent.eval.worlds import world_of
from lewm_agent.evaluation.suite import Suite
from lewm_agent.tools import command


def improve(
    model: str,
    data: tyro.conf.UseAppendAction[tuple[Path, ...]],
    output: Path,
    rounds: int = 3,
    episodes: int = 300,
    goals: str = "task",
    success: str | None = None,
    offset: int = 25,
    budget: int | None = None,
    noise: float = 0.1,
    epochs: float = 1.0,
    share: float = 0.5,
    pairs: int = 50,
    protocol: ProtocolName | None = None,
    num_envs: int = 1,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Try to reach goals, learn from the data and all attempts, and so on; keep the best round's model.

    An interrupted call continues, with the same attempts, batches and models; more rounds may then be asked for.

    Args:
        model: to begin with: output of a training, folder, bundled name or Hub id.
        data: folder of the dataset that is part of every training; given again, of a further one.
        output: gets round-0/, round-1/, ... (data/, training/, model/, validation.json), improve.json, curve.png, and
            model/, the best.
        rounds: of attempts and learning.
        episodes: attempts in each.
        goals: of attempts and pairs: `task`, the environment's own; a dataset, a .json list, or module:function.
        success: when a goal of a dataset or list is reached: a key of info, a column with a tolerance (state:0.05), or
            module:function.
        offset: environment steps from start to goal, with --goals DATASET.
        budget: steps of an attempt; by default twice the offset, or until the environment's time limit.
        noise: added to every action of an attempt: its standard deviation, from 0 to 1 of half the range.
        epochs: passes over all clips in each round, with a schedule of its own.
        share: of the clips that comes from the attempts of all rounds together; the rest is the data's.
        pairs: of start and goal that rounds are compared on; never the shipped ones.
        protocol: of these pairs, in a world of this package (docs/reference/protocols.md), instead of --goals.
        num_envs: processes that make attempts; nothing depends on it.
        seed: of attempts and training.
        device: auto, cpu, cuda or mps.
    """
    agent = load_agent(model, device=device)
    validation = None if protocol is None else _of_protocol(agent, protocol, pairs)
    result = agent.improve(
        data,
        output,
        rounds=rounds,
        episodes=episodes,
        goals=goals,
        success=success,
        offset=offset,
        budget=budget,
        noise=noise,
        epochs=epochs,
        share=share,
        pairs=pairs,
        validation=validation,
        num_envs=num_envs,
        seed=seed,
        told=lambda row: command.say(in_words(row)),
    )
    command.console().print(table(result))
    command.say(f"the best, round {result['best_round']}, is in {output / 'model'}")


def _of_protocol(agent: Agent, protocol: ProtocolName, pairs: int) -> Suite:
    """Pairs of a world of this package, drawn with another seed than the shipped ones."""
    trained_in = agent.description.environment_kwargs
    world = world_of(str(agent.description.environment))
    kwargs = recorded_in(trained_in)
    with command.console(stderr=True).status("drawing pairs"):
        return draw(world.environment, protocol, pairs, VALIDATION_SEED, kwargs).suite(trained_in)


def in_words(row: Row) -> str:
    """A row of the table as a line."""
    low, high = row["success_rate_ci95"]
    return (
        f"round {row['round']}: {row['success_rate']:.1f} % [{low:.1f}, {high:.1f}] of {row['pairs']} pairs after "
        f"{row['environment_steps']} steps of attempts and {row['minutes']:.1f} minutes"
    )


def table(result: dict[str, Any]) -> Table:
    """The rounds for a terminal."""
    shown = Table("round", "success %", "95 % interval", "attempts", "reached %", "their steps", "minutes")
    for row in result["rounds"]:
        low, high = row["success_rate_ci95"]
        reached = row["attempts_reached_percent"]
        shown.add_row(
            f"{row['round']}{' (best)' if row['round'] == result['best_round'] else ''}",
            f"{row['success_rate']:.1f}",
            f"{low:.1f} to {high:.1f}",
            str(row["attempts"]),
            "" if reached is None else f"{reached:.1f}",
            str(row["environment_steps"]),
            f"{row['minutes']:.1f}",
        )
    return shown


def _work(given: list[str], prog: str | None) -> None:
    tyro.cli(improve, args=given, prog=prog)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(lambda given: _work(given, prog), arguments, continues="the same command continues")
