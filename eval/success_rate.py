"""How often does an agent reach goal images it has never seen?

python eval/success_rate.py --env two_room --episodes 200 --protocol strict --output out.json
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lewm_agent import LeWMAgent
from lewm_agent.agents.registry import Agent, agent_classes, load_agent
from lewm_agent.checkpoints.model_card import agent_title
from lewm_agent.environment import Environment
from lewm_agent.eval import command
from lewm_agent.eval.command import bundled, check_world, write_json
from lewm_agent.eval.pairs import PairList, draw, load, shipped
from lewm_agent.eval.playing.journal import Journal
from lewm_agent.eval.playing.rollouts import (
    MakeEnvironment,
    Player,
    Trace,
    make_environment,
    play_floor,
    play_in_processes,
)
from lewm_agent.eval.reporting.intervals import rate
from lewm_agent.eval.reporting.provenance import provenance
from lewm_agent.eval.watching.frame_decoder import FrameDecoder
from lewm_agent.eval.watching.imagination import Expectations
from lewm_agent.eval.watching.videos import write_gif
from lewm_agent.eval.worlds import world_of
from lewm_agent.eval.worlds.floors import floors
from lewm_agent.eval.worlds.protocols import Pair, Protocol, ProtocolName
from lewm_agent.planning.episodes import Frames
from lewm_agent.tools.checks import named
from lewm_agent.tools.command import console, say
from lewm_agent.tools.outputs import reserved

ONLY_IN_TRAINING = ("image_size", "terminate_on_success", "drawn_looks")
"""Arguments of an environment that do not change which pairs can be drawn in it."""
UNFINISHED = ".unfinished"
"""Ending of the file in which an unfinished evaluation keeps what it has."""
VIDEOS = "pairs.gif"
"""Never written: it stands for all GIFs when their folder is tried and held."""
CONTINUES = "with --output, the same command continues with what FILE.unfinished holds"


@dataclass(frozen=True)
class Options:
    """Success rate of an agent on held-out pairs of start and goal, with floors measured on the same pairs."""

    env: str
    """Environment: a short name (two_room) or a Gymnasium id."""
    episodes: int = 50
    """Pairs of start and goal. 50 leave an interval some 12 points wide; 200 are a better number."""
    protocol: ProtocolName = "paper"
    """Which pairs, and what counts as success: docs/reference/protocols.md."""
    pairs: Path | None = None
    """List of pairs made by eval/pairs.py; by default the shipped one of environment and protocol, 200 pairs."""
    seed: int | None = None
    """Draw other pairs with this seed, from held-out episodes that are played anew."""
    planner_seed: int = 0
    """Of the planner's noise."""
    model: str | None = None
    """Bundled name, folder or Hub id; by default the bundled model of the environment."""
    agent: str | None = None
    """Kind of agent that the model has to be: lewm, pldm, dino_wm, gcbc, gcivl, gciql; by default whatever it is."""
    planner: str | None = None
    """Planner preset (small, paper) instead of the settings saved with the model."""
    num_envs: int = 8
    """Environments planned for together; the result does not depend on it."""
    workers: int = 1
    """Processes that play; the result does not depend on it."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    output: Path | None = None
    """Where to write the JSON (docs/reference/results-schema.md); an interrupted one continues from FILE.unfinished."""
    video: Path | None = None
    """Folder for GIFs of the agent beside its goal."""
    videos: int = 10
    """How many GIFs, with --video: half of them the nearest failures, then solved pairs."""
    decoder: Path | None = None
    """Decoder made by eval/reconstruction.py --save: the GIFs also show what each plan expects to see at its end."""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, writes=("output",), prog=prog, continues=CONTINUES)


def _work(options: Options) -> None:
    """Measure, show and write. The numbers are written before any video is drawn: they do not depend on one."""
    with reserved(options.video and options.video / VIDEOS):
        result, draw = evaluate(options)
        console().print(summary(result))
        if options.output is not None:
            write_json(options.output, result)
            say(f"written to {options.output}")
        if options.video is not None:
            say(f"{draw()} videos in {options.video}")
            if options.output is not None:
                write_json(options.output, result)  # now with their names
        if options.output is not None:
            _journal_of(options.output).unlink()


def evaluate(options: Options) -> tuple[dict[str, Any], Callable[[], int]]:
    """Measure; returns the JSON-ready result, and what draws the videos and returns how many there are."""
    command.at_least(options, num_envs=1, workers=1, planner_seed=0, videos=0)
    world = world_of(options.env)
    environment, rules = world.environment, world.protocol(options.protocol)
    agent = _agent(options)
    trained_in = agent.description.environment_kwargs
    check_world(agent, environment)
    decoder = _decoder(options, agent)
    make = functools.partial(make_environment, environment, {**trained_in, **rules.environment_kwargs})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console(stderr=True), transient=True) as progress:
        drawing = progress.add_task("drawing pairs", total=None)
        chosen = _pairs(options, environment, trained_in)
        progress.remove_task(drawing)
        with _journal(options, agent, chosen, rules) as journal:
            traces = _play(options, make, agent, chosen.pairs, rules, journal, progress)
            others = _play_floors(make(), chosen, rules, journal, progress)
    result = _result(options, environment, agent, chosen, traces, rules, others)
    expect = functools.partial(_expected, decoder, Player(make, agent, options.planner_seed, rules.budget))
    return result, functools.partial(_draw_videos, options, make, result["records"], chosen.pairs, traces, expect)


def _agent(options: Options) -> Agent:
    name = options.model or bundled(options.env)
    agent = load_agent(name, planner=options.planner, device=options.device)
    if options.agent is not None:
        named(options.agent, agent_classes(), "agent")
        if agent.kind != options.agent:
            raise ValueError(f"`{name}` is a `{agent.kind}` agent, not a `{options.agent}` one; give it with --model")
    return agent


def _decoder(options: Options, agent: Agent) -> FrameDecoder | None:
    if options.decoder is None:
        return None
    if options.video is None:
        raise ValueError("--decoder draws what the agent expects into GIFs; give a folder for them with --video")
    if not isinstance(agent, LeWMAgent):
        raise ValueError(f"--decoder needs an agent that imagines in LeWM's latents; this one is `{agent.kind}`")
    return FrameDecoder.load(options.decoder, agent.world_model)


def _make_player(options: Options, make: MakeEnvironment, budget: int) -> Player:
    return Player(make, _agent(options), options.planner_seed, budget)


def _journal(options: Options, agent: Agent, chosen: PairList, rules: Protocol) -> Journal:
    """What an interrupted run with the same outcome has played, and where this one keeps what it plays."""
    request = {
        "pairs_sha256": chosen.sha256(),
        "seed": chosen.seed,
        "protocol": options.protocol,
        "budget": rules.budget,
        "weights_sha256": agent.weights_sha256(),
        "planner": agent.planner_settings,
        "planner_seed": options.planner_seed,
    }
    return Journal(_journal_of(options.output) if options.output else None, request)


def _play(
    options: Options,
    make: MakeEnvironment,
    agent: Agent,
    pairs: list[Pair],
    rules: Protocol,
    journal: Journal,
    progress: Progress,
) -> list[Trace]:
    """The traces of all pairs, in their order; finished ones are taken from the journal."""
    bar = progress.add_task("episodes", total=len(pairs), completed=len(journal.finished))
    missing = [number for number in range(len(pairs)) if number not in journal.finished]
    rows = [missing[first : first + options.num_envs] for first in range(0, len(missing), options.num_envs)]
    batches = [(numbers, [pairs[number] for number in numbers]) for numbers in rows]
    played: Iterator[tuple[int, Trace]]
    if options.workers == 1:
        player = Player(make, agent, options.planner_seed, rules.budget)
        played = (item for batch in batches for item in zip(batch[0], player.play(*batch), strict=True))
    else:
        make_player = functools.partial(_make_player, options, make, rules.budget)
        played = play_in_processes(make_player, batches, options.workers)
    for number, trace in played:
        journal.add(number, trace)
        progress.update(bar, advance=1)
    return [journal.finished[number] for number in range(len(pairs))]


def _play_floors(
    env: Environment, chosen: PairList, rules: Protocol, journal: Journal, progress: Progress
) -> dict[str, Any]:
    """Success of every floor and ceiling on all pairs; what is in the journal is not played again."""
    pairs, controllers = chosen.pairs, floors(world_of(chosen.environment), env, rules)
    bar = progress.add_task("floors", total=len(controllers) * len(pairs), completed=len(journal.solved))
    for name, floor in controllers.items():
        missing = [number for number in range(len(pairs)) if (name, number) not in journal.solved]
        traces = play_floor(env, floor, chosen.seed, rules.budget, missing, [pairs[number] for number in missing])
        for number, trace in zip(missing, traces, strict=True):
            journal.add_floor(name, number, bool(_holds(trace, pairs[number], rules)[1:].any()))
            progress.update(bar, advance=1)
    count = len(pairs)
    return {name: rate(sum(journal.solved[name, number] for number in range(count)), count) for name in controllers}


def _journal_of(output: Path) -> Path:
    return output.with_name(output.name + UNFINISHED)


def _pairs(options: Options, environment: str, trained_in: dict[str, Any]) -> PairList:
    """The list asked for: from a file, drawn anew, or the shipped one."""
    if options.pairs is not None and options.seed is not None:
        raise ValueError("give a list of pairs (--pairs) or a seed to draw others (--seed), not both")
    kwargs = {name: value for name, value in trained_in.items() if name not in ONLY_IN_TRAINING}
    if options.seed is not None:
        return draw(environment, options.protocol, options.episodes, options.seed, kwargs)
    pairs = load(options.pairs) if options.pairs else shipped(environment, options.protocol)
    made_for, asked_for = (pairs.environment, pairs.protocol), (environment, options.protocol)
    if made_for != asked_for:
        raise ValueError(f"these pairs were made for {' and '.join(made_for)}, not for {' and '.join(asked_for)}")
    if pairs.environment_kwargs != kwargs:
        raise ValueError(
            f"these pairs were recorded in an environment with {pairs.environment_kwargs}, the model was trained in "
            f"one with {kwargs}; give --seed to draw others"
        )
    return pairs.first(options.episodes)


def _holds(trace: Trace, pair: Pair, rules: Protocol) -> Any:
    return rules.success(np.stack(trace.states), pair.goal_state)


def _result(
    options: Options,
    environment: str,
    agent: Agent,
    chosen: PairList,
    traces: list[Trace],
    rules: Protocol,
    others: dict[str, Any],
) -> dict[str, Any]:
    pairs = chosen.pairs
    holds = [_holds(trace, pair, rules) for trace, pair in zip(traces, pairs, strict=True)]
    records = [_record(p, t, h) for p, t, h in zip(pairs, traces, holds, strict=True)]
    count = len(pairs)
    return {
        "env": environment,
        "protocol": options.protocol,
        "budget": rules.budget,
        "planner_seed": options.planner_seed,
        **rate(sum(record["success"] for record in records), count),
        "success_at_end": round(100 * sum(record["success_at_end"] for record in records) / count, 2),
        "start_solved_percent": round(100 * sum(record["start_solved"] for record in records) / count, 2),
        "starts": _by_start(environment, pairs, records),
        "floors": others,
        "seconds_per_plan": sum(t.planning_seconds for t in traces) / max(1, sum(t.plans for t in traces)),
        "seconds_per_decision": sum(t.seconds for t in traces) / (count * rules.budget),
        "workers": options.workers,
        **provenance(agent, options.model or options.env, chosen),
        "records": records,
    }


def _by_start(environment: str, pairs: list[Pair], records: list[dict[str, Any]]) -> dict[str, Any]:
    """Success on every kind of start that is reported apart and occurs."""
    outcomes = {
        name: [record["success"] for pair, record in zip(pairs, records, strict=True) if belongs(pair.state)]
        for name, belongs in world_of(environment).starts.items()
    }
    return {name: {"pairs": len(o), **rate(sum(o), len(o))} for name, o in outcomes.items() if o}


def _record(pair: Pair, trace: Trace, holds: Any) -> dict[str, Any]:
    first = int(np.argmax(holds[1:])) + 1 if holds[1:].any() else None
    return {
        "episode": pair.episode,
        "start_row": pair.start,
        "state": pair.state.tolist(),
        "goal_state": pair.goal_state.tolist(),
        "factors": pair.factors,
        "start_solved": bool(holds[0]),
        "success": first is not None,
        "success_at_end": bool(holds[-1]),
        "first_success_step": first,
        "final_distance": round(trace.distances[-1], 4),
        "least_distance": round(min(trace.distances[1:]), 4),
        "video": None,
    }


def summary(result: dict[str, Any]) -> Group:
    """The result for a terminal."""
    title = (
        f"{result['env']}, protocol {result['protocol']}, {result['episodes']} held-out pairs, seed {result['seed']}"
    )
    table = Table("policy", "success %", "95 % interval")
    starts = {f"- {name} ({row['pairs']})": row for name, row in result["starts"].items()}
    rows = {f"{agent_title(result['agent'])} agent": result, **starts, **result["floors"]}
    for name, row in rows.items():
        low, high = row["success_rate_ci95"]
        table.add_row(name.replace("_", " "), f"{row['success_rate']:.1f}", f"{low:.1f} to {high:.1f}")
    notes = (
        f"still solved at the end: {result['success_at_end']:.1f} %; solved at the start: "
        f"{result['start_solved_percent']:.1f} %; {1000 * result['seconds_per_plan']:.0f} ms per plan, "
        f"{1000 * result['seconds_per_decision']:.1f} ms per decision"
    )
    return Group(title, table, notes)


def _expected(decoder: FrameDecoder | None, player: Player, number: int, pair: Pair) -> list[Frames]:
    """What the plan of every step leads to: the pair is played once more, which goes as before."""
    if decoder is None or not isinstance(player.agent, LeWMAgent):
        return []
    expectations = Expectations(player.agent, decoder)
    player.watcher = expectations
    player.play([number], [pair])
    return expectations.frames


def _draw_videos(
    options: Options,
    make: MakeEnvironment,
    records: list[dict[str, Any]],
    pairs: list[Pair],
    traces: list[Trace],
    expect: Callable[[int, Pair], list[Frames]],
) -> int:
    """GIFs of the nearest failures and of solved pairs; their paths go into the records. Returns how many."""
    env = make()
    folder = options.video or Path()
    start = options.output.parent if options.output else Path()
    failed = sorted(
        (n for n, record in enumerate(records) if not record["success"]), key=lambda n: records[n]["least_distance"]
    )
    solved = [n for n, record in enumerate(records) if record["success"]]
    few = failed[: max(options.videos // 2, options.videos - len(solved))]
    shown = [*few, *solved[: options.videos - len(few)]]
    for number in shown:
        record = records[number]
        path = folder / f"pair-{number:03d}-{'solved' if record['success'] else 'failed'}.gif"
        expected = expect(number, pairs[number])
        write_gif(path, env, pairs[number], traces[number], record["first_success_step"], expected)
        record["video"] = os.path.relpath(path, start)
    return len(shown)


if __name__ == "__main__":
    sys.exit(main())
