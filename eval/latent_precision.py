"""How finely latents tell where the thing to be moved is, now and in imagination: a gate before success is measured.

python eval/latent_precision.py --env push_t --output precision.json --picture precision.png

A perceptron and a linear map read its pose from latents of held-out episodes. The perceptron then reads the predicted
latents, one and five blocks after frames from which the thing moves. Beside it stands how wrong one is who foretells
that nothing moves. Episodes of different behavior are told apart: a search asks for more than experts do.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

from lewm_agent import LeWMAgent
from lewm_agent.agents.behavior.policies import SCRIPTED, behavior_policy
from lewm_agent.datasets.rollout import BehaviorPolicy, episode_seed, policy_seed, rollout
from lewm_agent.eval import command
from lewm_agent.eval.options import ModelOptions
from lewm_agent.eval.playing.views import latents
from lewm_agent.eval.probing import PROBES, probe
from lewm_agent.eval.reporting.pictures import save_picture
from lewm_agent.eval.worlds import world_of
from lewm_agent.eval.worlds.held_out import HELD_OUT_STREAM
from lewm_agent.eval.worlds.world import Thing, World
from lewm_agent.tools.command import console
from lewm_agent.tools.progress import counted

Matrix = NDArray[np.floating[Any]]
AHEAD = (1, 5)
"""Blocks after which predictions are read."""


@dataclass(frozen=True)
class Options(ModelOptions):
    """Errors of the pose that is read from latents and from predicted latents, by behavior."""

    episodes: int = 60
    """Held-out episodes of each behavior, a quarter of them for testing."""
    planner: str | None = None
    """Planner preset for episodes of the model's own plans; by default the model's own."""
    planned: int = 0
    """Episodes of the model's own plans, which take longest."""


@dataclass(frozen=True)
class Recorded:
    """Episodes of one behavior, at the boundaries of their action blocks.

    Attributes:
        latents: of each episode (T, latent_dim).
        poses: of each (T, P): places in the thing's unit, then sine and cosine of its angle if it has one.
        blocks: of each (T - 1, block_dim), normalised.
    """

    latents: list[Matrix]
    poses: list[Matrix]
    blocks: list[NDArray[np.float32]]


class Planning:
    """The model's agent as a behavior policy, towards the goal of the episode."""

    def __init__(self, agent: LeWMAgent, env: gym.Env[Any, Any]) -> None:
        self._agent, self._env = agent, env

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self._memories = self._agent.initial_memories([seed])
        self._goal = self._env.unwrapped.goal_frame()  # type: ignore[attr-defined]

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[Any]:
        """The next action of the plan."""
        frame = np.asarray(self._env.render())[None]
        seen = {"pixels": frame, "goal": self._goal[None]}
        actions, self._memories = self._agent.predict(seen, self._memories)
        return np.asarray(actions[0])


def pose(physics: dict[str, float], thing: Thing, turns: int) -> list[float]:
    """What is read: places, then sine and cosine of the angle, times its turns."""
    places = [thing.scale * physics[name] for name in thing.places]
    if thing.angle is None:
        return places
    angle = turns * physics[thing.angle]
    return [*places, float(np.sin(angle)), float(np.cos(angle))]


def errors(read: Matrix, true: Matrix, thing: Thing, turns: int) -> tuple[Matrix, Matrix | None]:
    """Errors (N,) of the place, in the thing's unit, and of the angle, in degrees, of poses (N, P)."""
    count = len(thing.places)
    distance = np.linalg.norm(read[:, :count] - true[:, :count], axis=1)
    if thing.angle is None:
        return distance, None
    angle = [np.arctan2(poses[:, count], poses[:, count + 1]) for poses in (read, true)]
    apart = np.abs((angle[0] - angle[1] + np.pi) % (2 * np.pi) - np.pi)
    return distance, np.degrees(apart) / turns


def record(agent: LeWMAgent, world: World, policy: BehaviorPolicy, env: gym.Env[Any, Any], count: int) -> Recorded:
    """Play held-out episodes and encode a frame at the start of every block."""
    skip, turns = agent.config.model.frame_skip, world.turns.get(world.thing.angle or "", 1)
    encoded: list[Matrix] = []
    poses: list[Matrix] = []
    blocks: list[Matrix] = []
    for number in counted("episodes", range(count)):
        starts, acts = (derive(0, number, HELD_OUT_STREAM) for derive in (episode_seed, policy_seed))
        episode = rollout(env, policy, starts, acts, frame_interval=None)
        frames, told = [], []
        for state in episode["state"][::skip]:
            _, info = env.reset(seed=0, options={"state": state})
            frames.append(np.asarray(env.render()))
            told.append(pose(info["physics"], world.thing, turns))
        actions = episode["action"][: (len(frames) - 1) * skip].reshape(len(frames) - 1, skip, -1)
        encoded.append(latents(agent.world_model, np.stack(frames), agent.device))
        poses.append(np.array(told))
        blocks.append(agent.world_model.codec.blocks(torch.as_tensor(actions, device=agent.device)).cpu().numpy())
    return Recorded(encoded, poses, blocks)


def windows(
    recorded: Recorded, thing: Thing, tested: NDArray[np.bool_], history: int
) -> Iterator[tuple[Matrix, Matrix, Matrix]]:
    """Stretches of tested episodes from a frame with so long a history, in whose first block the thing moves.

    Yields:
        Latents (history, latent_dim), blocks (history - 1 + 5, block_dim), and poses (6, P) from the last latent on.
    """
    last, places = AHEAD[-1], slice(len(thing.places))
    for number in np.flatnonzero(tested):
        told = recorded.poses[number]
        moved = np.linalg.norm(np.diff(told[:, places], axis=0), axis=1) >= thing.moves
        for now in np.flatnonzero(moved[: max(0, len(told) - last)]):
            first = now - history + 1
            if first >= 0:
                blocks = recorded.blocks[number][first : now + last]
                yield recorded.latents[number][first : now + 1], blocks, told[now : now + last + 1]


def medians(read: Matrix, true: Matrix, thing: Thing, turns: int) -> dict[str, float]:
    """Median errors, rounded; JSON-ready."""
    place, angle = errors(read, true, thing, turns)
    found = {thing.unit: round(float(np.median(place)), 3)}
    return found if angle is None else {**found, "degrees": round(float(np.median(angle)), 3)}


class Reader:
    """Probes of one kind, fitted to the episodes of all behaviors that are not for testing."""

    def __init__(self, kind: str, behaviors: dict[str, Recorded], tested: NDArray[np.bool_]) -> None:
        fitted = [number for number in np.flatnonzero(~tested)]
        self._latents = np.concatenate([r.latents[n] for r in behaviors.values() for n in fitted])
        self._poses = np.concatenate([r.poses[n] for r in behaviors.values() for n in fitted])
        self._kind = kind

    def read(self, *unseen: Matrix) -> list[Matrix]:
        """Poses (N, P) for each of several sets of latents (N, latent_dim)."""
        scale = self._poses.std(axis=0), self._poses.mean(axis=0)
        features = np.concatenate([self._latents, *unseen])
        wanted = np.concatenate([self._poses, np.zeros((len(features) - len(self._poses), self._poses.shape[1]))])
        is_test = np.arange(len(features)) >= len(self._poses)
        read, _ = probe(features, wanted, is_test, self._kind, seed=0)
        ends = np.cumsum([len(each) for each in unseen])[:-1]
        return np.split(read * scale[0] + scale[1], ends)


def measure(options: Options) -> dict[str, Any]:
    """All figures; JSON-ready."""
    command.at_least(options, episodes=8, planned=0)
    world = world_of(options.env)
    agent = command.load_model(options.model or options.env, world.environment, options.device, options.planner)
    behaviors = _behaviors(agent, world, options)
    tested = np.arange(options.episodes) % 4 == 3
    turns = world.turns.get(world.thing.angle or "", 1)
    rows = {name: _row(agent, name, behaviors, tested, world.thing, turns) for name in behaviors}
    return {
        "env": world.environment,
        "model": options.model or options.env,
        "weights_sha256": agent.weights_sha256(),
        "episodes": options.episodes,
        "command": " ".join(["python", *sys.argv]),
        "behaviors": rows,
    }


def _behaviors(agent: LeWMAgent, world: World, options: Options) -> dict[str, Recorded]:
    kwargs = {**agent.description.environment_kwargs, "render_mode": "rgb_array"}
    env = gym.make(world.environment, disable_env_checker=True, **kwargs)
    scripted = [name for name, known in SCRIPTED.items() if world.environment in known]
    names = [name for name in scripted if name not in ("mixed", "replays")]  # which are the others' in other words
    found = {
        name: record(agent, world, behavior_policy(name, env), env, options.episodes) for name in [*names, "random"]
    }
    if options.planned:
        found["planned"] = record(agent, world, Planning(agent, env), env, options.planned)
    return found


@torch.inference_mode()
def _row(
    agent: LeWMAgent,
    name: str,
    behaviors: dict[str, Recorded],
    tested: NDArray[np.bool_],
    thing: Thing,
    turns: int,
) -> dict[str, Any]:
    """What is read from the latents of one behavior, and from those predicted from them."""
    scripted = {other: recorded for other, recorded in behaviors.items() if other != "planned"}
    recorded = behaviors[name]
    chosen = tested if name != "planned" else np.ones(len(recorded.poses), bool)
    seen = np.concatenate([recorded.latents[n] for n in np.flatnonzero(chosen)])
    true = np.concatenate([recorded.poses[n] for n in np.flatnonzero(chosen)])
    found = list(windows(recorded, thing, chosen, agent.config.model.history))
    row: dict[str, Any] = {"frames": len(seen), "windows": len(found)}
    imagined = _imagined(agent, found)
    read = {kind: Reader(kind, scripted, tested).read(seen, *imagined.values()) for kind in PROBES}
    for kind, (present, *_) in read.items():
        row[kind] = medians(present, true, thing, turns)
    for (blocks, _), future in zip(imagined.items(), read["mlp"][1:], strict=True):
        told = np.array([poses[blocks] for _, _, poses in found])
        still = np.array([poses[0] for _, _, poses in found])
        row[f"after {blocks}"] = medians(future, told, thing, turns)
        row[f"still, after {blocks}"] = medians(still, told, thing, turns)
    return row


def _imagined(agent: LeWMAgent, found: list[tuple[Matrix, Matrix, Matrix]]) -> dict[int, Matrix]:
    """Predicted latents (N, latent_dim) after one and after five blocks; nothing where there are no windows."""
    if not found:
        return {}
    known = torch.as_tensor(np.array([latents for latents, _, _ in found]), dtype=torch.float32, device=agent.device)
    blocks = torch.as_tensor(np.array([blocks for _, blocks, _ in found]), dtype=torch.float32, device=agent.device)
    past = known.shape[1] - 1
    future = agent.world_model.rollout(known, blocks[:, :past], blocks[:, None, past:])[:, 0].double().cpu().numpy()
    return {ahead: future[:, ahead - 1] for ahead in AHEAD}


def show(result: dict[str, Any]) -> None:
    """Print one table: medians by behavior."""
    table = Table(title=f"{result['env']}: median errors of the pose that is read")
    columns = ["linear", "mlp", *itertools.chain(*((f"after {n}", f"still, after {n}") for n in AHEAD))]
    for head in ("behavior", *columns):
        table.add_column(head)
    for name, row in result["behaviors"].items():
        cells = (", ".join(f"{value:g} {unit}" for unit, value in row.get(column, {}).items()) for column in columns)
        table.add_row(name, *cells)
    console().print(table)


def draw(result: dict[str, Any], path: Path) -> None:
    """Bars of the errors of the place: now, after one block and after five, beside standing still."""
    rows = result["behaviors"]
    columns = ["mlp", *itertools.chain(*((f"after {n}", f"still, after {n}") for n in AHEAD))]
    figure = Figure(figsize=(7, 3), layout="constrained")
    panel = figure.subplots()
    for i, column in enumerate(columns):
        heights = [next(iter(row.get(column, {0: 0.0}).values())) for row in rows.values()]
        panel.bar(np.arange(len(rows)) + (i - 2) * 0.16, heights, 0.15, label="now" if column == "mlp" else column)
    unit = next(iter(next(iter(rows.values()))["mlp"]))
    panel.set_xticks(range(len(rows)), list(rows))
    panel.set(ylabel=f"median error of the place, {unit}")
    figure.legend(loc="outside lower center", ncols=5)
    save_picture(figure, path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, writes=("output", "picture"))


def _work(options: Options) -> None:
    result = measure(options)
    show(result)
    command.keep(options, result, lambda path: draw(result, path))


if __name__ == "__main__":
    sys.exit(main())
