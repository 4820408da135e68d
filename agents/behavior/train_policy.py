"""Train a behavior policy: Stable-Baselines3's SAC on what an environment observes, without pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from stable_baselines3 import SAC

from lewm_agent.agents.behavior.policies import FunctionPolicy
from lewm_agent.agents.behavior.stable_baselines import StableBaselinesPolicy
from lewm_agent.datasets.rollout import BehaviorPolicy, episode_seed, policy_seed, steps_of
from lewm_agent.environment import action_bounds, identity
from lewm_agent.tools.replacing import replacing

Environment = gym.Env[Any, Any]

SETTINGS: dict[str, Any] = {"buffer_size": 100_000, "gamma": 0.95, "learning_rate": 1e-3}
"""What differs from Stable-Baselines3's SAC.

Discount and learning rate are those of RL Baselines3 Zoo for reaching with a robot arm (``sac.yml``, FetchReach-v1). A
buffer of 1,000,000 steps would make every checkpoint ten times as large.
"""

_EVALUATION, _TRAINING = 1, 2  # streams of seeds that share no derivation with that of collected data, 0


class TrainedSAC(SAC):
    """SAC that remembers what it is trained on. It is saved as any SAC and loads as one."""

    origin: str


def train_sac(
    env: Environment,
    output: str | Path,
    steps: int = 20_000,
    *,
    seed: int = 0,
    checkpoint_every: int = 5000,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> TrainedSAC:
    """Train SAC and save it where ``behavior_policy`` can load it; on the CPU, which its small networks suit.

    Its settings are Stable-Baselines3's but for ``SETTINGS``. After every ``checkpoint_every`` steps all is saved
    beside ``output``, as NAME.checkpoint.zip, and the next stretch starts with an episode and random numbers of its
    own. So the same arguments give the same policy on the same machine, whether or not the training was interrupted.

    Args:
        env: environment whose observations and actions are bounded vectors and whose info tells ``is_success``.
        output: file to be written, NAME.zip.
        steps: environment steps in all, those before an interruption included.
        seed: of weights, exploration and episodes.
        checkpoint_every: steps between checkpoints.
        resume: continue from the checkpoint, if there is one; it is unpickled.
        overwrite: replace ``output``; without ``resume``, discard the checkpoint.
        progress: show a progress bar on the standard error stream.

    Raises:
        FileExistsError: ``output`` exists, or a checkpoint and neither ``resume`` nor ``overwrite`` is given.
        ValueError: arguments out of range, an environment that does not fit, or a checkpoint of another training.
    """
    output = Path(output)
    checkpoint = output.with_suffix(".checkpoint.zip")
    _check_arguments(output, steps, checkpoint_every)
    _check_environment(env)
    _check_free(output, checkpoint, resume, overwrite)
    origin = f"{' '.join(map(str, identity(env)))}, seed {seed}, checkpoint_every {checkpoint_every}"
    model = _resumed(checkpoint, origin, steps) if resume and checkpoint.exists() else _new_model(env, seed, origin)
    output.parent.mkdir(parents=True, exist_ok=True)
    with _progress_bar(model, steps, progress) as advance:
        while model.num_timesteps < steps:
            stretch = min(checkpoint_every, steps - model.num_timesteps)
            _train(model, env, stretch, episode_seed(seed, model.num_timesteps, _TRAINING), advance)
            _save(model, checkpoint, include=["replay_buffer"])
    _save(model, output)
    checkpoint.unlink()
    return model


def count_successes(
    model: SAC, env: Environment, episodes: int, *, seed: int = 0, progress: bool = True
) -> dict[str, int]:
    """Count the episodes in which a policy reaches the goal at any step.

    Args:
        model: a trained model.
        env: environment to act in.
        episodes: how many, of each kind.
        seed: of the episodes and the policy's noise; training and collecting with the same seed draw other episodes.
        progress: show a progress bar on the standard error stream.

    Returns:
        Successes with the policy's mean action (``deterministic``) and with its noise (``stochastic``), as it collects.
    """
    policies: dict[str, BehaviorPolicy] = {
        "deterministic": FunctionPolicy(functools.partial(_mean_action, model)),
        "stochastic": StableBaselinesPolicy(model, env),
    }
    counts = dict.fromkeys(policies, 0)
    with Progress(*_columns(), console=Console(stderr=True), disable=not progress) as bar:
        for name, policy in policies.items():
            for episode in bar.track(range(episodes), description=f"evaluating, {name}"):
                policy.reset(policy_seed(seed, episode, _EVALUATION))
                counts[name] += _reaches_goal(env, policy, episode_seed(seed, episode, _EVALUATION))
    return counts


def _check_arguments(output: Path, steps: int, checkpoint_every: int) -> None:
    if output.suffix != ".zip":
        raise ValueError(f"the policy's file must end in .zip, got {output}")
    for name, value in {"steps": steps, "checkpoint_every": checkpoint_every}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _check_environment(env: Environment) -> None:
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"the observation space must be a one-dimensional Box, got {space}")
    action_bounds(env.action_space)
    if "is_success" not in env.reset()[1]:
        raise ValueError("the environment's info does not tell is_success, so there is no success to measure")


def _check_free(output: Path, checkpoint: Path, resume: bool, overwrite: bool) -> None:
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder; give another output")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; give another output, or overwrite it with --overwrite")
    if checkpoint.exists() and not (resume or overwrite):
        raise FileExistsError(
            f"{checkpoint} is of an unfinished training; continue it with --resume, or start anew with --overwrite"
        )


def _new_model(env: Environment, seed: int, origin: str) -> TrainedSAC:
    model = TrainedSAC("MlpPolicy", env, seed=seed, device="cpu", **SETTINGS)
    model.origin = origin
    return model


def _resumed(checkpoint: Path, origin: str, steps: int) -> TrainedSAC:
    model = TrainedSAC.load(checkpoint, device="cpu")
    if model.origin != origin:
        raise ValueError(f"{checkpoint} is of {model.origin}; asked for is {origin}")
    if model.num_timesteps > steps:
        raise ValueError(f"{checkpoint} is at step {model.num_timesteps} already, asked for are {steps} steps")
    return model


Advance = Callable[[dict[str, Any], dict[str, Any]], bool]


def _train(model: SAC, env: Environment, steps: int, seed: int, advance: Advance) -> None:
    """Train on, from a new episode and with random numbers that depend on ``seed`` alone."""
    model.set_env(env)
    model.set_random_seed(seed)
    model.learn(steps, callback=advance, reset_num_timesteps=False)


def _save(model: SAC, path: Path, include: list[str] | None = None) -> None:
    with replacing(path) as part, part.open("wb") as file:
        model.save(file, include=include)


def _mean_action(model: SAC, observation: Any, info: dict[str, Any]) -> np.ndarray[Any, Any]:
    return model.predict(observation, deterministic=True)[0]


def _reaches_goal(env: Environment, policy: BehaviorPolicy, seed: int) -> bool:
    observation, info = env.reset(seed=seed)
    reached = False
    for _ in steps_of(env):
        observation, _, terminated, truncated, info = env.step(policy(observation, info))
        reached = reached or bool(info["is_success"])
        if terminated or truncated:
            break
    return reached


def _columns() -> tuple[Any, ...]:
    text = TextColumn("{task.description}")
    return text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()


@contextmanager
def _progress_bar(model: SAC, steps: int, enabled: bool) -> Iterator[Advance]:
    """Show steps and the success of the latest 100 training episodes; a last line where there is no terminal."""
    latest = TextColumn("latest episodes: {task.fields[success]}")
    with Progress(*_columns(), latest, console=Console(stderr=True), disable=not enabled) as bar:
        task = bar.add_task("training", total=steps, completed=model.num_timesteps, success="-")

        def advance(_locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
            outcomes = model.ep_success_buffer
            success = f"{np.mean(outcomes):.0%} reached" if outcomes else "-"
            bar.update(task, completed=model.num_timesteps, success=success)
            return True

        yield advance
