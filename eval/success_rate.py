"""How often does an agent reach goal images it has never seen?

python eval/success_rate.py --env two_room --episodes 200 --protocol strict --output out.json
python eval/success_rate.py --env my_module:My-v0 --model runs/mine/model --goals data/mine --success state:0.05
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table

from lewm_agent import LeWMAgent
from lewm_agent.agents.registry import Agent, agent_classes, load_agent
from lewm_agent.checkpoints.model_card import agent_title
from lewm_agent.eval import command
from lewm_agent.eval.command import bundled, check_world
from lewm_agent.eval.options import Evaluation as Options
from lewm_agent.eval.pairs import PairList, draw, load, recorded_in, shipped
from lewm_agent.eval.playing.suites import any_suite, check_has_record
from lewm_agent.eval.watching.frame_decoder import FrameDecoder
from lewm_agent.eval.worlds import world_of
from lewm_agent.eval.worlds.protocols import at_offset, in_looks
from lewm_agent.evaluation import jobs
from lewm_agent.evaluation.measuring import Measuring
from lewm_agent.evaluation.suite import Suite
from lewm_agent.planning.decider import NO_GOAL_STATES
from lewm_agent.tools.checks import named
from lewm_agent.tools.cluster import Cluster
from lewm_agent.tools.command import console, say
from lewm_agent.tools.outputs import reserved

VIDEOS = "pairs.gif"
"""Never written: it stands for all GIFs when their folder is tried and held."""
CONTINUES = "with --output, the same command continues with what FILE.unfinished holds"


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, writes=("output",), prog=prog, continues=CONTINUES)


def _work(options: Options) -> None:
    """Measure, show and write. The numbers are written before any video is drawn: they do not depend on one."""
    command.at_least(options, num_envs=1, workers=1, planner_seed=0, videos=0)
    cluster = Cluster.from_text(options.cluster, options.jobs, options.cluster_options)
    if cluster is not None:
        jobs.check(cluster, options.episodes, options.output)
    with reserved(options.video and options.video / VIDEOS):
        agent = _agent(options)
        decoder = _decoder(options, agent)
        suite = _world_suite(options, agent) if options.goals is None else _any_suite(options, agent)
        load = functools.partial(_agent, options)
        name = options.model or options.env
        if options.goal_state and agent.model.goal_states is None:
            raise ValueError(NO_GOAL_STATES)
        suite = dataclasses.replace(suite, goal_state=options.goal_state)
        run = Measuring(
            suite, agent, name, options.planner_seed, options.num_envs, options.workers, load, options.output
        )
        if cluster is not None:
            jobs.play(run, cluster)
        result, traces = run.run()
        console().print(summary(result))
        run.write(result)
        if options.output is not None:
            say(f"written to {options.output}")
        if options.video is not None:
            draws = decoder and decoder.drawn
            say(f"{run.draw_videos(result, traces, options.video, options.videos, draws)} videos in {options.video}")
            run.write(result)  # now with their names
        run.finish()


def _any_suite(options: Options, agent: Agent) -> Suite:
    """Starts and goals of any environment, made as the agent knows it."""
    if options.protocol is not None or options.pairs is not None:
        raise ValueError("--protocol and --pairs choose among this package's own lists; leave them out with --goals")
    return any_suite(
        agent,
        options.env,
        str(options.goals),
        success=options.success,
        episodes=options.episodes,
        offset=options.offset,
        budget=options.budget,
        seed=options.seed or 0,
        goal_state=options.goal_state,
    )


def _world_suite(options: Options, agent: Agent) -> Suite:
    """Pairs of one of this package's worlds and the rules of a protocol, in the environment the agent knows."""
    check_has_record(options.env)
    if options.success is not None or options.budget is not None:
        raise ValueError("the protocol says what success and the budget are; --success and --budget go with --goals")
    world, trained_in = world_of(options.env), agent.description.environment_kwargs
    check_world(agent, world.environment)
    with console(stderr=True).status("drawing pairs"):
        return _pairs(options, world.environment, trained_in).suite(trained_in)


def _agent(options: Options) -> Agent:
    name = options.model or bundled(options.env)
    agent = load_agent(name, planner=options.planner, device=options.device)
    if options.agent is not None:
        named(options.agent, agent_classes(), "agent")
        if agent.kind != options.agent:
            raise ValueError(f"`{name}` is a `{agent.kind}` agent, not a `{options.agent}` one; give it with --model")
    return agent


def _decoder(options: Options, agent: Agent) -> FrameDecoder | None:
    if options.decoder is None:
        return None
    if options.video is None:
        raise ValueError("--decoder draws what the agent expects into GIFs; give a folder for them with --video")
    if not isinstance(agent, LeWMAgent):
        raise ValueError(f"--decoder needs an agent that imagines in LeWM's latents; this one is `{agent.kind}`")
    return FrameDecoder.load(options.decoder, agent.world_model)


def _pairs(options: Options, world: str, trained_in: dict[str, Any]) -> PairList:
    """The list asked for: from a file, drawn anew, or the shipped one."""
    if options.pairs is not None and options.seed is not None:
        raise ValueError("give a list of pairs (--pairs) or a seed to draw others (--seed), not both")
    protocol = in_looks(at_offset(options.protocol or "paper", options.offset), options.looks)
    if options.seed is not None:
        return draw(world, protocol, options.episodes, options.seed, recorded_in(trained_in))
    pairs = load(options.pairs) if options.pairs else shipped(world, protocol)
    pairs.check_fits(world, protocol, trained_in)
    return pairs.first(options.episodes)


def summary(result: dict[str, Any]) -> Group:
    """The result for a terminal."""
    numbers = ", goals in numbers" if "goal_state" in result else ""
    title = (
        f"{result['env']}, protocol {result['protocol']}, {result['episodes']} pairs, seed {result['seed']}{numbers}"
    )
    table = Table("policy", "success %", "95 % interval")
    starts = {f"- {name} ({row['pairs']})": row for name, row in result["starts"].items()}
    rows = {f"{agent_title(result['agent'])} agent": result, **starts, **result["floors"]}
    for name, row in rows.items():
        low, high = row["success_rate_ci95"]
        table.add_row(name.replace("_", " "), f"{row['success_rate']:.1f}", f"{low:.1f} to {high:.1f}")
    notes = (
        f"success: {result['success']}; still solved at the end: {result['success_at_end']:.1f} %; solved at the "
        f"start: {result['start_solved_percent']:.1f} %; {1000 * result['seconds_per_plan']:.0f} ms per plan, "
        f"{1000 * result['seconds_per_decision']:.1f} ms per decision"
    )
    return Group(title, table, notes)


if __name__ == "__main__":
    sys.exit(main())
