"""Frames per processor second of collecting in every world, beside its parts: acting, stepping, drawing.

Run ``python benchmarks/collecting.py``. Episodes are collected into a temporary folder in one process, by the scripted
expert; then the same episodes are played once more, with a clock around the policy, the environment's step and its
drawing. What is left is reset, compression and writing.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import record
from rich.table import Table

import lewm_agent.envs  # noqa: F401  # registers the environments
from lewm_agent.agents.behavior.policies import SCRIPTED
from lewm_agent.datasets import OfflineDataset, collect
from lewm_agent.datasets.rollout import BehaviorPolicy, episode_seed, policy_seed
from lewm_agent.eval import command
from lewm_agent.tools.checks import named
from lewm_agent.tools.command import console

WORLDS = {
    "two_room": "lewm/TwoRoom-v0",
    "push_t": "lewm/PushT-v0",
    "reacher": "lewm/Reacher-v0",
    "cube": "lewm/Cube-v0",
}


@dataclass(frozen=True)
class Arguments:
    """Frames per processor second of collecting in every world, beside acting, stepping and drawing alone."""

    env: tuple[str, ...] = tuple(WORLDS)
    """Short names of worlds."""
    episodes: int = 3
    """Of each."""
    image_size: int = 64
    """Side of the frames, in pixels."""
    output: Path | None = None
    """JSON file for the results."""


def measure(environment: str, episodes: int, image_size: int) -> dict[str, float]:
    """Processor seconds of a frame when collecting, and of its parts."""
    kwargs: dict[str, Any] = {"render_mode": "rgb_array", "image_size": image_size}
    make_env = functools.partial(gym.make, environment, **kwargs)
    expert = SCRIPTED["expert"][environment]
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        collect(
            Path(folder) / "data", make_env, expert, episodes,
            environment_id=environment, environment_kwargs=kwargs, policy="expert", seed=0,
        )  # fmt: skip
        seconds = time.process_time() - began
        frames = OfflineDataset(Path(folder) / "data").num_frames
    per_frame = {"collecting": seconds / frames} | played(make_env, expert, episodes)
    return {name: round(value, 7) for name, value in per_frame.items()}


def played(
    make_env: Callable[[], gym.Env[Any, Any]], expert: Callable[[gym.Env[Any, Any]], BehaviorPolicy], episodes: int
) -> dict[str, float]:
    """Processor seconds a step of acting, stepping and drawing."""
    env = make_env()
    policy = expert(env)
    clocks = {"acting": 0.0, "stepping": 0.0, "drawing": 0.0}
    steps = 0

    def clocked(name: str, call: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = call()
        clocks[name] += time.process_time() - began
        return result

    for index in range(episodes):
        observation, info = env.reset(seed=episode_seed(0, index))
        policy.reset(policy_seed(0, index))
        over = False
        while not over:
            action = clocked("acting", functools.partial(policy, observation, info))
            observation, _, terminated, truncated, info = clocked("stepping", functools.partial(env.step, action))
            clocked("drawing", env.render)
            over = terminated or truncated
            steps += 1
    env.close()
    return {name: seconds / steps for name, seconds in clocks.items()}


def show(results: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    table = Table(
        "world", "frames/s", "drawing alone, frames/s", "acting, ms", "stepping, ms", "drawing, ms", "rest, ms"
    )
    for name, row in results.items():
        parts = [row[part] for part in ("acting", "stepping", "drawing")]
        rest = max(0.0, row["collecting"] - sum(parts))
        rates = (f"{1 / seconds:,.0f}" for seconds in (row["collecting"], max(row["drawing"], 1e-9)))
        table.add_row(name, *rates, *(f"{1000 * seconds:.2f}" for seconds in (*parts, rest)))
    console().print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Arguments, _work, arguments, writes=("output",))


def _work(arguments: Arguments) -> None:
    """Measure, show and save."""
    command.at_least(arguments, episodes=1, image_size=1)
    worlds = {name: named(name, WORLDS, "world") for name in arguments.env}
    results = {name: measure(world, arguments.episodes, arguments.image_size) for name, world in worlds.items()}
    show(results)
    if arguments.output is not None:
        asked = {name: value for name, value in vars(arguments).items() if name != "output"}
        record.write(arguments.output, asked, results)


if __name__ == "__main__":
    sys.exit(main())
