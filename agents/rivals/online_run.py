"""A training in an environment: episodes kept in files that grow, checkpoints between them, and going on from there."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.agents.rivals.tdmpc2 import Sequences
from lewm_agent.environment import Environment
from lewm_agent.evaluation.trials import Situation, Trial, picture_if_any
from lewm_agent.planning.episodes import Frames
from lewm_agent.tools.checks import require
from lewm_agent.tools.interruption import Interruption, interruptible
from lewm_agent.tools.progress import ProgressShown
from lewm_agent.tools.settings import flat
from lewm_agent.training.loop import GO_ON
from lewm_agent.training.metrics_log import MetricsLog
from lewm_agent.training.record import TrainingRecord, versions_here
from lewm_agent.training.run import RESUME_OR_LEAVE, Identity, Saved, newest_readable
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.settings import AgentSettings
from lewm_agent.training.state import TrainingState, random_states, set_random_states

STREAM = 3
"""Of the seeds of episodes, which collected data and evaluations do not have."""


def goal_shown(began: Situation) -> Frames:
    """The picture (H, W, 3) of the goal that the environment has drawn. Raises ``ValueError`` if there is none."""
    picture = picture_if_any(began, Trial())
    if picture is None:
        raise ValueError(
            "the environment has no picture of its goal to learn towards: give it a method goal_frame(), or "
            "info['goal_rendered'] after a reset, (H, W, 3) uint8"
        )
    return picture


class Learning(Protocol):
    """What a training in an environment asks of an agent."""

    device: torch.device

    @property
    def config(self) -> AgentSettings:
        """All settings."""

    @property
    def env(self) -> Environment:
        """Where it learns."""

    def identity(self) -> Identity:
        """What a run to be continued must agree with."""

    def save_checkpoint(self, folder: Path, record: TrainingRecord) -> None:
        """Write the present weights."""

    def read_checkpoint(self, folder: Path) -> Saved:
        """What such a folder holds."""

    def load_weights(self, weights: dict[str, Tensor], source: Path) -> None:
        """Take over weights."""


LearningT = TypeVar("LearningT", bound=Learning)


class Replay:
    """All decisions of all episodes, in files that grow, so that nothing seen is lost.

    A row has what was seen, the action decided on there, its reward, whether the episode ended at its goal after it,
    the row in which the episode begins, and the number of the episode. An episode of n decisions has n + 1 rows.

    Args:
        folder: of the files.
        seen: shape and type of what is seen, frames or features.
        actions: size of an action.
        carried: numbers that an agent carries from one decision to the next, which are kept too.
    """

    def __init__(
        self, folder: Path, seen: tuple[tuple[int, ...], np.dtype[Any]], actions: int, carried: int = 0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._columns = {
            "seen": (folder / "seen.bin", seen[1], seen[0]),
            "goals": (folder / "goals.bin", seen[1], seen[0]),
            "actions": (folder / "actions.bin", np.dtype(np.float32), (actions,)),
            "rewards": (folder / "rewards.bin", np.dtype(np.float32), ()),
            "ended": (folder / "ended.bin", np.dtype(np.bool_), ()),
            "begins": (folder / "begins.bin", np.dtype(np.int64), ()),
            "episode": (folder / "episode.bin", np.dtype(np.int64), ()),
        }
        if carried:
            self._columns["carried"] = (folder / "carried.bin", np.dtype(np.float32), (carried,))
        self.rows = self.episodes = 0
        self._maps: dict[str, NDArray[Any]] = {}

    def keep(self, rows: int, episodes: int) -> None:
        """Forget what came after so many rows and episodes. Raises ``ValueError`` if there are not so many."""
        for name, (file, kind, shape) in self._columns.items():
            count = episodes if name == "goals" else rows
            size = count * kind.itemsize * int(np.prod(shape))
            there = file.stat().st_size if file.exists() else 0
            require(there >= size, f"{file} is cut short: begin anew in another folder")
            if there:
                os.truncate(file, size)
        self.rows, self.episodes = rows, episodes
        self._maps.clear()

    def add(self, episode: list[dict[str, Any]], goal: NDArray[Any]) -> None:
        """Append an episode: rows of ``seen``, ``action``, ``reward`` and ``ended``, the last with ``seen`` alone.

        What is carried is there in all of them.
        """
        count, actions = len(episode), self._columns["actions"][2]
        values = {
            "seen": np.stack([row["seen"] for row in episode]),
            "goals": goal[None],
            "actions": np.stack([row.get("action", np.zeros(actions, np.float32)) for row in episode]),
            "rewards": np.array([row.get("reward", 0.0) for row in episode], np.float32),
            "ended": np.array([row.get("ended", False) for row in episode]),
            "begins": np.full(count, self.rows),
            "episode": np.full(count, self.episodes),
            "carried": np.array([row.get("carried", ()) for row in episode]),
        }
        for name, (file, kind, _) in self._columns.items():
            with file.open("ab") as out:
                out.write(np.ascontiguousarray(values[name], kind).tobytes())
        self.rows, self.episodes = self.rows + count, self.episodes + 1
        self._maps.clear()

    def column(self, name: str) -> NDArray[Any]:
        """All rows of one; goals have one for each episode."""
        if name not in self._maps:
            file, kind, shape = self._columns[name]
            count = self.episodes if name == "goals" else self.rows
            self._maps[name] = np.memmap(file, kind, "r", shape=(count, *shape))
        return self._maps[name]

    def draw(self, count: int, steps: int, history: int, rng: np.random.Generator) -> Sequences:
        """Sequences of so many decisions, each from within one episode."""
        episodes, begins = self.column("episode"), self.column("begins")
        starts = np.flatnonzero(episodes[: max(0, self.rows - steps)] == episodes[steps:])
        require(bool(starts.size), f"no episode is {steps} decisions long: shorten planner.horizon")
        chosen = rng.choice(starts, count)
        rows = chosen[:, None] + np.arange(1 - history, steps + 1)
        decisions = chosen[:, None] + np.arange(steps)
        found = (
            self.column("seen")[np.maximum(rows, begins[chosen][:, None])],
            self.column("goals")[episodes[chosen]],
            self.column("actions")[decisions],
            self.column("rewards")[decisions],
            self.column("ended")[decisions],
        )
        return Sequences(*(torch.from_numpy(np.array(values)) for values in found))


@dataclass
class OnlineRun(ABC, Generic[LearningT]):
    """One training in an environment: begun or continued.

    Attributes:
        agent: who learns.
        folder: of the run.
        steps: of the environment, in all.
        seed: of episodes, exploration and learning.
        checkpoint_every: environment steps between checkpoints, at least.
        progress: show progress.
        record: how the model's weights came about; None until something has been learned.
    """

    agent: LearningT
    folder: RunFolder
    steps: int
    seed: int
    checkpoint_every: int
    progress: bool
    record: TrainingRecord | None = None
    _taken: int = 0
    _learned_steps: int = 0

    def train(self, resume: bool) -> None:
        """Begin, or continue what the folder holds, and go on to the end; raises as ``learn_online``."""
        if self.folder.has_checkpoints() and not resume:
            raise FileExistsError(
                f"{self.folder.path} already holds a training run: continue it with resume=True (--resume), or give "
                "another folder"
            )
        with interruptible() as interruption, self.folder.held():
            self._replay = self._begin()
            self._restore()
            self._saved = self._taken
            self._go_on(interruption)

    @abstractmethod
    def _begin(self) -> Replay:
        """Make what learns, and where what is seen is kept."""

    @abstractmethod
    def _moments(self) -> dict[str, Any]:
        """What learning needs beside weights to go on: tensors, numbers and dictionaries of them."""

    @abstractmethod
    def _go_on_with(self, moments: dict[str, Any]) -> None:
        """Take over what :meth:`_moments` gave, and what was kept; weights have been taken over."""

    @abstractmethod
    def _episode(self, log: MetricsLog) -> dict[str, float]:
        """Play an episode, keep it and learn; returns its reward, steps, success, and the seconds it took."""

    # --- begin and continue -------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        found = newest_readable(self.folder, self.agent.read_checkpoint)
        if found is None:
            self._replay.keep(0, 0)
            return
        folder, saved, state = found.folder, found.saved, found.state
        now, before = (dict(flat(one)) for one in (self.agent.identity(), saved.identity))
        now["seed"], before["seed"] = self.seed, None if saved.training is None else saved.training.seed
        differing = [
            f"{name} {before.get(name)!r}, not {now.get(name)!r}" for name in now if now[name] != before.get(name)
        ]
        require(not differing, f"{folder} was trained with {'; '.join(differing)}; {RESUME_OR_LEAVE}")
        self.agent.load_weights(saved.weights, folder)
        self.record = saved.training
        self._replay.keep(int(state.optimizer["rows"]), int(state.optimizer["episodes"]))
        self._taken, self._learned_steps = int(state.optimizer["taken"]), state.step
        self._go_on_with(state.optimizer)
        set_random_states(state.random, self.agent.device)

    def _checkpoint(self) -> None:
        counts = {"rows": self._replay.rows, "episodes": self._replay.episodes, "taken": self._taken}
        state = TrainingState(self._learned_steps, {**self._moments(), **counts}, random_states(self.agent.device))
        record = self._record()

        def write(folder: Path) -> None:
            self.agent.save_checkpoint(folder, record)
            state.write(folder)

        self.folder.save(self._taken, write)
        self.record, self._saved = record, self._taken

    def _record(self) -> TrainingRecord:
        data = f"{self._replay.episodes} episodes online, {self._taken} environment steps"
        batch = self.agent.config.training.batch_size
        return TrainingRecord(data, self._learned_steps, self._taken >= self.steps, batch, self.seed, versions_here())

    def _go_on(self, interruption: Interruption) -> None:
        alarm = 10**9  # latents of groups that add up to 1 are not judged as others are
        settings = {**self.agent.identity(), "seed": self.seed}
        with (
            MetricsLog(self.folder, self._taken, alarm, (), settings) as log,
            ProgressShown("learn online", self.steps, start=self._taken, shown=self.progress) as shown,
            interruption.between_steps(),
        ):
            while self._taken < self.steps:
                told = self._episode(log)
                log.write_told(self._taken, "episode", told)
                shown.update(min(self._taken, self.steps), f"reward {told['reward']:.2f}")
                last = self._taken >= self.steps
                if last or interruption.requested or self._taken - self._saved >= self.checkpoint_every:
                    self._checkpoint()
                if interruption.requested:
                    raise KeyboardInterrupt(f"stopped after {self._taken} of {self.steps} environment steps; {GO_ON}")
        require(
            self._learned_steps > 0,
            f"nothing was learned in {self._taken} environment steps, for the first actions are random: give more "
            "steps (--steps), and resume=True (--resume) to go on",
        )
