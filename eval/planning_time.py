"""What does time to think buy? Success against milliseconds, for every search and number of samples.

python eval/planning_time.py --env two_room --episodes 100 --output planning.json
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from lewm_agent import LeWMAgent
from lewm_agent.config import AgentConfig
from lewm_agent.envs import environment_id
from lewm_agent.eval import command
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.playing.solving import play_shipped
from lewm_agent.eval.reporting.planning_picture import draw
from lewm_agent.eval.worlds.protocols import ProtocolName
from lewm_agent.evaluation.intervals import rate
from lewm_agent.evaluation.provenance import hardware, provenance
from lewm_agent.planning.presets import planner_preset
from lewm_agent.planning.settings import PlannerConfig, Precision
from lewm_agent.tools import strict_json
from lewm_agent.tools.command import console, say
from lewm_agent.tools.outputs import reserved
from lewm_agent.tools.progress import counted
from lewm_agent.tools.replacing import write_json
from lewm_agent.tools.settings import settings_to_dict

Point = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Success and time per environment step of a bundled model under every planner and number of samples."""

    env: tuple[str, ...] = ("two_room", "push_t", "reacher", "cube")
    """Worlds, each with its bundled model."""
    planners: tuple[str, ...] = ("small", "icem", "mppi", "gradient", "mixture", "hybrid", "amortised")
    """Planner presets. Those that need an inverse-dynamics head are left out where the model has none."""
    budgets: tuple[float, ...] = (0.25, 1.0, 4.0)
    """Candidates per iteration, in multiples of the preset's own; ``amortised`` has none, ``paper`` keeps its 300."""
    protocol: ProtocolName = "strict"
    """Which pairs, and what counts as success: docs/reference/protocols.md."""
    episodes: int = 100
    """Pairs of the shipped list."""
    planner_seed: int = 0
    """Of the planner's noise."""
    precision: Precision = "float32"
    """Of the predictor in imagination."""
    threads: int = 1
    """Threads of torch, for models of five million parameters and more; smaller ones decide with one."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    output: Path = Path("planning.json")
    """JSON, and a picture of the same name. What it already holds of the same request is not measured again."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, continues="the same command continues")


def _work(options: Options) -> None:
    command.at_least(options, episodes=1, planner_seed=0, threads=1)
    picture = options.output.with_suffix(".png")
    with reserved(options.output, picture):
        points = measure_all(options)
        draw(points, options.protocol, picture)
    console().print(table(points))
    say(f"written to {options.output} and {picture}")


def measure_all(options: Options) -> list[Point]:
    """One point for every world, planner and number of samples, kept in the output as soon as it is measured."""
    torch.set_num_threads(options.threads)
    agents = {name: LeWMAgent.from_pretrained(name, device=options.device) for name in options.env}
    wanted = [
        (world, name, settings)
        for world, agent in agents.items()
        for name, settings in settings_of(options, agent.config)
    ]
    known = _known(options.output)
    points = []
    for world, name, settings in counted("points", wanted):
        request = _request(options, world, agents[world], name, settings)
        found = next((point for point in known if request.items() <= point.items()), None)
        if found is None:
            found = {**request, **measure(options, world, agents[world].set_planner(settings))}
            known.append(found)
            write_json(options.output, known)
        points.append(found)
    return points


def settings_of(options: Options, agent: AgentConfig) -> list[tuple[str, PlannerConfig]]:
    """Every planner with every budget; the share of elites stays, but every Gaussian has two."""
    found = []
    for name in options.planners:
        planner = dataclasses.replace(planner_preset(name, agent.model), precision=options.precision)
        if planner.proposals != "none" and agent.inverse_dynamics is None:
            continue
        fewest = planner.search.fewest_elites
        for budget in (1.0,) if name == "paper" or planner.proposals == "follow" else options.budgets:
            samples, elites = (max(fewest, round(budget * number)) for number in (planner.samples, planner.elites))
            found.append((name, dataclasses.replace(planner, samples=samples, elites=elites)))
    return found


def measure(options: Options, world: str, agent: LeWMAgent) -> Point:
    """Play the pairs of one world with one planner."""
    environment = environment_id(world)
    pairs = play_shipped(agent, environment, options.protocol, options.episodes, options.planner_seed, to_the_end=True)
    traces, solved = zip(*pairs, strict=True)
    origin = {**provenance(agent, world), **shipped(environment, options.protocol).first(options.episodes).origin()}
    steps = sum(len(trace.states) - 1 for trace in traces)
    return {
        **{key: origin[key] for key in ("model", "seed", "pairs_sha256", "command", "versions")},
        **rate(sum(solved), len(solved)),
        "milliseconds_per_step": 1000 * sum(t.seconds for t in traces) / steps,
        "milliseconds_per_plan": 1000 * sum(t.planning_seconds for t in traces) / sum(t.plans for t in traces),
        "solved": list(solved),
    }


def _request(options: Options, world: str, agent: LeWMAgent, name: str, settings: PlannerConfig) -> Point:
    """All that a point depends on, and the planner's name."""
    return {
        "env": world,
        "planner": name,
        "settings": settings_to_dict(settings),
        "protocol": options.protocol,
        "episodes": options.episodes,
        "planner_seed": options.planner_seed,
        "weights_sha256": agent.weights_sha256(),
        "hardware": hardware(agent.device),
    }


def _known(output: Path) -> list[Point]:
    if not output.exists():
        return []
    try:
        points = strict_json.read(output)
    except ValueError:
        points = None
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise ValueError(f"{output} is not JSON of this command: give another --output")
    return points


def table(points: list[Point]) -> Table:
    """The points for a terminal."""
    shown = Table("world", "planner", "samples", "success %", "95 % interval", "ms per step", "ms per plan")
    for point in points:
        low, high = point["success_rate_ci95"]
        shown.add_row(
            point["env"],
            point["planner"],
            str("-" if point["settings"]["proposals"] == "follow" else point["settings"]["samples"]),
            f"{point['success_rate']:.1f}",
            f"{low:.1f} to {high:.1f}",
            f"{point['milliseconds_per_step']:.1f}",
            f"{point['milliseconds_per_plan']:.0f}",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
