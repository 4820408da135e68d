"""The command ``lewm``: the agent's long operations from a shell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from lewm_agent import recipes
from lewm_agent.agent import LeWMAgent
from lewm_agent.config import PRESETS, AgentConfig, preset

if TYPE_CHECKING:
    Config = AgentConfig
else:  # one subcommand per preset, whose every field can then be changed by a flag
    Config = tyro.extras.subcommand_type_from_defaults(PRESETS, prefix_names=False)


def collect(
    env: str,
    path: Path,
    policy: str = "expert",
    episodes: int = 1000,
    num_envs: int = 1,
    seed: int = 0,
    preset_name: Annotated[str, tyro.conf.arg(name="preset")] = "small",
    overwrite: bool = False,
) -> None:
    """Gather pixel episodes; an interrupted collection continues.

    Args:
        env: short name (two_room) or Gymnasium id.
        path: folder of the dataset.
        policy: expert, random, or a Stable-Baselines3 .zip (unpickled: only files you trust).
        episodes: how many in all.
        num_envs: processes that gather at the same time; the data do not depend on it.
        seed: of environment and policy.
        preset_name: whose frame size the episodes get.
        overwrite: discard what the folder holds.
    """
    agent = LeWMAgent(env, preset(preset_name), device="cpu", seed=seed)
    dataset = agent.collect(path, policy, episodes, num_envs=num_envs, overwrite=overwrite)
    Console().print(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames in {path}")


def learn(
    env: str,
    dataset: Path,
    output: Path,
    config: Annotated[Config, tyro.conf.arg(name="")] = PRESETS["small"],
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
) -> None:
    """Train an agent on a dataset and save it in OUTPUT/model.

    Args:
        env: short name (two_room) or Gymnasium id.
        dataset: folder of the dataset.
        output: gets training/ (logs, checkpoints) and model/.
        config: preset, with any of its settings changed.
        seed: of weights, batch order, dropout and SIGReg.
        device: auto, cpu, cuda or mps.
        resume: continue from the last checkpoint.
    """
    agent = LeWMAgent(env, config, device=device, seed=seed)
    agent.learn(dataset, output / "training", resume=resume)
    Console().print(f"saved in {agent.save_pretrained(output / 'model')}")


def reproduce(
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")],
    /,
    output: Path | None = None,
    seed: int = 0,
    num_envs: int = 1,
    device: str = "auto",
) -> None:
    """Make a bundled model again from nothing: collect, then learn. An interrupted run continues.

    Args:
        model: its name (two_room).
        output: gets data/, training/ and model/; runs/MODEL by default.
        seed: of data and training.
        num_envs: processes that collect.
        device: auto, cpu, cuda or mps.
    """
    output = output or Path("runs") / model
    recipes.reproduce(model, output, seed=seed, num_envs=num_envs, device=device)
    Console().print(f"saved in {output / 'model'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lewm``; returns the exit code."""
    commands: dict[str, Any] = {"collect": collect, "learn": learn, "reproduce": reproduce}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="lewm", description="Learn latent world models and act with them.", args=arguments
        )
    except (ValueError, TypeError, OSError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt as error:
        Console(stderr=True).print(
            str(error) or "interrupted; the same command continues (learn: with --resume)", highlight=False
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
