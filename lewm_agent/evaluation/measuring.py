"""How often an agent reaches the goals of a suite: the result, its floors, its videos."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lewm_agent.acting_agent import ActingAgent
from lewm_agent.environment import Environment
from lewm_agent.evaluation.intervals import rate
from lewm_agent.evaluation.journal import Journal
from lewm_agent.evaluation.playing import Player, Trace, play_floor, play_in_processes
from lewm_agent.evaluation.provenance import provenance
from lewm_agent.evaluation.rollouts import Draws, Thoughts, nearest_seen, rollout, thoughts_on, with_plans
from lewm_agent.evaluation.suite import Record, Suite
from lewm_agent.evaluation.trials import Trial
from lewm_agent.evaluation.videos import film, write_gif
from lewm_agent.models.world_model import WorldModel
from lewm_agent.planning.episodes import Frames
from lewm_agent.tools.progress import ProgressShown
from lewm_agent.tools.replacing import write_json

UNFINISHED = ".unfinished"
"""Ending of the file in which an unfinished evaluation keeps what it has."""

AnyAgent = ActingAgent[Any, Any]


@dataclass(frozen=True)
class Measuring:
    """Measures one agent on one suite.

    Attributes:
        suite: what is played.
        agent: who plays.
        name: by which the agent was asked for.
        planner_seed: of the planner's noise.
        num_envs: environments planned for together; the result does not depend on it.
        workers: processes that play; the result does not depend on it either.
        load: gets the agent in another process; picklable. None: there are no other processes.
        output: of the JSON; what has been played is kept beside it until :meth:`finish`. None keeps nothing.
        progress: show it.
    """

    suite: Suite
    agent: AnyAgent
    name: str
    planner_seed: int = 0
    num_envs: int = 1
    workers: int = 1
    load: Callable[[], AnyAgent] | None = None
    output: Path | None = None
    progress: bool = True

    def run(self) -> tuple[dict[str, Any], list[Trace]]:
        """The result, ready for JSON (docs/reference/results-schema.md), and what happened on every trial."""
        numbers = range(len(self.suite.trials))
        with self.journal() as journal:
            self._play(journal, numbers, self.progress)
            self._play_floors(journal, numbers, self.progress)
        traces = [journal.finished[number] for number in numbers]
        return self._result(traces, self._floors(journal)), traces

    def play(self, numbers: Sequence[int]) -> None:
        """Play only the trials of these numbers, for whoever takes up the journal."""
        with self.journal() as journal:
            self._play(journal, numbers, shown=False)
            self._play_floors(journal, numbers, shown=False)

    def missing(self, journal: Journal) -> list[int]:
        """Numbers of the trials that the agent or one of the floors has not played."""
        floors, numbers = self.suite.floors(self._env), range(len(self.suite.trials))
        whole = set(journal.finished).intersection(*({n for n in numbers if (f, n) in journal.solved} for f in floors))
        return [number for number in numbers if number not in whole]

    def write(self, result: dict[str, Any]) -> None:
        """Write the result, all or nothing, where an output was asked for."""
        if self.output is not None:
            write_json(self.output, result)

    def finish(self) -> None:
        """Remove what was kept for the case of an interruption."""
        if self.output is not None:
            journal_of(self.output).unlink()

    def player(self) -> Player:
        """Plays as this measurement does."""
        suite = self.suite
        return Player(
            suite.make,
            self.agent,
            suite.success,
            self.planner_seed,
            suite.budget,
            goal_state=suite.goal_state,
            _environments=[self._env],
        )

    @functools.cached_property
    def _env(self) -> Environment:
        """For whatever is played one after the other: OGBench takes seconds to make one."""
        return self.suite.make()

    def draw_videos(
        self,
        result: dict[str, Any],
        traces: Sequence[Trace],
        folder: Path,
        count: int,
        decoder: Draws | None = None,
    ) -> int:
        """GIFs and rollouts of the nearest failures and of solved trials; returns of how many.

        Args:
            result: takes their paths.
            traces: of all trials.
            folder: for both.
            count: of how many trials.
            decoder: draws what plans expect, also into the GIFs; without one rollouts have the nearest frames seen.
        """
        trials, records, player = self.suite.trials, result["records"], self.player()
        start = self.output.parent if self.output else Path()
        thoughts, kept, seen = [], [], []
        for number in (shown := _shown(records, count)):
            record, trace = records[number], traces[number]
            shot = film(self._env, trials[number], trace)
            thoughts.append(thoughts_on(player, number, trials[number], trace))
            kept.append(rollout(shot, thoughts[-1], record, trace.distances))
            seen.append(shot.resized(self.agent.config.model.image_size))
            path = folder / f"pair-{number:03d}-{'solved' if record['success'] else 'failed'}"
            expected = [] if decoder is None else _expected(thoughts[-1], decoder, len(shot.frames))
            write_gif(path.with_suffix(".gif"), shot, record["first_success_step"], expected)
            record["video"] = os.path.relpath(path.with_suffix(".gif"), start)
            record["rollout"] = os.path.relpath(path.with_suffix(".json"), start)
        draws: Draws | None = decoder
        if decoder is None and shown and isinstance(self.agent.model, WorldModel):
            draws = nearest_seen(self.agent.model, self._env, trials, seen)
        for number, one, thought in zip(shown, kept, thoughts, strict=True):
            write_json(start / records[number]["rollout"], with_plans(one, thought, draws).to_dict())
        return len(shown)

    def journal(self) -> Journal:
        """What an interrupted run with the same outcome has played, and where this one keeps what it plays."""
        suite = self.suite
        request = {
            "pairs_sha256": suite.sha256,
            "seed": suite.seed,
            "protocol": suite.protocol,
            "success": str(suite.success),
            "budget": suite.budget,
            "weights_sha256": self.agent.weights_sha256(),
            "planner": self.agent.planner_settings,
            "planner_seed": self.planner_seed,
            "goal_state": suite.goal_state,
        }
        return Journal(journal_of(self.output) if self.output else None, request)

    def _play(self, journal: Journal, numbers: Sequence[int], shown: bool) -> None:
        """Have the journal hold the traces of trials; what it has is not played again."""
        trials = self.suite.trials
        missing = [number for number in numbers if number not in journal.finished]
        done = len(numbers) - len(missing)
        rows = [missing[first : first + self.num_envs] for first in range(0, len(missing), self.num_envs)]
        batches = [(numbers, [trials[number] for number in numbers]) for numbers in rows]
        played: Iterator[tuple[int, Trace]]
        if self.workers == 1 or self.load is None:
            player = self.player()
            played = (item for batch in batches for item in zip(batch[0], player.play(*batch), strict=True))
        else:
            suite = self.suite
            make_player = functools.partial(
                _make_player, self.load, suite.make, suite.success, self.planner_seed, suite.budget, suite.goal_state
            )
            played = play_in_processes(make_player, batches, self.workers)
        with ProgressShown("episodes", len(numbers), start=done, shown=shown) as progress:
            for more, (number, trace) in enumerate(played, start=1):
                journal.add(number, trace)
                progress.update(done + more)

    def _play_floors(self, journal: Journal, numbers: Sequence[int], shown: bool) -> None:
        """Have the journal hold whether floors and ceilings solve trials; what it has is not played again."""
        suite, env = self.suite, self._env
        controllers = suite.floors(env)
        missing = {name: [n for n in numbers if (name, n) not in journal.solved] for name in controllers}
        total = len(controllers) * len(numbers)
        done = total - sum(map(len, missing.values()))
        with ProgressShown("floors", total, start=done, shown=shown) as progress:
            for name, floor in controllers.items():
                for number, trace in zip(missing[name], play_floor(suite, env, floor, missing[name]), strict=True):
                    solved = trace.solved(suite.success, suite.trials[number])[1:]
                    journal.add_floor(name, number, bool(solved.any()))
                    done += 1
                    progress.update(done)

    def _floors(self, journal: Journal) -> dict[str, Any]:
        """Success of every floor and ceiling on all trials."""
        names, count = self.suite.floors(self._env), len(self.suite.trials)
        return {name: rate(sum(journal.solved[name, number] for number in range(count)), count) for name in names}

    def _result(self, traces: list[Trace], floors: dict[str, Any]) -> dict[str, Any]:
        suite = self.suite
        records = [_record(trial, trace, suite) for trial, trace in zip(suite.trials, traces, strict=True)]
        count = len(records)
        plans, steps = sum(t.plans for t in traces), sum(len(t.actions) for t in traces)
        return {
            "env": suite.environment,
            "protocol": suite.protocol,
            "success": str(suite.success),
            **self._aims(),
            "budget": suite.budget,
            "planner_seed": self.planner_seed,
            **rate(sum(record["success"] for record in records), count),
            "success_at_end": round(100 * sum(record["success_at_end"] for record in records) / count, 2),
            "start_solved_percent": round(100 * sum(record["start_solved"] for record in records) / count, 2),
            "starts": _by_kind(suite, records),
            "floors": floors,
            "seconds_per_plan": sum(t.planning_seconds for t in traces) / max(1, plans),
            "seconds_per_decision": sum(t.seconds for t in traces) / steps,
            "workers": self.workers,
            **provenance(self.agent, self.name),
            "episodes": count,
            "seed": suite.seed,
            "pairs_sha256": suite.sha256,
            **suite.more,
            "records": records,
        }

    def _aims(self) -> dict[str, Any]:
        """What the result says of goals in numbers, if the agent is told such."""
        head = self.agent.model.goal_states
        if not self.suite.goal_state or head is None:
            return {}
        return {"goal_state": {"columns": head.sizes, "error": round(float(head.error), 5)}}


def _make_player(load: Callable[[], AnyAgent], *rest: Any) -> Player:
    make, success, seed, budget, goal_state = rest
    return Player(make, load(), success, seed, budget, goal_state=goal_state)


def journal_of(output: Path) -> Path:
    """Where the measurement for an output keeps what it has played."""
    return output.with_name(output.name + UNFINISHED)


def _record(trial: Trial, trace: Trace, suite: Suite) -> Record:
    holds = trace.solved(suite.success, trial)
    first = int(np.argmax(holds[1:])) + 1 if holds[1:].any() else None
    told = [distance for distance in trace.distances[1:] if distance is not None]
    last = trace.distances[-1]
    return {
        **trial.about,
        "start_solved": bool(holds[0]),
        "success": first is not None,
        "success_at_end": bool(holds[-1]),
        "first_success_step": first,
        "final_distance": None if last is None else round(last, 4),
        "least_distance": round(min(told), 4) if told else None,
        "latent_distances": [round(distance, 4) for distance in trace.latent_distances],
        "video": None,
        "rollout": None,
    }


def _expected(thoughts: Thoughts, decoder: Draws, count: int) -> list[Frames]:
    """For each of so many steps the frame that the plan in force then leads to; none without plans."""
    ends = {step: decoder(latents[-1:])[0] for step, latents in thoughts.plans}
    return [ends[max(made for made in ends if made <= step)] for step in range(count)] if ends else []


def _by_kind(suite: Suite, records: list[Record]) -> dict[str, Any]:
    """Success on every kind of trial that is reported apart and occurs."""
    outcomes = {
        name: [record["success"] for record in records if belongs(record)] for name, belongs in suite.kinds.items()
    }
    return {name: {"pairs": len(o), **rate(sum(o), len(o))} for name, o in outcomes.items() if o}


def _shown(records: list[Record], count: int) -> list[int]:
    """Numbers of so many trials: half of them the nearest failures, then solved ones."""

    def nearness(number: int) -> float:
        distance = records[number]["least_distance"]
        return float("inf") if distance is None else float(distance)

    failed = sorted((number for number, record in enumerate(records) if not record["success"]), key=nearness)
    solved = [number for number, record in enumerate(records) if record["success"]]
    few = failed[: max(count // 2, count - len(solved))]
    return [*few, *solved[: count - len(few)]]
