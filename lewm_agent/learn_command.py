"""The command ``lewm learn``, whose options are all settings of an agent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lewm_agent import environment
from lewm_agent.agents.registry import make_agent
from lewm_agent.config import AgentConfig
from lewm_agent.datasets import OfflineDataset
from lewm_agent.presets import PRESETS
from lewm_agent.tools import command
from lewm_agent.training.run_folder import OutputFolder

if TYPE_CHECKING:
    Config = AgentConfig
else:  # one subcommand per preset, whose every field can then be changed by a flag
    Config = tyro.extras.subcommand_type_from_defaults(PRESETS, prefix_names=False)


def learn(
    env: str,
    dataset: Path,
    output: Path,
    config: Annotated[Config, tyro.conf.arg(name="")] = PRESETS["small"],
    agent: str = "lewm",
    frozen: str | None = None,
    seed: int = 0,
    device: str = "auto",
    environment_kwargs: str | None = None,
    resume: bool = False,
) -> None:
    """Train an agent on a dataset and save it in OUTPUT/model.

    Args:
        env: short name (two_room) or Gymnasium id.
        dataset: folder of the dataset.
        output: gets training/ (logs, checkpoints) and model/.
        config: preset, with any of its settings changed.
        agent: lewm, or with the preset's sizes and training pldm, dino_wm, gcbc, gcivl or gciql.
        frozen: encoder that is taken over and not trained, by policies and dino_wm: a trained world model, or for
            dino_wm a ViT of timm.
        seed: of weights, batch order, dropout and SIGReg.
        device: auto, cpu, cuda or mps.
        environment_kwargs: arguments of the environment, as a JSON object; by default those of the data.
        resume: continue from the last checkpoint; a finished run goes on when given more epochs and cycles.
    """
    folder = OutputFolder(output)
    if environment_kwargs is None:
        world = environment.of_data(env, OfflineDataset(dataset), config.model.image_size)
    else:
        world = environment.from_text(env, config.model.image_size, environment_kwargs)
    learner = make_agent(agent, world, config, frozen=frozen, device=device, seed=seed)
    learner.learn(dataset, folder.training, resume=resume)
    command.say(f"saved in {learner.save_pretrained(folder.model)}")


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns the exit code."""
    continues = "the same command with --resume continues"
    return command.run(lambda given: tyro.cli(learn, args=given, prog=prog), arguments, continues=continues)
