"""An agent that gets better by rounds of its own attempts."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm_agent.acting_agent import ConfigT, ModelT
from lewm_agent.attempts.playing import AttemptSettings
from lewm_agent.attempts.rounds import VALIDATION_SEED, RoundSettings, Row, improve
from lewm_agent.collecting_agent import SELF
from lewm_agent.datasets import OfflineDataset
from lewm_agent.datasets.mixed import UNNAMED, Given, opened, parts_of
from lewm_agent.evaluation.goals import TASK, RecordedGoals, goals_from
from lewm_agent.evaluation.measuring import Measuring
from lewm_agent.evaluation.success import Judge, Success, success_of
from lewm_agent.evaluation.suite import Suite
from lewm_agent.goal_agent import GoalAgent
from lewm_agent.tools.checks import require, whole_number
from lewm_agent.tools.settings import flat
from lewm_agent.training.record import TrainingRecord
from lewm_agent.training.run import LENGTH, check_fits
from lewm_agent.training.sharing.twins import take_over


class ImprovingAgent(GoalAgent[ConfigT, ModelT]):
    """An agent that tries and learns in rounds; arguments as for :class:`ActingAgent`."""

    def improve(
        self,
        data: Given | Sequence[Given],
        output: str | Path,
        *,
        rounds: int = 3,
        episodes: int = 300,
        goals: Any = TASK,
        success: str | Judge | Success | None = None,
        offset: int = 25,
        budget: int | None = None,
        noise: float = 0.1,
        epochs: float = 1.0,
        share: float = 0.5,
        pairs: int = 50,
        validation: Suite | None = None,
        num_envs: int = 1,
        seed: int | None = None,
        progress: bool = True,
        told: Callable[[Row], None] | None = None,
    ) -> dict[str, Any]:
        """Try to reach goals, learn from the data and all attempts so far, and so on; keep the best round's model.

        An agent that has learned nothing learns from the data first, as it is configured: that is round 0. One that has
        is round 0 as it is. Rounds go on from the model before them. An interrupted call, killed at whatever point,
        continues where it stopped, with the same attempts, batches and models; more rounds may then be asked for.

        Args:
            data: a dataset, its path, or several; part of every training.
            output: folder for ``round-0/``, ``round-1/``, ... with ``data/``, ``training/``, ``model/`` and
                ``validation.json`` each; for ``improve.json``, the table; ``curve.png``; and ``model/``, the best.
            rounds: of attempts and learning.
            episodes: attempts in each.
            goals: where starts and goals of attempts come from, as for :meth:`collect`.
            success: when one is reached, as for :meth:`evaluate`.
            offset: steps from start to goal, where a dataset has them.
            budget: steps of an attempt.
            noise: of attempts, as for :meth:`collect`.
            epochs: passes over all clips in each round, with a schedule of its own.
            share: of the clips that comes from the attempts of all rounds together; the rest is the data's.
            pairs: that the rounds are compared on, drawn from ``goals`` with other seeds or from held-out episodes.
            validation: other ones, such as those of a protocol; then ``pairs`` counts for nothing.
            num_envs: processes that make attempts; nothing depends on it.
            seed: of attempts and training; the agent's by default.
            progress: show progress.
            told: is given every row of the table as soon as it is known.

        Returns:
            What ``improve.json`` holds: ``rounds``, a row for each, and ``best_round``, whose model the agent then has.

        Raises:
            ValueError: arguments, data or goals that do not fit, or rounds of another request in the folder.
            BlockingIOError: another process works in the folder.
            Exception: as :meth:`collect`, :meth:`learn` and :meth:`evaluate`; the agent is then as it was, and what was
                done is kept.
        """
        seed = whole_number("seed", self.seed if seed is None else seed)
        settings = RoundSettings(rounds, episodes, epochs, share, noise, seed)
        dataset = opened(data)
        judged = None if success is None else success_of(success)
        attempts = AttemptSettings(goals_from(goals, offset), judged, budget, noise)
        whole_number("pairs", pairs, 1)
        work = _Rounds(self, attempts, settings, validation, pairs, num_envs, progress)
        self._check_data(dataset, budget)
        work.check()
        before = self.description, copy.deepcopy(self.model.state_dict())
        request = self._request(dataset, attempts, pairs, validation)
        try:
            return improve(work, dataset, Path(output), settings, request, self.has_learned, told or (lambda row: None))
        except BaseException:
            self.description = before[0]
            take_over(before[1], self.model)
            self._forget_controller()
            raise

    def _check_data(self, dataset: OfflineDataset, budget: int | None) -> None:
        """Raise ``ValueError`` unless data can be learned from together with this agent's attempts of so many steps."""
        check_fits(dataset, self.config.model)
        self.steps_per_epoch(dataset)
        known = parts_of(dataset)[0].metadata
        of, own = None if known is None else known.environment_id, self.description.environment
        require(
            of in (None, own, *UNNAMED) or own is None,
            f"{dataset.path} is of {of}, and the agent acts in {own}: give data of that, or an agent of this",
        )
        rows = self.make_clips(dataset, np.arange(dataset.num_episodes)).rows_per_clip
        require(
            budget is None or budget >= rows,
            f"attempts of {budget} steps are too short to learn from, as a clip has {rows} rows: give a larger budget",
        )

    def _request(
        self, dataset: OfflineDataset, attempts: AttemptSettings, pairs: int, validation: Suite | None
    ) -> dict[str, Any]:
        """All that the outcome of rounds depends on beside their settings."""
        told = attempts.told(self)
        identity = {name: value for name, value in flat(self.identity()) if name not in LENGTH}
        compared = {"pairs": pairs} if validation is None else {"pairs_sha256": validation.sha256}
        return {
            **identity,
            "begins_with": told["weights_sha256"] if self.has_learned else "nothing",
            "data": TrainingRecord.begun(dataset, 2, 0).data,
            "goals": told["goals"],
            "success": told["success"],
            "budget": told["budget"],
            **compared,
        }


@dataclasses.dataclass(frozen=True)
class _Rounds:
    """What rounds ask of an agent."""

    agent: ImprovingAgent[Any, Any]
    attempts: AttemptSettings
    settings: RoundSettings
    validation: Suite | None
    pairs: int
    num_envs: int
    progress: bool

    def check(self) -> None:
        """Raise ``ValueError`` if goals cannot be drawn, reached or judged, before anything is done."""
        if self.validation is None:
            self._suite(1)
        else:
            self.agent.suite(
                goals=self.attempts.goals, episodes=1, success=self.attempts.success, budget=self.attempts.budget
            )

    def attempt(self, path: Path, seed: int, frame_interval: int) -> OfflineDataset:
        """Gather attempts."""
        asked = self.attempts
        return self.agent.collect(
            path,
            SELF,
            self.settings.episodes,
            goals=asked.goals,
            success=asked.success,
            budget=asked.budget,
            noise=asked.noise,
            num_envs=self.num_envs,
            frame_interval=frame_interval,
            seed=seed,
            progress=self.progress,
        )

    def train(self, data: Sequence[Given], weights: Sequence[float] | None, epochs: float | None, output: Path) -> None:
        """Learn, with a schedule of as many epochs, or as configured."""
        if epochs is not None:
            schedule = {"epochs": epochs, "schedule_epochs": None, "schedule_cycles": 1}
            self.agent._change(training=dataclasses.replace(self.agent.config.training, **schedule))
        self.agent.learn(data, output, weights=weights, resume=True, seed=self.settings.seed, progress=self.progress)

    def load(self, model: Path) -> None:
        """Take over a model."""
        agent, saved = self.agent, self.agent.read_checkpoint(model)
        agent.load_weights(saved.weights, model)
        agent.description = dataclasses.replace(agent.description, agent=saved.settings, training=saved.training)
        agent._forget_controller()

    def save(self, model: Path) -> None:
        """Write the model."""
        self.agent.save_pretrained(model)

    def measure(self, output: Path) -> Row:
        """Play the validation pairs."""
        suite = self._suite(self.pairs) if self.validation is None else self.validation
        suite = dataclasses.replace(suite, floors=lambda env: {})
        measuring = Measuring(suite, self.agent, self.agent.kind, num_envs=8, output=output, progress=self.progress)
        result, _ = measuring.run()
        measuring.write(result)
        measuring.finish()
        return result

    def _suite(self, pairs: int) -> Suite:
        asked, goals = self.attempts, self.attempts.goals
        if isinstance(goals, RecordedGoals) and goals.episodes is None:
            attempted = self.agent.to_train_on(goals.dataset)
            goals = dataclasses.replace(goals, episodes=np.setdiff1d(np.arange(goals.dataset.num_episodes), attempted))
        return self.agent.suite(
            goals=goals, success=asked.success, budget=asked.budget, episodes=pairs, seed=VALIDATION_SEED
        )
