"""The command ``lewm``: the agent's long operations from a shell.

What a subcommand needs beyond its options is imported when it runs, so that ``lewm --help`` answers at once, and so
that the processes of a collection, which import this module again, load no torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tyro

from lewm_agent import __version__
from lewm_agent.commands.collect import collect
from lewm_agent.commands.files import convert, envs, info
from lewm_agent.commands.fitting import adapt, far_goals, goal_states
from lewm_agent.commands.making import learn_online, reproduce, train_policy
from lewm_agent.tools import command
from lewm_agent.tools.checks import named


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
    "learn": Elsewhere("lewm_agent.commands.learn", "Train an agent on a dataset and save it in OUTPUT/model."),
    "improve": Elsewhere(
        "lewm_agent.commands.improve", "Try to reach goals, learn from it, and so on; keep the best round's model."
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
