"""The command ``lewm``: the agent's long operations from a shell.

What a subcommand needs beyond its options is imported when it runs, so that ``lewm --help`` answers at once, and so
that the processes of a collection, which import this module again, load no torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table
from rich.text import Text

from lewm_agent import __version__
from lewm_agent.tools import command
from lewm_agent.tools.checks import named
from lewm_agent.tools.cluster import Cluster, Kind
from lewm_agent.tools.outputs import reserved


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
    from lewm_agent import recipes
    from lewm_agent.training.run_folder import OutputFolder

    output = output or Path("runs") / model
    recipes.reproduce(model, output, seed=seed, num_envs=num_envs, device=device)
    command.say(f"saved in {OutputFolder(output).model}")


def train_policy(
    env: Annotated[str, tyro.conf.arg(metavar="ENV")],
    /,
    output: Path,
    steps: int = 20_000,
    seed: int = 0,
    evaluation_episodes: int = 50,
    environment_kwargs: str = "{}",
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Train a behavior policy to collect with: Stable-Baselines3's SAC on states; then measure its success.

    Args:
        env: short name (reacher) or Gymnasium id.
        output: .zip to be written.
        steps: environment steps in all.
        seed: of weights, exploration and episodes.
        evaluation_episodes: how many with the mean action, and as many with the noise that it collects with.
        environment_kwargs: arguments of the environment, as a JSON object: '{"terminate_on_success": false}'.
        resume: continue from the last checkpoint, which is unpickled.
        overwrite: replace OUTPUT; without --resume, discard the checkpoint.
    """
    from lewm_agent import environment
    from lewm_agent.agents.behavior.train_policy import count_successes, train_sac
    from lewm_agent.evaluation.intervals import wilson
    from lewm_agent.presets import preset

    if evaluation_episodes < 1:
        raise ValueError(f"evaluation_episodes must be at least 1, got {evaluation_episodes}")
    world = environment.from_text(env, preset("small").model.image_size, environment_kwargs)
    model = train_sac(world, output, steps, seed=seed, resume=resume, overwrite=overwrite)
    for kind, successes in count_successes(model, world, evaluation_episodes, seed=seed).items():
        low, high = wilson(successes, evaluation_episodes)
        share = f"{100 * successes / evaluation_episodes:.1f} % [{low:.1f}, {high:.1f}]"
        command.say(f"{kind}: goal reached in {successes} of {evaluation_episodes} episodes, {share}")
    command.say(f"saved in {output}")


def learn_online(
    env: Annotated[str, tyro.conf.arg(metavar="ENV")],
    /,
    output: Path,
    steps: int = 100_000,
    agent: str = "tdmpc2",
    preset_name: Annotated[str, tyro.conf.arg(name="preset")] = "small",
    frozen: str | None = None,
    seed: int = 0,
    device: str = "auto",
    environment_kwargs: str = "{}",
    checkpoint_every: int = 5000,
    resume: bool = False,
) -> None:
    """Train an agent in an environment, from its rewards and pictures of its goals; save it in OUTPUT/model.

    Args:
        env: short name (reacher) or Gymnasium id.
        output: gets training/ (metrics, what was seen, checkpoints) and model/.
        steps: environment steps in all.
        agent: tdmpc2.
        preset_name: whose frame size it takes over; paper has the released sizes, the others small ones.
        frozen: trained world model whose encoder is taken over and not trained.
        seed: of weights, episodes and exploration.
        device: auto, cpu, cuda or mps.
        environment_kwargs: arguments of the environment, as a JSON object: '{"terminate_on_success": false}'.
        checkpoint_every: environment steps between checkpoints, at least.
        resume: continue from the last checkpoint.
    """
    from lewm_agent.agents.registry import make_online
    from lewm_agent.training.run_folder import OutputFolder

    folder = OutputFolder(output)
    made = make_online(agent, env, preset_name, environment_kwargs, frozen=frozen, device=device, seed=seed)
    made.learn_online(folder.training, steps, resume=resume, checkpoint_every=checkpoint_every)
    command.say(f"saved in {made.save_pretrained(folder.model)}")


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


def info(place: Annotated[str, tyro.conf.arg(metavar="PLACE")], /) -> None:
    """Tell what a dataset, a checkpoint or a training run is, and whether it is whole.

    Args:
        place: path, name of a bundled model, or Hub id.
    """
    from lewm_agent import inspection

    table = Table(show_header=False, box=None)
    for name, value in inspection.describe(place).items():
        table.add_row(Text(name, "bold"), value)
    command.console().print(table)


def convert(
    source: Annotated[str, tyro.conf.arg(metavar="SOURCE")],
    output: Annotated[str, tyro.conf.arg(metavar="OUTPUT")],
    /,
    to: Literal["lewm-agent", "released", "minari"] = "lewm-agent",
    env: str | None = None,
    dataset: Path | None = None,
    frames: str | None = None,
    image_size: int | None = None,
    overwrite: bool = False,
) -> None:
    """Turn foreign datasets and checkpoints into ours, and ours into theirs. An interrupted conversion continues.

    Args:
        source: dataset of stable-worldmodel (Lance, HDF5, pictures, videos), LeRobot v3 or Minari (its id), folder of
            videos, or checkpoint: a folder, a file or a Hub id.
        output: folder; with --to minari, the new dataset's id.
        to: lewm-agent; released, the layout of the released models of checkpoints; or minari.
        env: environment that the data or the checkpoint belong to: short name or Gymnasium id.
        dataset: whose actions' statistics a released checkpoint is given.
        frames: column with the frames, where there are several.
        image_size: side of the square that frames are resized to.
        overwrite: discard what the folder holds.
    """
    from lewm_agent import inspection
    from lewm_agent.agent import LeWMAgent
    from lewm_agent.datasets import OfflineDataset, conversion
    from lewm_agent.datasets.formats import open_source
    from lewm_agent.datasets.formats.minari import export
    from lewm_agent.envs import environment_id

    if to == "minari":
        export(OfflineDataset(source), output)
    elif inspection.is_checkpoint(source):
        agent = LeWMAgent.from_pretrained(source, env=env, dataset=dataset, device="cpu")
        agent.save_released(output) if to == "released" else agent.save_pretrained(output)
    elif to == "released":
        raise ValueError(f"--to released converts checkpoints, and {source} is none")
    else:
        name = "unknown" if env is None else environment_id(env)
        opened = open_source(source, frames)
        conversion.convert(opened, output, environment_id=name, image_size=image_size, overwrite=overwrite)
    command.say(f"written to {output}")


def envs() -> None:
    """List the environments."""
    from lewm_agent import environment
    from lewm_agent.checkpoints import hub
    from lewm_agent.envs import ENVIRONMENTS

    table = Table("name", "Gymnasium id", "what it is", "action", "bundled model")
    for name, gymnasium_id in ENVIRONMENTS.items():
        env = environment.make(name, 64)
        low, high = environment.action_bounds(env.action_space)
        bounds = f"{len(low)} numbers in [{min(low):g}, {max(high):g}]"
        summary = (type(env.unwrapped).__doc__ or "").splitlines()[0]
        table.add_row(name, gymnasium_id, summary, bounds, "yes" if name in hub.bundled() else "no")
        env.close()
    command.console().print(table)


@dataclass(frozen=True)
class Elsewhere:
    """A command that needs torch: the ``main`` of a module, imported when it runs, and what help says of it.

    Attributes:
        module: that has it.
        summary: what it does.
        options: name of its dataclass in ``lewm_agent.eval.options``, tried first; empty where they need torch as well.
    """

    module: str
    summary: str
    options: str = ""

    def run(self, name: str, arguments: list[str]) -> int:
        """Run it; returns the exit code."""
        if self.options:
            options = getattr(importlib.import_module("lewm_agent.eval.options"), self.options)
            tyro.cli(options, args=arguments, description=options.__doc__, prog=f"lewm {name}")
        run: Callable[..., int] = importlib.import_module(self.module).main
        return run(arguments, prog=f"lewm {name}")

    def mention(self) -> Callable[..., None]:
        """What stands in the list of commands."""

        def command_of_a_module() -> None: ...

        command_of_a_module.__doc__ = self.summary
        return command_of_a_module


COMMANDS: dict[str, Callable[..., None] | Elsewhere] = {
    "collect": collect,
    "learn": Elsewhere("lewm_agent.learn_command", "Train an agent on a dataset and save it in OUTPUT/model."),
    "improve": Elsewhere(
        "lewm_agent.improve_command", "Try to reach goals, learn from it, and so on; keep the best round's model."
    ),
    "eval": Elsewhere(
        "lewm_agent.eval.success_rate", "Measure success on held-out pairs of start and goal.", "Evaluation"
    ),
    "report": Elsewhere("lewm_agent.eval.report", "Make one HTML page from results of lewm eval.", "Report"),
    "watch": Elsewhere(
        "lewm_agent.eval.watch", "Watch an agent plan towards goals that you choose with the mouse.", "Watching"
    ),
    "diagnose": Elsewhere(
        "lewm_agent.eval.diagnose", "Tell whether a model is good enough, why not, and what to do.", "Diagnosis"
    ),
    "probe": Elsewhere("lewm_agent.eval.probing", "Read positions and angles from latents.", "Probing"),
    "surprise": Elsewhere(
        "lewm_agent.eval.surprise", "See whether a model is surprised by what cannot happen.", "Surprise"
    ),
    "ablate": Elsewhere(
        "lewm_agent.eval.ablation", "Train and measure an agent for each value of a setting.", "Ablation"
    ),
    "adapt": adapt,
    "learn-online": learn_online,
    "goal-states": goal_states,
    "far-goals": far_goals,
    "info": info,
    "convert": convert,
    "envs": envs,
    "reproduce": reproduce,
    "train-policy": train_policy,
}
CONTINUES = "the same command continues (train-policy, learn-online: with --resume)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lewm``; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    elsewhere = COMMANDS.get(given[0]) if given else None
    if isinstance(elsewhere, Elsewhere):
        return command.run(lambda _: elsewhere.run(given[0], given[1:]), given)
    return command.run(_dispatch, given, continues=CONTINUES)


def _dispatch(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        command.say(f"lewm-agent {__version__}")
        return
    if arguments and not arguments[0].startswith("-"):
        named(arguments[0], COMMANDS, "command")
    told = "Learn latent world models and act with them. --version names the version; --debug shows where errors arise."
    listed = {name: one.mention() if isinstance(one, Elsewhere) else one for name, one in COMMANDS.items()}
    tyro.extras.subcommand_cli_from_dict(listed, prog="lewm", description=told, args=arguments or ["--help"])


if __name__ == "__main__":
    sys.exit(main())
