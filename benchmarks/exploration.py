"""What to try, so that a plan from nothing can be trusted: four ways to gather as many steps of Push-T, compared.

python benchmarks/exploration.py --output runs/exploration --seeds 0

A world model learns from a few expert episodes. Each way then gathers as many environment steps: more of the expert's,
pushes without aim (policy ``weak``), the model's plans with noise, or plans on which several predictors disagree most.
The model goes on with old and new data, with as many updates each time. Its predictions are measured on held-out
episodes of the expert, of pushes without aim and of plans, those of all models together; its success by planner
``slow``, which has no head to lean on. What is finished is not done again, and a training that was interrupted goes on.

OUTPUT gets ``exploration.json``, ``exploration.md`` and ``exploration.png``.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import record
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent import AgentConfig, LeWMAgent, environment, preset
from lewm_agent.agents.behavior.policies import behavior_policy
from lewm_agent.attempts.playing import AttemptSettings
from lewm_agent.config import configured
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.collection import collect
from lewm_agent.datasets.metadata import METADATA_FILE, DatasetMetadata
from lewm_agent.datasets.mixed import opened
from lewm_agent.envs import environment_id
from lewm_agent.eval import command, pairs
from lewm_agent.eval.reporting.pictures import save_picture
from lewm_agent.evaluation.goals import RecordedGoals
from lewm_agent.evaluation.intervals import BOUNDS, RESAMPLES, rate
from lewm_agent.evaluation.measuring import Measuring
from lewm_agent.evaluation.suite import Suite
from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning.presets import planner_preset
from lewm_agent.tools import strict_json
from lewm_agent.tools.command import say
from lewm_agent.tools.outputs import reserved
from lewm_agent.tools.precision import one_thread
from lewm_agent.tools.replacing import write_atomically, write_json
from lewm_agent.training.encoding import encode_all

ENV = "push_t"
BEFORE = "before"
Way = Literal["expert", "weak", "noise", "disagreement"]
WAYS = {
    BEFORE: "before, the first data alone",
    "expert": "more of the expert's",
    "weak": "pushes without aim",
    "noise": "plans with noise",
    "disagreement": "plans of most disagreement",
}
"""Ways by which more is gathered, and what is said of them in tables and pictures."""
MEASURED = {"expert": "expert", "weak": "without aim", "plans": "plans"}
"""Held-out episodes on which predictions are measured."""
OLD, NEW, UNSEEN, PLANS = range(4)
"""Streams of seeds of episodes."""
AHEAD = (1, 5)
"""Blocks after which predictions are measured."""
FIRST_EPISODES, SHARD_EPISODES = 10, 5
Episode = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Arguments:
    """Gather as many steps in four ways, learn from each, and see which predicts and plans best."""

    output: Path
    """Folder for data, trainings and results."""
    begin: int = 5000
    """Environment steps of the expert that everything begins with."""
    steps: int = 5000
    """Environment steps that each way gathers."""
    updates: int = 1000
    """Optimisation steps of every training."""
    batch_size: int = 128
    """Clips in each."""
    noise: float = 0.3
    """Of plans with noise, as ``lewm collect`` takes it."""
    predictors: int = 3
    """That are to disagree, the model's own among them."""
    ways: tuple[Way, ...] = get_args(Way)
    """That are compared; others can be added later."""
    seeds: tuple[int, ...] = (0,)
    """Of data, weights and batches; everything is done for each."""
    episodes: int = 50
    """Validation pairs (``moderate``, seed 1)."""
    unseen: int = 2000
    """Environment steps of held-out episodes of each kind."""


def settings(options: Arguments) -> AgentConfig:
    """Preset ``moments`` as it is for Push-T, without a head."""
    base = configured(preset("moments"), {"model.symmetry": "square", "training.batch_size": options.batch_size})
    return dataclasses.replace(base, planner=planner_preset("slow", base.model), inverse_dynamics=None)


# --- gather ----------------------------------------------------------------------------------------------------------


def taken(data: OfflineDataset) -> int:
    """Environment steps of a dataset."""
    return int((data.episode_lengths - 1).sum())


def gathered(
    folder: Path, steps: int, seed: int, agent: LeWMAgent, policy: str, attempts: AttemptSettings | None = None
) -> OfflineDataset:
    """As few episodes as have so many steps, of a scripted policy or, as attempts, of the agent."""
    known = agent.description
    make_env = environment.factory(environment_id(ENV), known.environment_kwargs, agent.config.model.image_size)
    make_policy = functools.partial(behavior_policy, policy)
    if attempts is not None:
        make_env, make_policy = attempts.environment(make_env), attempts.policy(lambda: agent)
    begun = (folder / METADATA_FILE).exists()
    episodes = DatasetMetadata.load(folder).episodes if begun else FIRST_EPISODES
    while True:
        with one_thread():
            data = collect(
                folder,
                make_env,
                make_policy,
                episodes,
                environment_id=environment_id(ENV),
                environment_kwargs=known.environment_kwargs,
                policy=policy,
                seed=seed,
                shard_episodes=SHARD_EPISODES,
                progress=False,
                attempts=None if attempts is None else attempts.told(agent),
            )
        missing = steps - taken(data)
        if missing <= 0:
            return data
        episodes += max(1, int(0.7 * missing * episodes / taken(data)))  # from below: few are too many


class Disagreement:
    """Plans for what several predictors of the same latents foresee differently, whatever the goal.

    Args:
        models: the predictors; blocks are in the first one's units.
        metric: in which they differ (latent_dim, latent_dim).
    """

    def __init__(self, models: Sequence[WorldModel], metric: Tensor) -> None:
        self._models, self._metric = models, metric

    def rollout(self, latents: Tensor, past: Tensor, blocks: Tensor) -> Tensor:
        """What each foresees, side by side: (N, S, P, K latent_dim); arguments as for ``LatentModel.rollout``."""
        units = self._models[0].codec.actions
        foreseen = [
            m.rollout(latents, m.codec.blocks(units(past)), m.codec.blocks(units(blocks))) for m in self._models
        ]
        return torch.cat(foreseen, dim=-1)

    def cost(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Minus the variance among them, on average over the plan, (N, S)."""
        foreseen = latents.unflatten(-1, (len(self._models), -1)) @ self._metric
        return -foreseen.var(dim=-2).sum(dim=-1).mean(dim=-1)


# --- learn -----------------------------------------------------------------------------------------------------------


def trained(agent: LeWMAgent, data: Sequence[OfflineDataset], folder: Path, updates: int) -> LeWMAgent:
    """The agent after so many updates on the data, or what is there of it already."""
    if not (folder / "model" / "config.json").exists():
        epochs = updates / agent.steps_per_epoch(opened(data))
        agent.learn(data, folder / "training", epochs=epochs, resume=True, progress=False)
        agent.save_pretrained(folder / "model")
    return LeWMAgent.from_pretrained(folder / "model", device="cpu", seed=agent.seed)


def another(agent: LeWMAgent, seed: int) -> LeWMAgent:
    """The same encoder, and a predictor that has learned nothing."""
    other = LeWMAgent(ENV, agent.description, device="cpu", seed=seed)
    fresh = other.make_model(agent.config)
    other.load_weights(agent.world_model.state_dict(), Path("the first model"))
    for part, untrained in zip(other.world_model.dynamics(), fresh.dynamics(), strict=True):
        part.load_state_dict(untrained.state_dict())
    return other


@dataclass(frozen=True)
class Experiment:
    """All of one seed."""

    options: Arguments
    seed: int

    def folder(self, name: str) -> Path:
        """Where what is called so lies."""
        return self.options.output / f"seed-{self.seed}" / name

    def stream(self, number: int) -> int:
        """Seed of a stream of episodes."""
        return len(WAYS) * self.seed + number

    @functools.cached_property
    def old(self) -> OfflineDataset:
        """What everything begins with."""
        agent = LeWMAgent(ENV, settings(self.options), device="cpu", seed=self.seed)
        return gathered(self.folder("old"), self.options.begin, self.stream(OLD), agent, "expert")

    @functools.cached_property
    def base(self) -> LeWMAgent:
        """The model that has seen no more."""
        agent = LeWMAgent(ENV, settings(self.options), device="cpu", seed=self.seed)
        return trained(agent, [self.old], self.folder(BEFORE), self.options.updates)

    @property
    def metric(self) -> Tensor:
        """The one that errors and disagreement are measured in: that of the model before."""
        metric = self.base.world_model.metric
        assert metric is not None, "a training that has ended has fitted it"
        return metric

    def new(self, way: str) -> OfflineDataset:
        """What a way gathers."""
        options, base, folder, seed = self.options, self.base, self.folder(way) / "data", self.stream(NEW)
        if way in ("expert", "weak"):
            return gathered(folder, options.steps, seed, base, way)
        goals = RecordedGoals(self.old, episodes=base.to_train_on(self.old))
        if way == "noise":
            return gathered(folder, options.steps, seed, base, way, AttemptSettings(goals, noise=options.noise))
        others = (another(base, 1000 * (self.seed + 1) + number) for number in range(1, options.predictors))
        models = [base.world_model]
        for number, other in enumerate(others, start=1):
            say(f"seed {self.seed}: predictor {number + 1} of {options.predictors}")
            folder_of_it = self.folder(f"predictor-{number}")
            models.append(trained(other, [self.old], folder_of_it, options.updates).world_model)
        exploring = Disagreement(models, self.metric)
        agent = LeWMAgent.from_pretrained(self.folder(BEFORE) / "model", device="cpu", seed=self.seed)
        agent.set_planner(base.config.planner, exploring.cost, exploring.rollout)
        return gathered(folder, options.steps, seed, agent, way, AttemptSettings(goals))

    def model(self, way: str) -> LeWMAgent:
        """The model that has learned from what a way gathers, too."""
        if way == BEFORE:
            return self.base
        agent = LeWMAgent.from_pretrained(self.folder(BEFORE) / "model", device="cpu", seed=self.seed)
        return trained(agent, [self.old, self.new(way)], self.folder(way), self.options.updates)

    def unseen(self, models: dict[str, LeWMAgent]) -> dict[str, list[OfflineDataset]]:
        """Held-out episodes by who acts: the plans are those of all models."""
        options = self.options
        expert, weak = (
            gathered(self.folder(f"unseen-{policy}"), options.unseen, self.stream(UNSEEN), self.base, policy)
            for policy in ("expert", "weak")
        )
        attempts, share = AttemptSettings(RecordedGoals(expert)), options.unseen // len(WAYS)
        plans = [
            gathered(self.folder(way) / "plans", share, self.stream(PLANS), model, "self", attempts)
            for way, model in models.items()
        ]
        return {"expert": [expert], "weak": [weak], "plans": plans}

    # --- measure -----------------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """What came of every way."""
        models: dict[str, LeWMAgent] = {}
        rows: list[dict[str, Any]] = []
        for way in (BEFORE, *self.options.ways):
            began = time.monotonic()
            say(f"seed {self.seed}: {WAYS[way]}")
            models[way] = self.model(way)
            steps = 0 if way == BEFORE else taken(OfflineDataset(self.folder(way) / "data"))
            rows.append({"seed": self.seed, "way": way, "steps": steps, "solved": self.solved(way, models[way])})
            minutes = (time.monotonic() - began) / 60
            say(f"seed {self.seed}: {sum(rows[-1]['solved'])} of {self.options.episodes} solved, {minutes:.1f} minutes")
        say(f"seed {self.seed}: held-out episodes")
        seen = {
            kind: [path for one in data for path in paths(self.base, one)] for kind, data in self.unseen(models).items()
        }
        for row in rows:
            model = models[row["way"]].world_model
            row["errors"] = {kind: errors(model, episodes, self.metric) for kind, episodes in seen.items()}
        return rows

    def solved(self, way: str, agent: LeWMAgent) -> list[bool]:
        """Which validation pairs are solved."""
        output = self.folder(way) / "validation.json"
        if not output.exists():
            measuring = Measuring(
                validation(self.options.episodes), agent, way, num_envs=8, output=output, progress=False
            )
            measuring.write(measuring.run()[0])
            measuring.finish()
        return [record["success"] for record in strict_json.read(output)["records"]]


@functools.cache
def validation(count: int) -> Suite:
    """So many validation pairs, without floors."""
    suite = pairs.draw(environment_id(ENV), "moderate", count, 1).suite()
    return dataclasses.replace(suite, floors=lambda env: {})


def paths(agent: LeWMAgent, data: OfflineDataset) -> list[Episode]:
    """Of each episode latents (T, latent_dim) at block boundaries, and the actions between (T - 1, frame_skip, A)."""
    skip, latents, found = agent.config.model.frame_skip, encode_all(agent.world_model, data), []
    for start, rows in zip(data.episode_starts, data.episode_lengths, strict=True):
        blocks = (rows - 1) // skip
        actions = data.actions[start : start + blocks * skip].reshape(blocks, skip, -1)
        found.append((latents[start : start + blocks * skip + 1 : skip], actions))
    return found


@torch.inference_mode()
def errors(model: WorldModel, episodes: Sequence[Episode], metric: Tensor) -> dict[str, dict[str, Any]]:
    """By blocks ahead: size of the errors over that of the changes, its 95 % interval over episodes, and windows."""
    found = {}
    for ahead in AHEAD:
        sums = np.array([_sums(model, *episode, metric, ahead) for episode in episodes])
        sums = sums[sums[:, 2] > 0]
        drawn = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
        ratios = sums[drawn, 0].sum(axis=1) / sums[drawn, 1].sum(axis=1)
        found[str(ahead)] = {
            "error": float(sums[:, 0].sum() / sums[:, 1].sum()),
            "ci95": [float(bound) for bound in np.percentile(ratios, BOUNDS)],
            "windows": int(sums[:, 2].sum()),
        }
    return found


def _sums(
    model: WorldModel, latents: NDArray[np.float32], actions: NDArray[np.float32], metric: Tensor, ahead: int
) -> tuple[float, float, int]:
    """Of the windows of one episode: errors, changes, and how many there are."""
    past = model.config.history - 1
    count = len(actions) - past - ahead + 1
    if count < 1:
        return 0.0, 0.0, 0
    seen, blocks = torch.as_tensor(latents), model.codec.blocks(torch.as_tensor(actions))
    known = seen.unfold(0, past + 1, 1)[:count].transpose(1, 2)
    around = blocks.unfold(0, past + ahead, 1)[:count].transpose(1, 2)
    future = model.rollout(known, around[:, :past], around[:, None, past:])[:, 0, -1]
    then = seen[past + ahead :][:count]
    wrong, moved = ((each - then) @ metric for each in (future, known[:, -1]))
    return float(wrong.norm(dim=-1).sum()), float(moved.norm(dim=-1).sum()), count


# --- tell ------------------------------------------------------------------------------------------------------------


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per way, of all seeds: mean errors, and success over all pairs."""
    found = []
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        solved = [pair for row in mine for pair in row["solved"]]
        means = {
            kind: {str(n): float(np.mean([row["errors"][kind][str(n)]["error"] for row in mine])) for n in AHEAD}
            for kind in MEASURED
        }
        counted = {"steps": [row["steps"] for row in mine], "by_seed": [sum(row["solved"]) for row in mine]}
        found.append({"way": way, "errors": means, **rate(sum(solved), len(solved)), "pairs": len(solved), **counted})
    return found


def markdown(found: Sequence[dict[str, Any]], options: Arguments) -> str:
    """The table for people."""
    heads = [f"{said}, {ahead}" for said in MEASURED.values() for ahead in AHEAD]
    lines = [
        f"Push-T, {options.begin} steps of the expert, then {options.steps} of each way; {options.updates} updates of "
        f"{options.batch_size} clips each time; seeds {', '.join(map(str, options.seeds))}. Errors after 1 and 5 "
        "blocks as a share of what changes, on held-out episodes; success of planner `slow` on "
        f"{options.episodes} `moderate` validation pairs (`--seed 1`) per seed, with Wilson's 95 % interval.",
        "",
        f"| what is added | {' | '.join(heads)} | success |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for row in found:
        low, high = row["success_rate_ci95"]
        cells = [f"{row['errors'][kind][str(ahead)]:.3f}" for kind in MEASURED for ahead in AHEAD]
        success = f"{row['success_rate']:.1f} [{low:.1f}, {high:.1f}]"
        lines.append(f"| {WAYS[row['way']]} | {' | '.join(cells)} | {success} |")
    return "\n".join(lines) + "\n"


def draw(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Errors after five blocks by who acts, and success, a bar per way."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    places = np.arange(len(MEASURED))
    for i, row in enumerate(found):
        heights = [row["errors"][kind][str(AHEAD[-1])] for kind in MEASURED]
        left.bar(places + (i - len(found) / 2 + 0.5) * 0.16, heights, 0.15, label=WAYS[row["way"]])
        bounds = np.abs(np.array(row["success_rate_ci95"])[:, None] - row["success_rate"])
        right.bar(i, row["success_rate"], 0.7, yerr=bounds, capsize=3)
    left.axhline(1, color="gray", linestyle="--", linewidth=1, label="standing still")
    left.set_xticks(places, [f"held-out: {said}" for said in MEASURED.values()])
    left.set(ylabel="error after 5 blocks")
    right.set_xticks([])
    right.set(ylabel="success from nothing, %", ylim=(0, 100))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    save_picture(figure, path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Arguments, _work, arguments, continues="the same command continues")


def _work(options: Arguments) -> None:
    command.at_least(options, begin=1, steps=1, updates=1, batch_size=2, predictors=2, episodes=1, unseen=len(WAYS))
    with reserved(options.output / "exploration.json"):
        _check_same(options)
        rows = [row for seed in options.seeds for row in Experiment(options, seed).rows()]
        found = table(rows)
        record.write(options.output / "exploration.json", _asked(options), {"table": found, "rows": rows})
        write_atomically(options.output / "exploration.md", markdown(found, options))
        draw(found, options.output / "exploration.png")
        say(markdown(found, options))


def _asked(options: Arguments) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}


def _check_same(options: Arguments) -> None:
    """Raise ``ValueError`` if the folder holds what was asked for otherwise; there may be other seeds and ways."""
    asked = {key: value for key, value in _asked(options).items() if key not in ("output", "ways", "seeds")}
    file = options.output / "asked.json"
    if file.exists() and (before := strict_json.read(file)) != asked:
        raise ValueError(f"{options.output} holds results of {before}, not of {asked}; give another --output")
    write_json(file, asked)


if __name__ == "__main__":
    sys.exit(main())
