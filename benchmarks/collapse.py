"""What keeps latents from collapsing: SIGReg, VICReg's terms, a teacher that follows, a stopped gradient, or nothing.

python benchmarks/collapse.py --env two_room --data data --output runs/collapse --steps 2000 --seeds 0 1 2

DATA holds one dataset per environment, as for ``benchmarks/rivals.py``. All variants have the same encoder, predictor,
batches and steps. While one learns, effective rank and variance of its latents are logged, and success is measured on
validation pairs by the search of planner ``small`` in plain latents. What is finished is not done again, and a training
that was interrupted goes on.

OUTPUT gets ``collapse.json``, ``collapse.md`` and ``collapse.png``.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import record
from matplotlib import pyplot

from lewm_agent import AgentConfig, LeWMAgent, ObjectiveConfig, preset
from lewm_agent.callbacks import Moment
from lewm_agent.datasets import OfflineDataset
from lewm_agent.envs import environment_id
from lewm_agent.eval import command, pairs
from lewm_agent.eval.reporting.pictures import save_picture
from lewm_agent.eval.worlds.protocols import ProtocolName
from lewm_agent.evaluation.intervals import rate
from lewm_agent.evaluation.measuring import Measuring
from lewm_agent.models.objectives.base import ObjectiveSettings
from lewm_agent.models.objectives.ema import EmaConfig
from lewm_agent.models.objectives.pldm import PLDMConfig
from lewm_agent.planning.presets import planner_preset
from lewm_agent.tools import strict_json
from lewm_agent.tools.command import say
from lewm_agent.tools.outputs import reserved
from lewm_agent.tools.replacing import write_atomically, write_json
from lewm_agent.training.metrics_log import read_rows
from lewm_agent.training.run_folder import RunFolder

VARIANTS: dict[str, ObjectiveSettings] = {
    "SIGReg (LeWM)": ObjectiveConfig(),
    "variance, covariance (PLDM)": PLDMConfig(),
    "teacher (EMA)": EmaConfig(),
    "stopped gradient": EmaConfig(momentum=0.0, final_momentum=0.0),
    "prediction alone": ObjectiveConfig(sigreg_weight=0.0),
}
"""By what is said of them in tables and pictures."""
COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:gray")


@dataclass(frozen=True)
class Arguments:
    """Train on every objective, and see what becomes of the latents."""

    env: tuple[str, ...]
    """Environments: short names."""
    data: Path
    """Folder with one dataset per environment, each in a folder of its short name."""
    output: Path
    """Folder for trainings and results."""
    steps: int = 2000
    """Optimisation steps of every training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights and batches, one training each."""
    preset: str = "small"
    """Sizes and training."""
    protocol: ProtocolName = "moderate"
    """Rules of the validation pairs."""
    episodes: int = 50
    """Validation pairs (seed 1) at the end; a third of them while it learns."""
    looks: int = 4
    """How often success is measured after the beginning, the last time at the end."""
    momentum: float = 0.996
    """Of the teacher at the beginning."""


@dataclass(frozen=True)
class Success:
    """Success on validation pairs, in percent; in the end on all of them."""

    suite: Any
    every: int
    name: str = "success"

    def __call__(self, moment: Moment) -> dict[str, float]:
        """Play the pairs with the present weights."""
        trials = self.suite.trials
        last = moment.step == moment.stop
        shown = trials if last else trials[: max(1, len(trials) // 3)]
        suite = dataclasses.replace(self.suite, trials=shown, floors=lambda env: {})
        agent = moment.agent
        result, _ = Measuring(suite, agent, agent.kind, 0, workers=1, load=None, output=None, progress=False).run()
        return {"rate": result["success_rate"], "pairs": len(shown)}


def settings(options: Arguments, variant: str) -> AgentConfig:
    """What a variant is trained with; they differ in the objective alone."""
    base = preset(options.preset)
    objective = VARIANTS[variant]
    if isinstance(objective, EmaConfig) and objective.momentum:
        objective = EmaConfig(momentum=options.momentum)
    planner = planner_preset("small", base.model)
    return dataclasses.replace(base, objective=objective, planner=planner, inverse_dynamics=None)


def trained(options: Arguments, env: str, variant: str, seed: int) -> dict[str, Any]:
    """Train one, or go on, and tell how it went."""
    folder = options.output / env / f"{variant.split(' (')[0].replace(', ', '_').replace(' ', '_')}-{seed}"
    told = folder / "summary.json"
    asked = {"preset": options.preset, "steps": options.steps, "protocol": options.protocol}
    asked |= {"episodes": options.episodes, "looks": options.looks, "momentum": options.momentum}
    if told.exists():
        kept = dict(strict_json.read(told))
        if kept["asked"] != asked:
            raise ValueError(f"{folder} was trained with {kept['asked']}, not with {asked}; give another --output")
        return kept
    dataset = OfflineDataset(options.data / env)
    config = settings(options, variant)
    agent = LeWMAgent(env, config, device="cpu", seed=seed)
    suite = pairs.draw(environment_id(env), options.protocol, options.episodes, 1).suite()
    success = Success(suite, max(1, options.steps // options.looks))
    epochs = options.steps / agent.steps_per_epoch(dataset)
    agent.learn(dataset, folder, epochs=epochs, resume=True, callbacks=[success])
    found = {"env": env, "variant": variant, "seed": seed, "asked": asked, **summary(folder, options)}
    write_json(told, found)
    return found


def summary(folder: Path, options: Arguments) -> dict[str, Any]:
    """Curves of one training, and its cost."""
    rows = read_rows(RunFolder(folder).metrics)
    train = [row for row in rows if row["split"] == "train"]
    success = [row for row in rows if row["split"] == "success"]
    batch = preset(options.preset).training.batch_size
    return {
        "steps": [row["step"] for row in train],
        "effective_rank": [row["effective_rank"] for row in train],
        "latent_variance": [row["latent_variance"] for row in train],
        "success_steps": [row["step"] for row in success],
        "success": [row["rate"] for row in success],
        "pairs": int(success[-1]["pairs"]),
        "seconds_per_step": float(np.median([batch / row["clips_per_second"] for row in train])),
    }


def table(runs: list[dict[str, Any]], env: str) -> list[dict[str, Any]]:
    """One row per variant: success at the end over all seeds, rank, variance and cost."""
    rows = []
    for variant in VARIANTS:
        mine = [run for run in runs if run["env"] == env and run["variant"] == variant]
        count = sum(run["pairs"] for run in mine)
        solved = round(sum(run["success"][-1] * run["pairs"] / 100 for run in mine))
        ranks = [run["effective_rank"][-1] for run in mine]
        rows.append(
            {
                "variant": variant,
                **rate(solved, count),
                "pairs": count,
                "by_seed": [run["success"][-1] for run in mine],
                "effective_rank": float(np.mean(ranks)),
                "latent_variance": float(np.mean([run["latent_variance"][-1] for run in mine])),
                "seconds_per_step": float(np.median([run["seconds_per_step"] for run in mine])),
            }
        )
    return rows


def markdown(tables: dict[str, list[dict[str, Any]]], options: Arguments) -> str:
    """The tables for people."""
    lines = [
        f"Preset `{options.preset}`, {options.steps} steps, seeds {', '.join(map(str, options.seeds))}; success on "
        f"{options.episodes} validation pairs (`{options.protocol}`, `--seed 1`) per seed, planner `small`, without a "
        "head, with Wilson's 95 % interval over all pairs.",
    ]
    for env, rows in tables.items():
        lines += ["", f"## `{env}`", "", "| objective | success | by seed | rank | variance | s per step |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in rows:
            low, high = row["success_rate_ci95"]
            seeds = ", ".join(f"{percent:.0f}" for percent in row["by_seed"])
            lines.append(
                f"| {row['variant']} | {row['success_rate']:.1f} [{low:.1f}, {high:.1f}] | {seeds} | "
                f"{row['effective_rank']:.1f} | {row['latent_variance']:.3f} | {row['seconds_per_step']:.3f} |"
            )
    return "\n".join(lines) + "\n"


def draw(runs: list[dict[str, Any]], envs: tuple[str, ...], path: Path) -> None:
    """Effective rank and success over steps; a row per environment, a line per variant: the mean of its seeds."""
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(len(envs), 2, figsize=(9, 3 * len(envs)), squeeze=False)
    for row, env in zip(axes, envs, strict=True):
        for color, variant in zip(COLORS, VARIANTS, strict=True):
            mine = [run for run in runs if run["env"] == env and run["variant"] == variant]
            for panel, steps, key in ((row[0], "steps", "effective_rank"), (row[1], "success_steps", "success")):
                curves = np.array([run[key] for run in mine])
                panel.plot(mine[0][steps], curves.mean(0), color=color, label=variant)
                panel.fill_between(mine[0][steps], curves.min(0), curves.max(0), color=color, alpha=0.15, linewidth=0)
        row[0].set(title=f"{env}: effective rank of the latents", xlabel="step", ylim=(0, None))
        row[1].set(title=f"{env}: success, %", xlabel="step", ylim=(-2, 102))
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    save_picture(figure, path, dpi=120)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Arguments, _work, arguments, continues="the same command continues")


def _work(options: Arguments) -> None:
    record.check_data(options.data, options.env)
    with reserved(options.output / "collapse.json"):
        jobs = [(env, variant, seed) for env in options.env for seed in options.seeds for variant in VARIANTS]
        runs = []
        for number, (env, variant, seed) in enumerate(jobs, start=1):
            say(f"{number} of {len(jobs)}: {env}, {variant}, seed {seed}")
            runs.append(trained(options, env, variant, seed))
        tables = {env: table(runs, env) for env in options.env}
        asked = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        record.write(options.output / "collapse.json", asked, {"tables": tables, "runs": runs})
        write_atomically(options.output / "collapse.md", markdown(tables, options))
        draw(runs, options.env, options.output / "collapse.png")
        say(markdown(tables, options))


if __name__ == "__main__":
    sys.exit(main())
