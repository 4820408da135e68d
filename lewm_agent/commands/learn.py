"""The command ``lewm learn``, whose options are all settings of an agent.

What learns is imported when the command does: it takes seconds, and a mistyped option is told before.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import tyro

from lewm_agent.tools import command
from lewm_agent.tools.checks import named

if TYPE_CHECKING:
    from lewm_agent.agents.registry import AnyConfig


def learn(
    env: str,
    dataset: tyro.conf.UseAppendAction[tuple[Path, ...]],  # a list of values would take in the preset that follows
    output: Path,
    config: AnyConfig,
    agent: str | None = None,
    frozen: str | None = None,
    search: str | None = None,
    weights: tyro.conf.UseAppendAction[tuple[float, ...]] = (),
    labels: float = 1.0,
    labels_by: str = "inverse",
    seed: int = 0,
    device: str = "auto",
    environment_kwargs: str | None = None,
    resume: bool = False,
    devices: int | None = None,
    num_nodes: int | None = None,
) -> None:
    """Train an agent on a dataset and save it in OUTPUT/model.

    Args:
        env: short name (two_room) or Gymnasium id.
        dataset: folder of the dataset; given again, of a further one, whose clips are mixed in.
        output: gets training/ (logs, checkpoints) and model/.
        config: preset, with any of its settings changed.
        agent: by default what the preset is for; or with its sizes and training lewm, pldm, dino_wm, gcbc, gcivl or
            gciql, whose own settings are then the flags.
        frozen: encoder that is taken over and not trained, by policies and dino_wm: a trained world model, or for
            dino_wm a ViT of timm.
        search: by default the preset's; or cem, icem, mppi, gradient or mixture, whose own settings are then the flags.
        weights: share of the clips from each dataset, together 1, given as often; by default all clips count alike.
        labels: share of the training episodes that keep their actions; those of the others are told from their frames.
        labels_by: what tells them: inverse, a model of the episodes with actions, or latent, codes learned from all.
        seed: of weights, batch order, dropout and SIGReg.
        device: auto, cpu, cuda or mps.
        environment_kwargs: arguments of the environment, as a JSON object; by default those of the data.
        resume: continue from the last checkpoint; a finished run goes on when given more epochs and cycles.
        devices: GPUs, or processes on the CPU, of each machine; by default what torchrun or SLURM started, else one.
        num_nodes: machines; by default likewise.
    """
    from lewm_agent import environment
    from lewm_agent.agent import LeWMAgent
    from lewm_agent.agents.registry import make_agent
    from lewm_agent.config import AgentConfig
    from lewm_agent.datasets.mixed import opened, parts_of, weights_of
    from lewm_agent.training.run_folder import OutputFolder
    from lewm_agent.training.sharing.placement import is_first_started

    folder, side = OutputFolder(output), config.model.image_size
    world = None if environment_kwargs is None else environment.from_text(env, side, environment_kwargs)
    data = opened(dataset, weights or None)
    world = environment.of_data(env, parts_of(data)[0], side) if world is None else world
    name = agent or LeWMAgent.kind_of(cast(AgentConfig, config))  # without another agent, a preset's as it is
    made = make_agent(name, world, config, device=device, seed=seed)
    options: dict[str, Any] = {
        "weights": weights_of(data),
        "labels": labels,
        "labels_by": labels_by,
        "devices": devices,
        "num_nodes": num_nodes,
    }
    made.learn(data, folder.training, resume=resume, **options)
    if is_first_started():
        command.say(f"saved in {made.save_pretrained(folder.model)}")


def learner(agent: str | None, frozen: str | None, search: str | None) -> Callable[..., None]:
    """:func:`learn` as a command with one subcommand for each preset, whose every field for this agent is a flag.

    Raises:
        ValueError: there is no such agent or search, or it takes no frozen encoder, or does not plan.
    """
    presets = _fitting(agent, frozen, search)
    settings = tyro.extras.subcommand_type_from_defaults(presets, prefix_names=False)
    usual: Any = presets.get("small", next(iter(presets.values())))
    kind: Any = Annotated[settings, tyro.conf.arg(name="")]
    signature = _signature()
    parameters = [
        parameter.replace(annotation=kind, default=usual) if parameter.name == "config" else parameter
        for parameter in signature.parameters.values()
    ]

    def with_settings(**given: Any) -> None:
        learn(**given)

    with_settings.__doc__ = learn.__doc__
    vars(with_settings)["__signature__"] = signature.replace(parameters=parameters)
    with_settings.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_settings


def _fitting(agent: str | None, frozen: str | None, search: str | None) -> dict[str, AnyConfig]:
    """What the agent makes of each preset that it can be made from."""
    from lewm_agent.agent import LeWMAgent
    from lewm_agent.agents.registry import agent_config
    from lewm_agent.presets import PRESETS

    fitting: dict[str, AnyConfig] = {}
    refused: list[ValueError] = []
    for name, config in PRESETS.items():
        try:
            kind = agent or LeWMAgent.kind_of(config)
            fitting[name] = _searching(kind, agent_config(kind, config, frozen), search)
        except ValueError as error:
            refused.append(error)
    if not fitting:
        raise refused[0]
    return fitting


def _searching(agent: str, config: AnyConfig, search: str | None) -> AnyConfig:
    """The configuration of an agent with another search."""
    from lewm_agent.agents.rivals.dreamer import DreamerConfig
    from lewm_agent.agents.rivals.goal_policy import GoalPolicyConfig
    from lewm_agent.agents.rivals.sac_her import SACConfig
    from lewm_agent.agents.rivals.tdmpc2 import TDMPC2Config
    from lewm_agent.planning import Search

    if search is None:
        return config
    if isinstance(config, GoalPolicyConfig | SACConfig | DreamerConfig):
        raise ValueError(f"`{agent}` does not plan, so it takes no search")
    if isinstance(config, TDMPC2Config):
        raise ValueError("`tdmpc2` has a search of its own, so it takes no other")
    kind = named(search, Search.kinds(), "search")
    return dataclasses.replace(config, planner=dataclasses.replace(config.planner, search=kind()))


def _signature() -> inspect.Signature:
    """Of :func:`learn`, whose configuration may be any."""
    return inspect.signature(learn, eval_str=True, locals={"AnyConfig": Any})


def _check_options(given: Sequence[str]) -> None:
    """Raise ``ValueError`` for options without a dot that there are not, and for missing ones.

    Those with a dot are settings of an agent, which only what learns knows.
    """
    own = {f"--{name.replace('_', '-')}": one for name, one in _signature().parameters.items() if name != "config"}
    known = {*own, *(f"--no-{name[2:]}" for name in own), "--help"}
    names = [argument.partition("=")[0].replace("_", "-") for argument in given if argument.startswith("--")]
    for name in names:
        if "." not in name and name not in known:
            named(name, own, "option")
    missing = [name for name, one in own.items() if one.default is one.empty and name not in names]
    if missing and not {"-h", "--help"} & set(given):
        raise ValueError(f"lewm learn needs {', '.join(missing)}; --help tells of all options")


def _work(given: list[str], prog: str | None) -> None:
    _check_options(given)
    shaping = (_option(given, f"--{name}") for name in ("agent", "frozen", "search"))
    tyro.cli(learner(*shaping), args=given, prog=prog)


def _option(given: Sequence[str], name: str) -> str | None:
    """What follows an option, which decides what other options there are."""
    for argument, following in zip(given, [*given[1:], None], strict=True):
        if argument == name:
            return following
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns the exit code."""
    continues = "the same command with --resume continues"
    return command.run(lambda given: _work(given, prog), arguments, continues=continues)
