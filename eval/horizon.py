"""How far does an agent get? Success against the steps from start to goal, and what an oracle's subgoals would bring.

python eval/horizon.py --env two_room cube --episodes 100 --output horizon.json
python eval/horizon.py --env cube --offsets 50 100 --oracle expert recorded --ahead 5 10 15 --output horizon.json

With ``--oracle`` the agent is also handed the picture of a real state some steps on in place of its goal, and the next
one when that is reached or overdue: of the recorded episode, at its pace, or of the world's expert, which goes on from
the present state. What then fails, no subgoals cure.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from lewm_agent.agents.registry import Agent, load_agent
from lewm_agent.environment import Environment
from lewm_agent.eval import command
from lewm_agent.eval.pairs import PairList, load, shipped
from lewm_agent.eval.playing.solving import Played, play_pair
from lewm_agent.eval.playing.subgoals import ExpertWay, Guide, RecordedWay, Way
from lewm_agent.eval.reporting.horizon_picture import draw, place
from lewm_agent.eval.worlds import world_of
from lewm_agent.eval.worlds.held_out import Recording
from lewm_agent.eval.worlds.protocols import OFFSETS, Protocol, States, at_offset
from lewm_agent.eval.worlds.world import World, make_environment
from lewm_agent.evaluation.intervals import rate
from lewm_agent.evaluation.playing import pair_seed, play_floor
from lewm_agent.evaluation.provenance import provenance
from lewm_agent.evaluation.suite import Floor, Suite
from lewm_agent.evaluation.trials import Trial
from lewm_agent.tools import strict_json
from lewm_agent.tools.command import console, say
from lewm_agent.tools.outputs import reserved
from lewm_agent.tools.progress import ProgressShown
from lewm_agent.tools.replacing import write_json

Oracle = Literal["recorded", "expert"]
FloorName = Literal["random", "zero_action", "straight_line", "replay", "expert"]
Line = dict[str, Any]
"""All that the outcomes of one line of the picture at one distance depend on, beside the pairs."""
Point = dict[str, Any]
"""The same with outcomes, ready for JSON."""
Play = Callable[[int], Played]
"""Plays a pair by its number."""
OWN = "own planner"
"""Line of an agent as it was saved."""


@dataclass(frozen=True)
class Options:
    """Success against the steps from start to goal, with floors, and with an oracle's subgoals."""

    env: tuple[str, ...] = ("two_room", "reacher", "push_t", "cube")
    """Worlds, each with its bundled model."""
    model: str | None = None
    """Folder or Hub id of another agent, with a single --env."""
    planners: tuple[str, ...] = ()
    """Planner presets, a line each; by default the model's own."""
    offsets: tuple[int, ...] = OFFSETS
    """Environment steps from start to goal, of protocol moderate; the agent has twice as many."""
    far: bool = False
    """Also protocol far, whose goals are of other episodes."""
    floors: tuple[FloorName, ...] = ("random",)
    """What plays beside the agents: random, zero_action, straight_line (Two-Room), replay (not in far), expert."""
    oracle: tuple[Oracle, ...] = ()
    """Also with subgoals: of the recorded episode (not in far), or of the expert from where the agent is."""
    ahead: tuple[int, ...] = (5, 10, 15)
    """With --oracle: environment steps on the known way from one subgoal to the next, a line each."""
    episodes: int = 50
    """Pairs of each list."""
    pairs: Path | None = None
    """Folder with lists of other pairs, made by eval/pairs.py and called like the shipped ones: cube-moderate-75."""
    planner_seed: int = 0
    """Of the planner's noise."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    output: Path = Path("horizon.json")
    """JSON, and a picture of the same name, of all that it holds. What it already holds is not played again."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command.run(Options, _work, arguments, continues="the same command continues")


def _work(options: Options) -> None:
    command.at_least(options, episodes=1, planner_seed=0)
    if any(ahead < 1 for ahead in options.ahead):
        raise ValueError(f"--ahead must be at least 1 step, got {options.ahead}")
    if options.model is not None and len(options.env) != 1:
        raise ValueError("--model is of one world: name it with --env")
    picture = options.output.with_suffix(".png")
    with reserved(options.output, picture):
        book = Book(options.output)
        for field in fields_of(options):
            for line, play in field.lines(options):
                book.play(line, field.pairs, options.episodes, play)
        draw(book.points, picture)
    console().print(table(book.points))
    say(f"written to {options.output} and {picture}")


class Book:
    """The points of an output, which is written after every pair.

    Args:
        output: its path.

    Raises:
        ValueError: there is something else.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self.points: list[Point] = strict_json.read(output) if output.exists() else []
        if not isinstance(self.points, list) or not all(_is_point(point) for point in self.points):
            raise ValueError(f"{output} is not JSON of this command: give another --output")

    def play(self, line: Line, pairs: PairList, count: int, play: Play) -> None:
        """Have a point hold the outcomes of so many pairs; those that it has are not played again."""
        point = self._point(line, pairs)
        done, label = min(len(point["solved_at"]), count), f"{line['env']}, {line['protocol']}, {line['line']}"
        with ProgressShown(label, count, start=done) as progress:
            for number in range(done, count):
                self._add(point, play(number))
                point |= {**pairs.first(number + 1).origin(), **provenance()}
                write_json(self._output, self.points)
                progress.update(number + 1)

    def _point(self, line: Line, pairs: PairList) -> Point:
        """The point of a line and of the first of these pairs, or a new one."""
        for point in self.points:
            count = len(point["solved_at"])
            same = line.items() <= point.items() and count <= len(pairs.pairs)
            if same and pairs.first(count).sha256() == point["pairs_sha256"]:
                return point
        self.points.append({**line, "solved_at": [], "decisions": 0, "seconds": 0.0})
        return self.points[-1]

    def _add(self, point: Point, played: Played) -> None:
        point["solved_at"].append(played.solved_at)
        point["decisions"] += played.decisions
        point["seconds"] += played.seconds
        point |= rate(sum(step is not None for step in point["solved_at"]), len(point["solved_at"]))


def _is_point(value: Any) -> bool:
    return isinstance(value, dict) and {"line", "protocol", "solved_at", "pairs_sha256"} <= value.keys()


@dataclass(frozen=True)
class Field:
    """Pairs of one world at one distance, and what they are played with.

    Attributes:
        world: its record.
        agents: by the names of their lines, each trained in the same environment.
        pairs: of which the first are played.
        env: in which is acted.
        other_env: in which ways and subgoals are made.
    """

    world: World
    agents: dict[str, Agent]
    pairs: PairList
    env: Environment
    other_env: Environment

    @property
    def rules(self) -> Protocol:
        """Of the protocol."""
        return self.world.protocol(self.pairs.protocol)

    def lines(self, options: Options) -> Iterator[tuple[Line, Play]]:
        """Every line, and what plays its pairs."""
        suite = self.pairs.suite()
        controllers = suite.floors(self.env)
        for floor in options.floors:
            if floor in controllers:
                yield self._line(floor), functools.partial(_play_floor, suite, self.env, controllers[floor])
        for name, agent in self.agents.items():
            about = self._about(agent, options)
            yield self._line(name, **about), functools.partial(self._play, agent, options.planner_seed, None)
            for oracle, ahead in itertools.product(options.oracle, options.ahead):
                if oracle == "expert" or self.rules.far is None:
                    line = self._line(f"{name}, {oracle} {ahead} ahead", **about, oracle=oracle, ahead=ahead)
                    way = functools.partial(self._way, oracle, ahead)
                    yield line, functools.partial(self._play, agent, options.planner_seed, way)

    def _line(self, name: str, **more: Any) -> Line:
        offset = None if self.rules.far else self.rules.offset
        where = {"env": self.world.name, "protocol": self.pairs.protocol, "offset": offset, "budget": self.rules.budget}
        return {**where, "line": name, "agent": None, "oracle": None, **more}

    def _about(self, agent: Agent, options: Options) -> Line:
        model = {"name": options.model or self.world.name, "weights_sha256": agent.weights_sha256()}
        seed, device = options.planner_seed, agent.device.type
        planner = agent.planner_settings
        return {"agent": agent.kind, "model": model, "planner": planner, "planner_seed": seed, "device": device}

    def _play(self, agent: Agent, seed: int, way: Callable[[int], Way] | None, number: int) -> Played:
        pair = self.pairs.pairs[number]
        guide = None if way is None else Guide(agent, self.other_env, pair, way(number))
        return play_pair(agent, self.env, self.rules, pair, pair_seed(seed, number), guide)

    def _way(self, oracle: Oracle, ahead: int, number: int) -> Way:
        if oracle == "recorded":
            return RecordedWay(self._recorded(number), ahead)
        return ExpertWay(self.world, self.other_env, self.rules, self.pairs.pairs[number], ahead)

    def _recorded(self, number: int) -> States:
        """What the episode of a pair went through from start to goal, (offset + 1, S)."""
        if number not in self._known:
            pair = self.pairs.pairs[number]
            states = self._recording.episode(pair.episode)["state"]
            self._known[number] = states[pair.start : pair.start + self.rules.offset + 1]
        return self._known[number]

    @functools.cached_property
    def _known(self) -> dict[int, States]:
        """Recorded states by number of the pair: recording an episode takes seconds."""
        return {}

    @functools.cached_property
    def _recording(self) -> Recording:
        kwargs = {**self.pairs.environment_kwargs, **self.rules.recording}
        return Recording(self.world.environment, self.pairs.seed, kwargs)


def fields_of(options: Options) -> Iterator[Field]:
    """Every world at every distance. Raises ``ValueError`` for lists that do not fit, before anything is played."""
    protocols = [at_offset("moderate", offset) for offset in options.offsets] + ["far"] * options.far
    chosen = []
    for name in options.env:
        world, agents = world_of(name), _agents(options, name)
        trained_in = next(iter(agents.values())).description.environment_kwargs
        lists = [_pairs(options, world, protocol, trained_in) for protocol in protocols]
        chosen.append((world, agents, trained_in, lists))
    for world, agents, trained_in, lists in chosen:
        kwargs = {**trained_in, **world.moderate.environment_kwargs}
        env, other_env = (make_environment(world.environment, kwargs) for _ in range(2))
        yield from (Field(world, agents, pairs, env, other_env) for pairs in lists)


def _agents(options: Options, env: str) -> dict[str, Agent]:
    """One agent with every planner, by the names of their lines."""
    name = options.model or command.bundled(env)
    agents = {
        planner or OWN: load_agent(name, planner=planner, device=options.device)
        for planner in options.planners or [None]
    }
    for agent in agents.values():
        command.check_world(agent, world_of(env).environment)
    whose = "" if options.model is None else f"{Path(options.model).name}, "
    return {f"{whose}{planner}": agent for planner, agent in agents.items()}


def _pairs(options: Options, world: World, protocol: str, trained_in: dict[str, Any]) -> PairList:
    """As many pairs of a world at one distance as asked for, and the rest of the list."""
    folder = options.pairs
    pairs = shipped(world.name, protocol) if folder is None else load(folder / f"{world.name}-{protocol}.safetensors")
    pairs.check_fits(world.environment, protocol, trained_in)
    pairs.first(options.episodes)
    return pairs


def _play_floor(suite: Suite, env: Environment, floor: Floor, number: int) -> Played:
    """How a controller without a model does on a pair."""

    def solved(trial: Trial, states: States) -> bool:
        return bool(suite.success.holds(states, trial)[-1])

    (trace,) = play_floor(suite, env, floor, [number], solved)
    steps = len(trace.states) - 1
    return Played(steps if solved(suite.trials[number], np.stack(trace.states)) else None, steps, 0.0)


def table(points: list[Point]) -> Table:
    """Success for a terminal: a row for each line, a column for each distance."""
    protocols = sorted({point["protocol"] for point in points}, key=place)
    shown = Table("world", "line", *protocols, "ms per decision")
    for (env, line), group in _by_line(points).items():
        at = {point["protocol"]: point for point in group}
        cells = [_cell(at[name]) if name in at else "" for name in protocols]
        spent = 1000 * sum(point["seconds"] for point in group) / sum(point["decisions"] for point in group)
        shown.add_row(env, line, *cells, f"{spent:.0f}" if spent else "")
    return shown


def _by_line(points: list[Point]) -> dict[tuple[str, str], list[Point]]:
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point["env"], point["line"]), []).append(point)
    return groups


def _cell(point: Point) -> str:
    low, high = point["success_rate_ci95"]
    return f"{point['success_rate']:.0f} ({low:.0f} to {high:.0f}, n {len(point['solved_at'])})"


if __name__ == "__main__":
    sys.exit(main())
