"""Commands that make a trained agent, or a behavior policy, without a dataset that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from lewm_agent.tools import command


def reproduce(
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")],
    /,
    output: Path | None = None,
    seed: int = 0,
    num_envs: int = 1,
    device: str = "auto",
) -> None:
    """Make a bundled model again from nothing: collect, learn, and teach other looks. An interrupted run continues.

    Args:
        model: its name (two_room).
        output: gets data/, training/, looks/ and model/; runs/MODEL by default.
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
    """Train an agent in an environment, from its rewards or its success, to reach goals; save it in OUTPUT/model.

    Args:
        env: short name (reacher) or Gymnasium id.
        output: gets training/ (metrics, what was seen, checkpoints) and model/.
        steps: environment steps in all; the first 1,000 are random, and the first five episodes of those that learn
            from rewards.
        agent: tdmpc2, dreamer or sac_her_pixels, which see frames and goal images; or sac_her, which is told both in
            numbers.
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
