"""The command that gathers data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from lewm_agent.tools import command
from lewm_agent.tools.cluster import Cluster, Kind


def collect(
    env: str,
    path: Path,
    policy: str = "expert",
    episodes: int = 1000,
    model: str | None = None,
    goals: str | None = None,
    success: str | None = None,
    offset: int = 25,
    budget: int | None = None,
    noise: float = 0.0,
    num_envs: int = 1,
    seed: int = 0,
    preset_name: Annotated[str, tyro.conf.arg(name="preset")] = "small",
    frame_interval: int = 1,
    families: int | None = None,
    environment_kwargs: str = "{}",
    overwrite: bool = False,
    cluster: Kind = "none",
    jobs: int | None = None,
    cluster_options: str = "{}",
) -> None:
    """Gather pixel episodes; an interrupted collection continues.

    Args:
        env: short name (two_room) or Gymnasium id.
        path: folder of the dataset.
        policy: expert, random, weak, mixed or replays (Push-T), self for attempts of --model, or a trusted
            Stable-Baselines3 .zip (unpickled).
        episodes: how many in all.
        model: whose attempts, with --policy self: bundled name, folder or Hub id; by default the bundled model. Frames
            and environment are then as this model knows them.
        goals: of attempts: by default `task`, the environment's own; or a dataset, a .json list, or module:function.
        success: of attempts, when a goal of a dataset or list is reached: a key of info, a column with a tolerance
            (state:0.05), or module:function.
        offset: environment steps from start to goal of attempts, with --goals DATASET.
        budget: steps of an attempt; by default twice the offset, or until the environment's time limit.
        noise: added to every action of an attempt: its standard deviation, from 0 to 1 of half the range.
        num_envs: processes that gather at the same time; the data do not depend on it.
        seed: of environment and policy.
        preset_name: whose frame size the episodes get.
        frame_interval: record the frame of every so many steps only; the model's frame skip must be a multiple.
        families: let episodes begin in so many ways only, of which training and held-out ones share none.
        environment_kwargs: arguments of the environment, as a JSON object: '{"terminate_on_success": false}'.
        overwrite: discard what the folder holds.
        cluster: slurm, or local, for the same way here: jobs gather into PATH, with num_envs processes each.
        jobs: how many, with --cluster, by default 8; each writes whole files of 100 episodes.
        cluster_options: for submitit, as a JSON object: '{"slurm_partition": "cpu", "timeout_min": 240}'.
    """
    machines = Cluster.from_text(cluster, jobs, cluster_options)
    if policy == "self":
        agent = _who_attempts(env, model, environment_kwargs)
    elif model is not None:
        raise ValueError("--model makes attempts of its own: it goes with --policy self")
    else:
        agent = _who_collects(env, preset_name, environment_kwargs)
    dataset = agent.collect(
        path,
        policy,
        episodes,
        goals=goals,
        success=success,
        offset=offset,
        budget=budget,
        noise=noise,
        seed=seed,
        num_envs=num_envs,
        frame_interval=frame_interval,
        families=families,
        overwrite=overwrite,
        cluster=machines,
    )
    command.say(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames in {path}")


def _who_collects(env: str, preset_name: str, environment_kwargs: str) -> Any:
    """An agent that has learned nothing, for an environment and the size of its frames."""
    from lewm_agent import environment
    from lewm_agent.agent import LeWMAgent
    from lewm_agent.presets import preset

    config = preset(preset_name)
    return LeWMAgent(environment.from_text(env, config.model.image_size, environment_kwargs), config, device="cpu")


def _who_attempts(env: str, model: str | None, environment_kwargs: str) -> Any:
    """The agent of a model that was trained in an environment."""
    from lewm_agent.agents.registry import load_agent
    from lewm_agent.envs import environment_id
    from lewm_agent.eval.command import bundled, check_world

    if environment_kwargs != "{}":
        raise ValueError("attempts are made in the environment that the model knows: leave out --environment-kwargs")
    agent = load_agent(model or bundled(env), device="cpu")
    check_world(agent, environment_id(env).rpartition(":")[2])
    return agent
