"""Seconds per plan: lewm-agent beside stable-worldmodel, with the same weights and the same noise.

Run ``pip install "lewm-agent[compare]"`` and ``python benchmarks/planning.py``. Both search with the released settings
(300 samples, 30 elites, 30 iterations, 5 blocks of 5 actions) for the same goals, starting from latents: images are
encoded once per plan by both and not timed. The weights have the paper's sizes; they are random, unless a model is
given, since an untrained AdaLN would ignore the actions. The planners take turns, and ratios are medians of
ratios within a turn.

Both compute the same function, and the plans of the first iterations are equal. With random weights all plans cost
nearly the same, so rounding sooner or later exchanges two elites, and the final plans differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import record
import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor

from lewm_agent import LeWMAgent, ModelConfig
from lewm_agent.agents.rivals.patch_world_model import PatchModelConfig, PatchWorldModel
from lewm_agent.checkpoints.released import released_weights
from lewm_agent.eval import command
from lewm_agent.models.learner import LatentModel
from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning import CEM, Sampling
from lewm_agent.planning.fast_rollout import fast_rollout
from lewm_agent.planning.goal_cost import goal_cost
from lewm_agent.planning.presets import planner_preset
from lewm_agent.planning.settings import PlannerConfig, Precision
from lewm_agent.tools.command import console
from lewm_agent.tools.precision import bfloat16_gain

OURS, THEIRS, DINO_WM = "lewm-agent", "stable-worldmodel", "DINO-WM"
HOPELESS = 0.1
"""Gain of bfloat16 under which it is left out."""
DINO_WM_CANDIDATES = 4
"""Imagined at once by DINO-WM's predictor: enough for large matrix products, as each has 256 tokens a frame."""
Plan = Callable[[int], Tensor]
"""From a seed to a plan (T, A)."""


@dataclass(frozen=True)
class Arguments:
    """Seconds per plan: lewm-agent beside stable-worldmodel, with the same weights and the same noise."""

    model: str | None = None
    """Bundled name, folder or Hub id of trained weights; by default random weights of the paper's size."""
    planner: str = "paper"
    """Whose samples, elites, iterations and horizon both use."""
    compiled: bool = False
    """Also our planner with compiled rollouts; compiling takes some minutes."""
    dino_wm: bool = False
    """Also how long a predictor of DINO-WM's size takes to imagine a candidate, beside LeWM's."""
    repeats: int = 5
    """Plans of each planner, in turns; the medians are shown."""
    threads: int = 2
    """Threads of torch."""
    output: Path | None = None
    """JSON file for the results."""


def random_model() -> WorldModel:
    """The paper's sizes with random weights, also where training starts from zeros, and random statistics."""
    torch.manual_seed(0)
    model = WorldModel(ModelConfig()).eval()
    for block in model.predictor.blocks:
        torch.nn.init.normal_(block.modulation[1].weight, std=0.02)
    torch.nn.init.normal_(model.prediction_head[1].running_mean, std=0.1)
    torch.nn.init.uniform_(model.prediction_head[1].running_var, 0.5, 2.0)
    return model


def planners(model: WorldModel, settings: PlannerConfig, compiled: bool) -> dict[str, Plan]:
    """Ours, at both precisions where the processor has them, and the peer's if it is installed; one start and goal."""
    generator = torch.Generator().manual_seed(0)
    start, goal = (torch.randn(1, model.config.latent_dim, generator=generator) for _ in range(2))
    found = {}
    for precision, is_compiled in itertools.product(_precisions(), (False, True)[: 1 + compiled]):
        name = OURS + (" bfloat16" if precision == "bfloat16" else "") + (" compiled" if is_compiled else "")
        faster = dataclasses.replace(settings, precision=precision, compile=is_compiled)
        found[name] = our_planner(model, faster, start, goal)
    theirs = their_planner(model, settings, start, goal)
    return found if theirs is None else {**found, THEIRS: theirs}


def _precisions() -> tuple[Precision, ...]:
    """bfloat16 only where it is not far slower: it takes minutes a plan on a processor without it."""
    return ("float32", "bfloat16") if bfloat16_gain() > HOPELESS else ("float32",)


def our_planner(model: WorldModel, settings: PlannerConfig, start: Tensor, goal: Tensor) -> Plan:
    """CEM over rollouts of our world model."""
    config, no_past = model.config, torch.zeros(1, 0, model.config.block_dim)
    sampling = Sampling(samples=settings.samples, elites=settings.elites, iterations=settings.iterations)
    rollout = fast_rollout(model, settings)
    zeros = torch.zeros(1, 1, settings.horizon * config.frame_skip, config.action_dim)

    def cost(actions: Tensor) -> Tensor:
        return goal_cost(rollout(start[:, None], no_past, model.codec.joined(actions)), goal, "terminal")

    def plan(seed: int) -> Tensor:
        return CEM().plan(cost, zeros, [torch.Generator().manual_seed(seed)], sampling).actions[0]

    return plan


def their_planner(model: WorldModel, settings: PlannerConfig, start: Tensor, goal: Tensor) -> Plan | None:
    """Their CEM over their world model with our weights, or None with a word on why it is left out."""
    warnings.filterwarnings("ignore", message="lancedb fork")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from stable_worldmodel.policy import PlanConfig
            from stable_worldmodel.solver import CEMSolver
            from stable_worldmodel.wm.lewm import module
            from stable_worldmodel.wm.lewm.lewm import LeWM
    except ImportError as error:
        message = f'stable-worldmodel is left out ({error}): pip install "lewm-agent[compare]" to see it beside'
        console(stderr=True).print(message)
        return None
    config = model.config
    predictor = module.Predictor(
        num_frames=config.history,
        depth=config.predictor_depth,
        heads=config.predictor_heads,
        dim_head=config.predictor_head_dim,
        mlp_dim=config.predictor_mlp_width,
        input_dim=config.latent_dim,
        hidden_dim=config.predictor_width,
        dropout=config.predictor_dropout,
    )
    embedder = module.Embedder(input_dim=config.block_dim, emb_dim=config.latent_dim)
    head = module.MLP(config.latent_dim, config.projector_width, config.latent_dim, norm_fn=torch.nn.BatchNorm1d)
    theirs = LeWM(None, predictor, embedder, pred_proj=head).eval()
    theirs.load_state_dict(renamed(model))
    nothing = torch.zeros(1, 1, 1)
    known = {"pixels": nothing, "goal": nothing, "emb": start[:, None], "goal_emb": goal[:, None]}

    def plan(seed: int) -> Tensor:
        solver = CEMSolver(
            theirs, num_samples=settings.samples, n_steps=settings.iterations, topk=settings.elites, seed=seed
        )
        blocks = PlanConfig(settings.horizon, settings.horizon, action_block=config.frame_skip)
        space = gym.spaces.Box(-np.inf, np.inf, (1, config.action_dim), np.float32)
        solver.configure(action_space=space, n_envs=1, config=blocks)
        with contextlib.redirect_stdout(io.StringIO()):
            actions: Tensor = solver.solve(dict(known))["actions"]
        return actions[0].view(-1, config.action_dim)

    return plan


def renamed(model: WorldModel) -> dict[str, Tensor]:
    """Our action encoder, predictor and prediction head under stable-worldmodel's names."""
    parts = ("action_encoder", "predictor", "prediction_head")
    weights = {name: value for name, value in model.state_dict().items() if name.split(".")[0] in parts}
    return released_weights(weights)


def measure(found: dict[str, Plan], repeats: int) -> dict[str, Any]:
    """Seconds of every planner in every turn, and how far each plan is from ours."""
    for plan in found.values():
        plan(0)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    plans: dict[str, list[Tensor]] = {name: [] for name in found}
    for seed in track(range(repeats), "turns", console=console(stderr=True), transient=True):
        for name, plan in found.items():
            began = time.perf_counter()
            plans[name].append(plan(seed))
            seconds[name].append(time.perf_counter() - began)
    return {
        name: {
            "seconds_per_plan": round(statistics.median(times), 4),
            "all_repeats": [round(value, 4) for value in times],
            "times_faster_than_stable_worldmodel": (
                round(statistics.median(b / a for a, b in zip(times, seconds[THEIRS], strict=True)), 3)
                if THEIRS in seconds
                else None
            ),
            "largest_difference_of_a_plan": max(
                float((a - b).abs().max()) for a, b in zip(plans[name], plans[OURS], strict=True)
            ),
        }
        for name, times in seconds.items()
    }


def imagination_seconds(settings: PlannerConfig, repeats: int) -> dict[str, list[float]]:
    """Seconds in which LeWM and DINO-WM imagine one candidate from one frame: both random, of the released sizes."""
    models: dict[str, LatentModel] = {OURS: random_model(), DINO_WM: PatchWorldModel(PatchModelConfig()).eval()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(1 + repeats):
        for name, model in models.items():
            config = model.config
            samples = settings.samples if name == OURS else DINO_WM_CANDIDATES
            frame = torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8)
            latents, past = model.encode(frame)[:, None], torch.zeros(1, 0, config.block_dim)
            blocks = torch.randn(1, samples, settings.horizon, config.block_dim)
            began = time.perf_counter()
            model.rollout(latents, past, blocks)
            if turn:  # the first warms up
                seconds[name].append((time.perf_counter() - began) / samples)
    return seconds


def show_imagination(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Print how the two compare; returns the results."""
    ratio = statistics.median(b / a for a, b in zip(seconds[OURS], seconds[DINO_WM], strict=True))
    table = Table("predictor", "ms per candidate", title="Imagining one candidate, medians")
    for name, times in seconds.items():
        table.add_row(name, f"{1000 * statistics.median(times):.2f}")
    console().print(table, f"{DINO_WM} takes {ratio:.0f} times as long")
    return {"seconds_per_candidate": seconds, "ratio": round(ratio, 1)}


def show(results: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("planner", "s per plan", "range", "ratio", "plans differ by at most", title="One plan, medians")
    for name, row in results.items():
        spread = f"{min(row['all_repeats']):.3f} to {max(row['all_repeats']):.3f}"
        ratio = row["times_faster_than_stable_worldmodel"]
        table.add_row(
            name,
            f"{row['seconds_per_plan']:.3f}",
            spread,
            f"{ratio:.2f} x" if ratio else "not measured",
            f"{row['largest_difference_of_a_plan']:.1e}",
        )
    console().print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Arguments, _work, arguments, writes=("output",))


@torch.inference_mode()
def _work(arguments: Arguments) -> None:
    """Measure, show and save."""
    command.at_least(arguments, repeats=1, threads=1)
    settings = planner_preset(arguments.planner)
    torch.set_num_threads(arguments.threads)
    trained = LeWMAgent.from_pretrained(arguments.model, device="cpu").world_model if arguments.model else None
    found = planners(trained or random_model(), settings, arguments.compiled)
    results = measure(found, arguments.repeats)
    show(results)
    if arguments.dino_wm:
        results["imagination"] = show_imagination(imagination_seconds(settings, arguments.repeats))
    if arguments.output is not None:
        asked = {name: value for name, value in vars(arguments).items() if name != "output"}
        record.write(arguments.output, asked, results)


if __name__ == "__main__":
    sys.exit(main())
