"""What does each setting do? Train, judge and draw one agent for every value of a setting and every seed.

python eval/ablation.py --env two_room --data runs/two_room/data --output runs/ablation \
    --vary objective.sigreg_weight=0,0.01,0.09,0.5 model.latent_dim=8,32,128

Each setting is varied on its own around the preset; --grid takes all combinations instead. What is finished is not
done again, and a training that was cut off goes on. --cluster slurm has a job of its own for every training.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import json
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.optimize import minimize_scalar
from scipy.stats import spearmanr

from lewm_agent import AgentConfig, LeWMAgent, environment
from lewm_agent.agents.registry import agent_config
from lewm_agent.config import configured
from lewm_agent.datasets import OfflineDataset
from lewm_agent.envs import environment_id
from lewm_agent.eval import command
from lewm_agent.eval.options import Ablation as Options
from lewm_agent.eval.playing.solving import play_shipped
from lewm_agent.eval.playing.views import gather, latents
from lewm_agent.eval.reporting.ablation_picture import draw
from lewm_agent.evaluation.intervals import of_mean, rate
from lewm_agent.evaluation.provenance import provenance
from lewm_agent.models.objectives import registry as objectives
from lewm_agent.presets import preset
from lewm_agent.tools import strict_json
from lewm_agent.tools.cluster import Cluster, call_folder
from lewm_agent.tools.command import console, say
from lewm_agent.tools.outputs import reserved
from lewm_agent.tools.replacing import write_json
from lewm_agent.training.metrics_log import read_rows
from lewm_agent.training.run_folder import OutputFolder, RunFolder

Settings = dict[str, Any]
LAMBDA = "objective.sigreg_weight"
LAMBDA_BOUNDS = (1e-3, 1.0)
CURVES = ("prediction", "effective_rank", "latent_variance", "straightness")
FIGURES = {"rank": "effective_rank", "variance": "latent_variance", "prediction": "prediction"}
"""Heads of the table and what they are of held-out clips."""
CURVE_POINTS = 60
SUMMARY = "ablation.json"
WIDTH = 160
"""Columns of the table where it is written to a file."""
OWN = "own"
"""Planner of the trained configuration."""
VIEWS = 1500
"""Held-out frames in which distances are compared."""
PAIRS = 20_000


@dataclass(frozen=True)
class Cell:
    """One training: settings that differ from the others', and its seed."""

    settings: Settings = field(default_factory=dict)
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return ",".join([*(f"{name}={value}" for name, value in self.settings.items()), f"seed={self.seed}"])


def values(text: str) -> tuple[str, list[Any]]:
    """Setting and values of ``model.latent_dim=8,32``; raises ``ValueError`` for anything else."""
    name, equals, listed = text.partition("=")
    if "." not in name or not equals or not listed:
        raise ValueError(f"settings are given as part.setting=value,value (model.latent_dim=8,32), got {text!r}")
    return name, [_value(one) for one in listed.split(",")]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def cells(options: Options) -> list[Cell]:
    """Every training asked for; where one setting is varied at a time, equal ones only once."""
    varied = [values(text) for text in options.vary]
    if options.grid:
        names = [name for name, _ in varied]
        combined = [dict(zip(names, row, strict=True)) for row in itertools.product(*(listed for _, listed in varied))]
    else:
        combined = [{name: value} for name, listed in varied for value in listed]
    found = [Cell(settings, seed) for settings in combined for seed in range(options.seeds)]
    return list({cell.name: cell for cell in found}.values())


def base(options: Options) -> AgentConfig:
    """The preset with what is fixed."""
    fixed = dict(values(text) for text in options.fix)
    if several := [name for name, listed in fixed.items() if len(listed) > 1]:
        raise ValueError(f"{several[0]} is fixed, so it takes one value; vary it with --vary")
    for file in options.register:
        _run_once(file.resolve())
    chosen = preset(options.preset)
    name = options.objective or LeWMAgent.kind_of(chosen)
    if name not in objectives.entries():
        known = ", ".join(objectives.entries())
        raise ValueError(f"no objective `{name}`; there are {known}, and what a file of --register adds")
    start = agent_config(name, chosen)
    if not isinstance(start, AgentConfig):
        raise ValueError(f"`{name}` is no objective of a world model")
    return configured(start, {name: listed[0] for name, listed in fixed.items()})


@functools.cache
def _run_once(file: Path) -> None:
    """Run a Python file, which may register objectives."""
    if not file.is_file():
        raise ValueError(f"--register {file}: there is no such file")
    runpy.run_path(str(file))


def run_cell(options: Options, cell: Cell) -> dict[str, Any]:
    """Train and judge one agent, or read what an earlier call found; JSON-ready."""
    cell_folder = options.output / cell.name
    folder = OutputFolder(cell_folder)
    agent = _agent(options, configured(base(options), cell.settings), cell.seed)
    request = {
        "settings": cell.settings,
        "seed": cell.seed,
        "config": agent.config.to_dict(),
        "protocols": options.protocols,
        "planners": options.planners,
        "episodes": options.episodes,
    }
    result = cell_folder / "result.json"
    if result.exists():
        found: dict[str, Any] = strict_json.read(result)
        if isinstance(found, dict) and {name: found.get(name) for name in request} == json.loads(json.dumps(request)):
            return found
    agent.learn(options.data, folder.training, resume=True)
    agent.save_pretrained(folder.model)
    curves = read_curves(RunFolder(folder.training))
    measured = {**request, **judge(options, agent), **curves, **provenance(agent, str(folder.model))}
    write_json(result, measured)
    return dict(strict_json.read(result))  # the same whoever has measured it, and when


def _agent(options: Options, config: AgentConfig, seed: int) -> LeWMAgent:
    env = environment.of_data(options.env, OfflineDataset(options.data), config.model.image_size)
    return LeWMAgent(env, config, device=options.device, seed=seed)


def judge(options: Options, agent: LeWMAgent) -> dict[str, Any]:
    """Success, and how the latent distance of two frames of an episode follows the steps between them."""
    name = environment_id(options.env)
    views = gather(agent, name, VIEWS)
    encoded = latents(agent.world_model, views.pixels, agent.device)
    first, second = np.random.default_rng(0).integers(len(encoded), size=(2, PAIRS))
    together = (views.episodes[first] == views.episodes[second]) & (first != second)
    first, second = first[together], second[together]
    distance = np.linalg.norm(encoded[first] - encoded[second], axis=1)
    correlation = float(spearmanr(distance, abs(first - second)).statistic) if distance.std() > 0 else 0.0
    own = agent.config.planner
    success = []
    for planner, protocol in itertools.product(options.planners or (OWN,), options.protocols):
        agent.set_planner(own if planner == OWN else planner)
        solved = [won for _, won in play_shipped(agent, name, protocol, options.episodes, num_envs=8)]
        success.append({"planner": planner, "protocol": protocol, **rate(sum(solved), len(solved)), "solved": solved})
    return {"steps_correlation": correlation, "success": success}


def read_curves(run: RunFolder) -> dict[str, Any]:
    """The held-out figures at the end of a training, and some of its curves, thinned."""
    lines = read_rows(run.metrics)
    held_out = [line for line in lines if line["split"] == "held_out"][-1]
    train = [line for line in lines if line["split"] == "train"]
    shown = train[:: max(1, len(train) // CURVE_POINTS)]
    curves = {name: [line[name] for line in shown] for name in ("step", *CURVES)}
    return {"held_out": {name: held_out[name] for name in (*CURVES, "sigreg")}, "curves": curves}


def run_cells(options: Options, wanted: Sequence[Cell]) -> list[dict[str, Any]]:
    """All results, trained here or by a cluster."""
    jobs = None if options.cluster == "none" else max(1, len(wanted))
    cluster = Cluster.from_text(options.cluster, jobs, options.cluster_options)
    if cluster is not None:
        with call_folder(options.output / "jobs") as place:
            for _ in cluster.run(place, functools.partial(run_cell, options), wanted):
                pass
    results = []
    for number, cell in enumerate(wanted):
        console(stderr=True).print(f"[{number + 1}/{len(wanted)}] {cell.name}")
        results.append(run_cell(options, cell))
    return results


def search_lambda(options: Options) -> list[dict[str, Any]]:
    """Results of all weights tried, by Brent's method on the logarithm; equal success is decided by the correlation."""
    results: list[dict[str, Any]] = []

    def loss(exponent: float) -> float:
        weight = float(f"{10**exponent:.3g}")
        found = run_cells(options, [Cell({LAMBDA: weight}, seed) for seed in range(options.seeds)])
        results.extend(found)
        return -float(np.mean([mean_success(one) + one["steps_correlation"] for one in found]))

    low, high = np.log10(LAMBDA_BOUNDS)
    minimize_scalar(loss, bounds=(low, high), method="bounded", options={"maxiter": options.trainings, "xatol": 0.02})
    return list({(one["settings"][LAMBDA], one["seed"]): one for one in results}.values())


def mean_success(result: dict[str, Any]) -> float:
    """Percent, over planners and protocols."""
    return float(np.mean([one["success_rate"] for one in result["success"]]))


def table(results: Sequence[dict[str, Any]]) -> Table:
    """One line for each value, planner and protocol: means over seeds."""
    shown = Table()
    shown.add_column("setting", no_wrap=True)
    for head in ("planner", "protocol", "success %", "of each seed", "95 %", *FIGURES, "steps correlation"):
        shown.add_column(head)
    for settings, runs in grouped(results).items():
        for row, judged in enumerate(runs[0]["success"]):
            low, high = of_mean([run["success"][row]["solved"] for run in runs])
            rates = [run["success"][row]["success_rate"] for run in runs]
            shown.add_row(
                settings,
                judged["planner"],
                judged["protocol"],
                f"{np.mean(rates):.1f}",
                " ".join(f"{one:.0f}" for one in rates),
                f"{low:.1f} to {high:.1f}",
                *(f"{np.mean([run['held_out'][name] for run in runs]):.3g}" for name in FIGURES.values()),
                f"{np.mean([run['steps_correlation'] for run in runs]):.2f}",
            )
    return shown


def grouped(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Results by their settings, in the order in which these came."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        name = " ".join(f"{setting}={value}" for setting, value in result["settings"].items())
        found.setdefault(name, []).append(result)
    return found


def _work(options: Options) -> None:
    command.at_least(options, seeds=1, trainings=3, episodes=1)
    wanted = cells(options)
    if not wanted and not options.find_lambda:
        raise ValueError("nothing to do: give --vary part.setting=value,value, or --find-lambda")
    for cell in wanted:
        configured(base(options), cell.settings)  # before hours are spent on the others
    with reserved(options.output / SUMMARY):
        results = run_cells(options, wanted) + (search_lambda(options) if options.find_lambda else [])
        told = {name: str(value) for name, value in dataclasses.asdict(options).items()}
        write_json(options.output / SUMMARY, {"options": told, "results": results, **provenance()})
        console(width=None if sys.stdout.isatty() else WIDTH).print(table(results))
        if options.find_lambda:
            best = max(grouped(results).items(), key=lambda item: np.mean([mean_success(run) for run in item[1]]))
            say(f"best: {best[0]}")
        for picture in draw(results, options.output):
            say(f"drawn: {picture}")


def main(arguments: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, continues="the same command continues", prog=prog)


if __name__ == "__main__":
    sys.exit(main())
