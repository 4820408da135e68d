"""How often does an agent reach goal images it has never seen?

python eval/success_rate.py --env two_room --episodes 200 --protocol strict --seed 7 --output out.json
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from scipy.stats import binomtest

from lewm_agent import LeWMAgent
from lewm_agent.checkpoint import CheckpointError
from lewm_agent.environment import action_bounds
from lewm_agent.envs import environment_id
from lewm_agent.eval.floors import floors
from lewm_agent.eval.protocols import Pair, Protocol, draw_pairs, protocol
from lewm_agent.eval.rollouts import Clock, Trace, play_agent, play_floor
from lewm_agent.eval.videos import write_gif

PACKAGES = ("lewm-agent", "torch", "timm", "gymnasium", "numpy")


@dataclass(frozen=True)
class Options:
    """Success rate of an agent on held-out pairs of start and goal, with floors measured on the same pairs."""

    env: str
    """Environment: a short name (two_room) or a Gymnasium id."""
    episodes: int = 50
    """Pairs of start and goal. 50 leave an interval some 12 points wide; 200 are a better number."""
    protocol: Literal["paper", "moderate", "strict"] = "paper"
    """Which pairs, and what counts as success: docs/protocols.md."""
    seed: int = 0
    """Of the pairs."""
    planner_seed: int = 0
    """Of the planner's noise."""
    model: str | None = None
    """Bundled name, folder or Hub id; by default the bundled model of the environment."""
    planner: str | None = None
    """Planner preset (small, paper) instead of the settings saved with the model."""
    num_envs: int = 8
    """Environments planned for together; the result does not depend on it."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    output: Path | None = None
    """Where to write the JSON (docs/results-schema.md)."""
    video: Path | None = None
    """Folder for GIFs of the agent beside its goal."""
    videos: int = 10
    """How many GIFs, with --video."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    console = Console()
    try:
        options = tyro.cli(Options, args=arguments, description=Options.__doc__)
        result, traces = evaluate(options)
    except (ValueError, CheckpointError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False)
        return 2
    console.print(summary(result), highlight=False)
    if options.video is not None:
        count = write_videos(options.video, result["records"], traces[: options.videos])
        console.print(f"{count} videos in {options.video}")
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"written to {options.output}")
    return 0


def evaluate(options: Options) -> tuple[dict[str, Any], list[Trace]]:
    """Measure; returns the JSON-ready result and the agent's traces."""
    if options.num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {options.num_envs}")
    environment = environment_id(options.env)
    rules = protocol(environment, options.protocol)
    agent = LeWMAgent.from_pretrained(options.model or options.env, planner=options.planner, device=options.device)
    if agent.description.environment != environment:
        raise ValueError(f"the model was trained on {agent.description.environment}, not on {environment}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        drawing = progress.add_task("drawing pairs", total=None)
        pairs = draw_pairs(environment, rules, options.episodes, options.seed, agent.description.environment_kwargs)
        progress.remove_task(drawing)
        make = functools.partial(
            _make, environment, {**agent.description.environment_kwargs, **rules.environment_kwargs}
        )
        traces, clock = play_agent(
            make,
            agent,
            pairs,
            seed=options.planner_seed,
            num_envs=options.num_envs,
            keep_frames=options.videos if options.video else 0,
            progress=progress,
        )
        low_and_high = action_bounds(agent.action_space)
        others = {
            name: _solved(play_floor(make, pairs, floor, options.seed), pairs, rules)
            for name, floor in progress.track(floors(environment, *low_and_high).items(), description="floors")
        }
    return _result(options, environment, agent, pairs, traces, rules, clock, others), traces


def _make(environment: str, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    """The task's own termination is off: an episode goes on after its first success."""
    fixed = {"render_mode": "rgb_array", "terminate_on_success": False}
    return gym.make(environment, disable_env_checker=True, **{**kwargs, **fixed})


def _holds(trace: Trace, pair: Pair, rules: Protocol) -> Any:
    return rules.success(np.stack(trace.states), pair.goal_state)


def _solved(traces: list[Trace], pairs: list[Pair], rules: Protocol) -> dict[str, Any]:
    return rate(sum(bool(_holds(t, p, rules)[1:].any()) for t, p in zip(traces, pairs, strict=True)), len(pairs))


def rate(successes: int, trials: int) -> dict[str, Any]:
    """Success rate in percent with its Wilson 95 % interval."""
    interval = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    bounds = [round(100 * float(bound), 2) for bound in (interval.low, interval.high)]
    return {"success_rate": round(100 * successes / trials, 2), "success_rate_ci95": bounds}


def _result(
    options: Options,
    environment: str,
    agent: LeWMAgent,
    pairs: list[Pair],
    traces: list[Trace],
    rules: Protocol,
    clock: Clock,
    others: dict[str, Any],
) -> dict[str, Any]:
    holds = [_holds(trace, pair, rules) for trace, pair in zip(traces, pairs, strict=True)]
    records = [_record(p, t, h) for p, t, h in zip(pairs, traces, holds, strict=True)]
    count = len(pairs)
    return {
        "env": environment,
        "protocol": options.protocol,
        "planner": asdict(agent.config.planner),
        "episodes": count,
        "seed": options.seed,
        "planner_seed": options.planner_seed,
        **rate(sum(record["success"] for record in records), count),
        "success_at_end": round(100 * sum(record["success_at_end"] for record in records) / count, 2),
        "start_solved_percent": round(100 * sum(record["start_solved"] for record in records) / count, 2),
        "floors": others,
        "seconds_per_plan": clock.planning_seconds / max(1, clock.plans),
        "seconds_per_decision": clock.seconds / max(1, clock.decisions),
        "model": {"name": options.model or options.env, **agent.description.training},
        "command": " ".join(["python eval/success_rate.py", *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
        "hardware": hardware(agent.device),
        "records": records,
    }


def _record(pair: Pair, trace: Trace, holds: Any) -> dict[str, Any]:
    first = int(np.argmax(holds[1:])) + 1 if holds[1:].any() else None
    return {
        "episode": pair.episode,
        "start_row": pair.start,
        "state": pair.state.tolist(),
        "goal_state": pair.goal_state.tolist(),
        "start_solved": bool(holds[0]),
        "success": first is not None,
        "success_at_end": bool(holds[-1]),
        "first_success_step": first,
        "final_distance": round(trace.distances[-1], 4),
        "least_distance": round(min(trace.distances[1:]), 4),
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads and accelerator a number was measured on."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "accelerator": accelerator,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def summary(result: dict[str, Any]) -> Group:
    """The result for a terminal."""
    title = (
        f"{result['env']}, protocol {result['protocol']}, {result['episodes']} held-out pairs, seed {result['seed']}"
    )
    table = Table("policy", "success %", "95 % interval")
    rows = {"LeWM agent": result, **result["floors"]}
    for name, row in rows.items():
        low, high = row["success_rate_ci95"]
        table.add_row(name.replace("_", " "), f"{row['success_rate']:.1f}", f"{low:.1f} to {high:.1f}")
    notes = (
        f"still solved at the end: {result['success_at_end']:.1f} %; solved at the start: "
        f"{result['start_solved_percent']:.1f} %; {1000 * result['seconds_per_plan']:.0f} ms per plan, "
        f"{1000 * result['seconds_per_decision']:.1f} ms per decision"
    )
    return Group(title, table, notes)


def write_videos(folder: Path, records: list[dict[str, Any]], traces: list[Trace]) -> int:
    """One GIF per trace, named by its pair and outcome; returns how many."""
    for index, (record, trace) in enumerate(zip(records, traces, strict=False)):
        outcome = "solved" if record["success"] else "failed"
        write_gif(folder / f"pair-{index:03d}-{outcome}.gif", trace, record["first_success_step"])
    return min(len(records), len(traces))


if __name__ == "__main__":
    sys.exit(main())
