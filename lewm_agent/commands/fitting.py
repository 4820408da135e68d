"""Commands that fit something more to a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from lewm_agent.tools import command
from lewm_agent.tools.outputs import reserved


def goal_states(
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")],
    dataset: Annotated[Path, tyro.conf.arg(metavar="DATASET")],
    output: Annotated[Path, tyro.conf.arg(metavar="OUTPUT")],
    /,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Fit to a trained model what takes goals in numbers instead of pictures, which training does where data have them.

    Args:
        model: output of a training, folder, bundled name or Hub id.
        dataset: of the model's frames, with numbers of the situation (`state`).
        output: folder for the model with it.
        seed: of the fit, and of the episodes held out to tell its error.
        device: auto, cpu, cuda or mps.
    """
    from lewm_agent.agent import LeWMAgent

    with reserved(output / "config.json"):
        agent = LeWMAgent.from_pretrained(model, device=device)
        agent.learn_goal_states(dataset, seed=seed)
        command.say(f"goals in numbers: {agent.about().traits['goals in numbers']}")
        command.say(f"saved in {agent.save_pretrained(output)}")


def far_goals(
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")],
    dataset: Annotated[Path, tyro.conf.arg(metavar="DATASET")],
    output: Annotated[Path, tyro.conf.arg(metavar="OUTPUT")],
    /,
    fit_steps: int = 4000,
    reach: int = 40,
    stride: int = 5,
    bank_megabytes: float = 0.0,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Fit to a trained model what helps with far goals: planner.metric steps and planner.waypoints.

    Args:
        model: output of a training, folder, bundled name or Hub id.
        dataset: of the model's frames, such as the one it was trained on.
        output: folder for the model with it.
        fit_steps: optimisation steps.
        reach: blocks to a goal are told apart up to this many.
        stride: blocks from a frame to its waypoint.
        bank_megabytes: of recorded ways to keep, for planner.waypoints recorded.
        seed: of the fit, and of the episodes held out to tell its error.
        device: auto, cpu, cuda or mps.
    """
    from lewm_agent.agent import LeWMAgent
    from lewm_agent.models.far_goals import FarGoalsConfig

    settings = FarGoalsConfig(fit_steps, reach, stride, bank_megabytes)
    with reserved(output / "config.json"):
        agent = LeWMAgent.from_pretrained(model, device=device)
        agent.learn_far_goals(dataset, settings=settings, seed=seed)
        command.say(f"far goals: {agent.about().traits['far goals']}")
        command.say(f"saved in {agent.save_pretrained(output)}")


def adapt(
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")],
    /,
    dataset: Path,
    output: Path,
    augmentations: str = "look",
    steps: int = 2500,
    batch_size: int = 64,
    learning_rate: float | None = None,
    width: int = 32,
    clean: float = 0.2,
    seed: int | None = None,
    device: str = "auto",
    resume: bool = False,
) -> None:
    """Teach the encoder of a trained model other looks (light, colors, camera), all else left as it is.

    Args:
        model: output of a training, folder, bundled name or Hub id.
        dataset: of frames of the model's size, such as the one it was trained on.
        output: gets training/ (logs, checkpoints) and model/.
        augmentations: look, or parts with their strengths: colors=0.2,noise=0.01.
        steps: optimisation steps.
        batch_size: frames in a step.
        learning_rate: highest one; by default 4e-3 for a network of masks, which begins anew, else 5e-4.
        width: channels of a network of masks (for models of moments) at its coarsest.
        clean: share of the frames that are left as they are.
        seed: of weights, order and looks; by default that of the training.
        device: auto, cpu, cuda or mps.
        resume: continue from the last checkpoint.
    """
    from lewm_agent.agent import LeWMAgent
    from lewm_agent.training.metrics_log import read_rows
    from lewm_agent.training.run_folder import OutputFolder, RunFolder

    folder = OutputFolder(output)
    agent = LeWMAgent.from_pretrained(model, device=device)
    agent.adapt(
        dataset,
        folder.training,
        augmentations=augmentations,
        resume=resume,
        seed=seed,
        clean=clean,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        width=width,
    )
    told = [row for row in read_rows(RunFolder(folder.training).metrics) if row["split"] == "held_out"][-1]
    names = {"clean": "of clean frames", "changed": "in other looks", "unadapted": "in other looks before"}
    errors = ", ".join(f"{words} {told[f'error_{name}']:.3f}" for name, words in names.items())
    command.say(f"error of a latent, in action blocks: {errors}")
    command.say(f"saved in {agent.save_pretrained(folder.model)}")
