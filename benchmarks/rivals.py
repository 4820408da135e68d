"""LeWM beside its rivals: trained on the same data for as long, measured on the same pairs.

python benchmarks/rivals.py --env two_room --data data --output runs/rivals --steps 4000 --seeds 0 1 2

DATA holds one dataset per environment (``lewm collect --env two_room --path data/two_room``). Every training and every
evaluation is a command of its own (``lewm learn``, ``lewm eval``), which is kept in ``plan.json`` and in the results.
What is finished is not done again: after an interruption, or with more agents or seeds, the same command goes on.

OUTPUT gets ``rivals.json``, ``rivals.md`` and a picture of the training curves of each environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import record
from matplotlib import pyplot

from lewm_agent import preset
from lewm_agent.agents import load_agent, make_agent
from lewm_agent.agents.registry import agent_config
from lewm_agent.checkpoints.model_card import agent_title
from lewm_agent.datasets import OfflineDataset
from lewm_agent.eval import command
from lewm_agent.eval.reporting.pictures import save_picture
from lewm_agent.eval.worlds.protocols import ProtocolName
from lewm_agent.evaluation.intervals import compare, rate
from lewm_agent.models.encoder import Backbone
from lewm_agent.tools import strict_json
from lewm_agent.tools.command import say
from lewm_agent.tools.outputs import reserved
from lewm_agent.tools.replacing import write_atomically
from lewm_agent.training.metrics_log import read_rows
from lewm_agent.training.run_folder import OutputFolder, RunFolder

PROBE_STEPS = 60
"""Steps from which the speed of an agent is taken, with --minutes."""
NOT_A_TERM = {"step", "total", "learning_rate", "gradient_norm", "clips_per_second", "collapsed"}
"""Numbers in ``metrics.jsonl`` that are no terms of a loss; nor are these two, which tell of the latents:"""
NOT_A_TERM |= {"effective_rank", "latent_variance", "updates"}

ONLINE = frozenset({"tdmpc2", "dreamer", "sac_her", "sac_her_pixels"})
"""Agents that learn in the environment."""


@dataclass(frozen=True)
class Arguments:
    """Train and measure every agent on every environment."""

    env: tuple[str, ...]
    """Environments: short names."""
    data: Path
    """Folder with a dataset per environment, called as it is."""
    output: Path
    """Folder for trainings, results, the table and the pictures."""
    agents: tuple[str, ...] = ("lewm", "pldm", "dino_wm", "gcbc", "gcivl", "gciql")
    """LeWM and whom it is compared with."""
    seeds: tuple[int, ...] = (0,)
    """Of the trainings."""
    steps: int | None = None
    """Optimisation steps of every training; or give --minutes."""
    environment_steps: int | None = None
    """Of agents that learn online, in place of both."""
    minutes: float | None = None
    """Time of every training on this machine, at the speed of its first steps; or give --steps."""
    preset: str = "two_terms"
    """Sizes and training of all agents."""
    encoder: Backbone | None = None
    """Another encoder than the preset's, for all agents that train theirs."""
    frozen: str | None = None
    """Encoder of DINO-WM: a ViT of timm, or a trained world model; by default DINOv2 from the Hub."""
    protocols: tuple[ProtocolName, ...] = ("paper", "moderate", "strict")
    """Pairs that ship with the package."""
    episodes: int = 200
    """Pairs of each protocol."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def check(self) -> None:
        """Raise ``ValueError`` for what cannot be done."""
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either --steps or --minutes")
        if (online := ONLINE.intersection(self.agents)) and self.environment_steps is None:
            raise ValueError(
                f"{min(online)} learns online: say for how many steps of the environment, --environment-steps"
            )
        if "lewm" not in self.agents:
            raise ValueError("--agents must include lewm, which the others are compared with")
        record.check_data(self.data, self.env)


@dataclass(frozen=True)
class Run:
    """One training of one agent."""

    arguments: Arguments
    env: str
    agent: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.arguments.output / self.env / f"{self.agent}-{self.seed}"

    def result(self, protocol: str) -> Path:
        """JSON of an evaluation."""
        return self.folder / f"{protocol}.json"

    @property
    def encoder(self) -> Backbone | None:
        """The one asked for, where the agent trains its own."""
        return None if self.agent == "dino_wm" else self.arguments.encoder

    @property
    def online(self) -> bool:
        """Whether it learns in the environment."""
        return self.agent in ONLINE

    @property
    def frozen(self) -> str | None:
        """The one asked for, where the agent takes one over."""
        return self.arguments.frozen if self.agent == "dino_wm" else None

    def learn_command(self, folder: Path, epochs: float) -> list[str]:
        """What trains it."""
        options = self.arguments
        if self.online:
            command = ["learn-online", self.env, "--output", str(folder), "--steps", str(options.environment_steps)]
            command += [] if self.agent == "tdmpc2" else ["--agent", self.agent]
            return [
                *command,
                "--seed",
                str(self.seed),
                "--device",
                options.device,
                "--preset",
                options.preset,
                "--resume",
            ]
        length = ["--training.epochs", repr(epochs), "--training.schedule-epochs", repr(epochs)]
        encoder = ["--model.encoder", self.encoder] if self.encoder else []
        frozen = ["--frozen", self.frozen] if self.frozen else []
        data = str(options.data / self.env)
        command = ["learn", "--env", self.env, "--dataset", data, "--output", str(folder), "--agent", self.agent]
        return [
            *command,
            "--seed",
            str(self.seed),
            "--device",
            options.device,
            "--resume",
            *frozen,
            options.preset,
            *encoder,
            *length,
        ]

    def eval_command(self, protocol: str) -> list[str]:
        """What measures it."""
        model, output = str(OutputFolder(self.folder).model), str(self.result(protocol))
        command = ["eval", "--env", self.env, "--agent", self.agent, "--model", model, "--protocol", protocol]
        episodes = str(self.arguments.episodes)
        return [*command, "--episodes", episodes, "--device", self.arguments.device, "--output", output]


def execute(command: list[str]) -> float:
    """Run ``lewm`` with these arguments; returns the peak memory of the process, in MB. Raises ``RuntimeError``."""
    process = subprocess.Popen([sys.executable, "-m", "lewm_agent.cli", *command])
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()  # it saves what it has
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"`lewm {' '.join(command)}` failed with exit code {process.returncode}")
    return usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def finish(run: Run) -> None:
    """Do what is missing of one run."""
    epochs = planned_epochs(run)
    trained = run.folder / "memory.json"
    if not trained.exists():
        memory = execute(run.learn_command(run.folder, epochs))
        write_atomically(trained, json.dumps({"peak_memory_mb": round(memory)}))
    for protocol in run.arguments.protocols:
        if not run.result(protocol).exists():
            execute(run.eval_command(protocol))


def planned_epochs(run: Run) -> float:
    """How long to train, decided once and kept. Raises ``ValueError`` if it was planned for something else."""
    plan, options = run.folder / "plan.json", run.arguments
    length: dict[str, Any] = {"steps": options.steps, "minutes": options.minutes}
    if run.online:
        length = {"environment_steps": options.environment_steps}
    request = {**length, "preset": options.preset, "encoder": run.encoder, "frozen": run.frozen}
    if plan.exists():
        kept = strict_json.read(plan)
        if kept["request"] != request:
            raise ValueError(
                f"{run.folder} was begun with {kept['request']}, not with {request}; give another --output"
            )
        return float(kept["epochs"])
    if run.online:
        _keep(plan, request, {"steps": None, "epochs": 0.0}, run.learn_command(run.folder, 0.0))
        return 0.0
    config = agent_config(run.agent, preset(options.preset), run.frozen)
    agent = make_agent(run.agent, run.env, config, device="cpu", seed=run.seed)
    per_epoch = agent.steps_per_epoch(OfflineDataset(options.data / run.env))
    steps = options.steps or _steps_in_time(run, per_epoch)
    _keep(
        plan, request, {"steps": steps, "epochs": steps / per_epoch}, run.learn_command(run.folder, steps / per_epoch)
    )
    return steps / per_epoch


def _keep(plan: Path, request: dict[str, Any], length: dict[str, Any], command: list[str]) -> None:
    plan.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        plan, json.dumps({"request": request, **length, "command": " ".join(["lewm", *command])}, indent=1)
    )


def _steps_in_time(run: Run, per_epoch: int) -> int:
    probe = run.folder / "probe"
    shutil.rmtree(probe, ignore_errors=True)
    has_head = run.agent == "lewm" and preset(run.arguments.preset).inverse_dynamics is not None
    hardly_fitted = ["inverse-dynamics:inverse-dynamics-config", "--inverse-dynamics.steps", "1"] if has_head else []
    execute([*run.learn_command(probe, PROBE_STEPS / per_epoch), *hardly_fitted])
    rows = training_rows(probe)
    shutil.rmtree(probe)
    seconds = training_minutes(rows[1:], run, start=rows[0]["step"]) * 60
    return max(1, round((run.arguments.minutes or 0) * 60 * (rows[-1]["step"] - rows[0]["step"]) / seconds))


def training_rows(folder: Path) -> list[dict[str, float]]:
    """Logged steps of a training."""
    rows = read_rows(RunFolder(OutputFolder(folder).training).metrics)
    return [row for row in rows if row.pop("split") == "train"]


def played_rows(folder: Path) -> list[dict[str, Any]]:
    """Episodes that an online training played; none of others."""
    rows = read_rows(RunFolder(OutputFolder(folder).training).metrics)
    return [row for row in rows if row["split"] == "episode"]


def training_minutes(rows: list[dict[str, float]], run: Run, start: float = 0) -> float:
    """Time that the logged steps took, whatever lay between them."""
    batch = preset(run.arguments.preset).training.batch_size
    steps = np.diff([start, *(row["step"] for row in rows)])
    return float(sum(batch * steps / [row["clips_per_second"] for row in rows])) / 60


def summary(run: Run) -> dict[str, Any]:
    """Everything about one finished run but its pairs."""
    model = load_agent(OutputFolder(run.folder).model, device="cpu").model
    results = {protocol: json.loads(run.result(protocol).read_text()) for protocol in run.arguments.protocols}
    decisions = [result["seconds_per_decision"] for result in results.values()]
    rows = training_rows(run.folder)
    played = played_rows(run.folder)
    return {
        "env": run.env,
        "agent": run.agent,
        "seed": run.seed,
        "steps": int(rows[-1]["updates" if run.online else "step"]) if rows else 0,
        "environment_steps": played[-1]["step"] if played else 0,
        "training_minutes": round(sum(row["seconds"] for row in played) / 60 or training_minutes(rows, run), 4),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "ms_per_decision": round(1000 * float(np.mean(decisions)), 2),
        **json.loads((run.folder / "memory.json").read_text()),
        "outcomes": {name: [r["success"] for r in result["records"]] for name, result in results.items()},
        "commands": [json.loads((run.folder / "plan.json").read_text())["command"]]
        + [" ".join(["lewm", *run.eval_command(protocol)]) for protocol in results],
    }


def table(runs: list[dict[str, Any]], env: str, protocol: str) -> list[dict[str, Any]]:
    """One row per agent: success over all pairs and seeds, and its difference to LeWM's, pair by pair."""
    outcomes: dict[str, list[bool]] = {}
    of_env = [run for run in runs if run["env"] == env]
    for run in of_env:
        outcomes.setdefault(run["agent"], []).extend(run["outcomes"][protocol])
    rows = []
    for name, solved in outcomes.items():
        mine = [run for run in of_env if run["agent"] == name]
        versus = compare(solved, outcomes["lewm"])
        means = ("training_minutes", "ms_per_decision", "peak_memory_mb", "steps", "environment_steps", "parameters")
        means += ("trained_parameters",)
        rows.append(
            {
                "agent": name,
                **rate(sum(solved), len(solved)),
                "by_seed": [round(100 * float(np.mean(run["outcomes"][protocol])), 2) for run in mine],
                "difference": round(versus.difference, 2),
                "difference_ci95": [round(bound, 2) for bound in versus.interval],
                **{key: float(np.mean([run[key] for run in mine])) for key in means},
            }
        )
    return rows


def markdown(tables: dict[str, dict[str, list[dict[str, Any]]]], arguments: Arguments) -> str:
    """The tables for people."""
    length = f"{arguments.steps} steps" if arguments.steps else f"{arguments.minutes:g} minutes"
    encoder = f", encoder `{arguments.encoder}`" if arguments.encoder else ""
    seeds = ", ".join(map(str, arguments.seeds))
    lines = [
        f"Every training: preset `{arguments.preset}`{encoder}, {length}, seeds {seeds}. Success in percent of "
        f"{arguments.episodes} pairs per seed with Wilson's 95 % interval; difference to LeWM in points, with the "
        "bootstrap's over pairs. Seeds are pooled: no interval knows that trainings differ. Time and memory are of "
        "this machine (`rivals.json`).",
    ]
    heads = "agent", "success", "difference to LeWM", "ms per decision", "parameters", "peak memory", "steps"
    heads += "environment steps", "minutes"
    for env, protocols in tables.items():
        for protocol, rows in protocols.items():
            lines += [
                "",
                f"## `{env}`, protocol `{protocol}`",
                "",
                f"| {' | '.join(heads)} |",
                "|---" * len(heads) + "|",
            ]
            lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = row["success_rate_ci95"]
    return [
        agent_title(row["agent"]),
        f"{row['success_rate']:.1f} [{low:.1f}, {high:.1f}]",
        "-" if row["agent"] == "lewm" else _difference(row),
        f"{row['ms_per_decision']:.1f}",
        _millions(row["parameters"])
        + (
            f", {_millions(row['trained_parameters'])} trained" if row["trained_parameters"] < row["parameters"] else ""
        ),
        f"{row['peak_memory_mb']:.0f} MB",
        f"{row['steps']:.0f}",
        f"{row['environment_steps']:.0f}",
        f"{row['training_minutes']:.1f}",
    ]


def _difference(row: dict[str, Any]) -> str:
    low, high = row["difference_ci95"]
    verdict = ", better" if low > 0 else ", worse" if high < 0 else ""
    return f"{row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]{verdict}"


def _millions(count: float) -> str:
    return f"{count / 1e6:.2f} M"


def draw_curves(runs: list[Run], path: Path) -> None:
    """One column per agent, one panel per term of its loss, one line per seed."""
    matplotlib.use("Agg")
    curves: dict[str, dict[str, list[Any]]] = {}
    straightens = getattr(preset(runs[0].arguments.preset).objective, "straightening_weight", 0) > 0
    hidden = NOT_A_TERM if straightens else NOT_A_TERM | {"straightness"}
    for run in runs:
        rows = training_rows(run.folder)
        for term in (name for name in (rows or [{}])[0] if name not in hidden and any(row[name] for row in rows)):
            points = [(row["step"], row[term]) for row in rows]
            curves.setdefault(run.agent, {}).setdefault(term, []).append(points)
    if not curves:
        return
    height = max(len(terms) for terms in curves.values())
    figure, axes = pyplot.subplots(height, len(curves), figsize=(3 * len(curves), 1.8 * height), squeeze=False)
    for column, (agent, terms) in zip(axes.T, curves.items(), strict=True):
        for panel in column[len(terms) :]:
            panel.axis("off")
        for panel, (term, lines) in zip(column, terms.items(), strict=False):
            for points in lines:
                panel.plot(*zip(*points, strict=True), linewidth=0.8)
            panel.set_title(f"{agent_title(agent)}: {term.replace('_', ' ')}", fontsize=9)
            panel.tick_params(labelsize=7)
        column[len(terms) - 1].set_xlabel("step", fontsize=8)
    figure.tight_layout()
    save_picture(figure, path, dpi=120)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Arguments, _work, arguments, continues="the same command continues")


def _work(options: Arguments) -> None:
    options.check()
    with reserved(options.output / "rivals.json"):
        runs = [Run(options, e, a, s) for e in options.env for s in options.seeds for a in options.agents]
        for number, run in enumerate(runs, start=1):
            say(f"{number} of {len(runs)}: {run.env}, {run.agent}, seed {run.seed}")
            finish(run)
        summaries = [summary(run) for run in runs]
        tables = {env: {name: table(summaries, env, name) for name in options.protocols} for env in options.env}
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
        record.write(options.output / "rivals.json", settings, {"tables": tables, "runs": summaries})
        write_atomically(options.output / "rivals.md", markdown(tables, options))
        for env in options.env:
            draw_curves([run for run in runs if run.env == env], options.output / f"curves-{env}.png")
        say(markdown(tables, options))


if __name__ == "__main__":
    sys.exit(main())
