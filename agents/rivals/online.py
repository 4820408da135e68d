"""Learning while acting: episodes of an environment with rewards, what is kept of them, and steps between decisions."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.agents.rivals.tdmpc2 import ENCODER_RATE, TDMPC2, Sequences, TDMPC2Config
from lewm_agent.datasets.rollout import episode_seed
from lewm_agent.environment import Environment
from lewm_agent.evaluation.trials import Situation, Trial, goal_picture
from lewm_agent.models.learner import Loss
from lewm_agent.planning.decider import Decider
from lewm_agent.planning.episodes import EpisodeMemory, Frames
from lewm_agent.tools.checks import require
from lewm_agent.tools.frames import resized
from lewm_agent.tools.interruption import Interruption, interruptible
from lewm_agent.tools.progress import ProgressShown
from lewm_agent.tools.settings import flat
from lewm_agent.training.loop import GO_ON, DivergedError
from lewm_agent.training.metrics_log import MetricsLog, described, not_finite
from lewm_agent.training.record import TrainingRecord, versions_here
from lewm_agent.training.run import RESUME_OR_LEAVE, Identity, Saved
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.state import TrainingState, random_states, set_random_states

STREAM = 3
"""Of the seeds of episodes, which collected data and evaluations do not have."""
RANDOM_STEPS, RANDOM_EPISODES = 1000, 5
"""Environment steps with random actions before anything is learned: the larger of the two, as released."""
LOG_EVERY = 50
"""Optimisation steps between two lines of ``metrics.jsonl``."""


class Learning(Protocol):
    """What online learning asks of an agent."""

    model: TDMPC2
    device: torch.device

    @property
    def config(self) -> TDMPC2Config:
        """All settings."""

    @property
    def env(self) -> Environment:
        """Where it learns."""

    def exploring(self) -> Decider:
        """Acts with the present weights, and noise."""

    def identity(self) -> Identity:
        """What a run to be continued must agree with."""

    def save_checkpoint(self, folder: Path, record: TrainingRecord) -> None:
        """Write the present weights."""

    def read_checkpoint(self, folder: Path) -> Saved:
        """What such a folder holds."""

    def load_weights(self, weights: dict[str, Tensor], source: Path) -> None:
        """Take over weights."""


class Replay:
    """All decisions of all episodes, in files that grow, so that nothing seen is lost.

    A row has what was seen, the action decided on there, its reward, whether the episode ended at its goal after it,
    the row in which the episode begins, and the number of the episode. An episode of n decisions has n + 1 rows.

    Args:
        folder: of the files.
        seen: shape and type of what is seen, frames or features.
        actions: size of an action.
    """

    def __init__(self, folder: Path, seen: tuple[tuple[int, ...], np.dtype[Any]], actions: int) -> None:
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
        """Append an episode: rows of ``seen``, ``action``, ``reward`` and ``ended``, the last with ``seen`` alone."""
        count, actions = len(episode), self._columns["actions"][2]
        values = {
            "seen": np.stack([row["seen"] for row in episode]),
            "goals": goal[None],
            "actions": np.stack([row.get("action", np.zeros(actions, np.float32)) for row in episode]),
            "rewards": np.array([row.get("reward", 0.0) for row in episode], np.float32),
            "ended": np.array([row.get("ended", False) for row in episode]),
            "begins": np.full(count, self.rows),
            "episode": np.full(count, self.episodes),
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
class Online:
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

    agent: Learning
    folder: RunFolder
    steps: int
    seed: int
    checkpoint_every: int
    progress: bool
    record: TrainingRecord | None = None

    def train(self, resume: bool) -> None:
        """Begin, or continue what the folder holds, and go on to the end; raises as ``learn_online``."""
        if self.folder.has_checkpoints() and not resume:
            raise FileExistsError(
                f"{self.folder.path} already holds a training run: continue it with resume=True (--resume), or give "
                "another folder"
            )
        model, training = self.agent.model, self.agent.config.training
        self._taken = self._saved = 0
        with interruptible() as interruption, self.folder.held():
            self._replay = Replay(self.folder.path / "replay", self._kind_of_sight(), model.config.action_dim)
            torch.manual_seed(self.seed)
            rate, policy = training.learning_rate, list(model.policy.parameters())
            seeing = [*model.encoder.parameters(), *model.observer.parameters()]
            apart = {id(parameter) for parameter in (*policy, *seeing)}
            others = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
            seeing = [parameter for parameter in seeing if parameter.requires_grad]
            groups: list[dict[str, Any]] = [{"params": others}, {"params": seeing, "lr": rate * ENCODER_RATE}]
            self._optimizer = torch.optim.Adam(groups, lr=rate, fused=True)
            self._policy_optimizer = torch.optim.Adam(policy, lr=rate, eps=1e-5, fused=True)
            self._restore()
            self._go_on(interruption)

    def _kind_of_sight(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of what is kept of a frame."""
        side = self.agent.config.model.image_size
        if self.agent.config.model.seen is None:
            return (side, side, 3), np.dtype(np.uint8)
        return (self.agent.config.model.seen.latent_dim,), np.dtype(np.float32)

    # --- begin and continue -------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        folder = self.folder.newest()
        if folder is None:
            self._replay.keep(0, 0)
            return
        saved, state = self.agent.read_checkpoint(folder), TrainingState.read(folder)
        now, before = (dict(flat(one)) for one in (self.agent.identity(), saved.identity))
        now["seed"], before["seed"] = self.seed, None if saved.training is None else saved.training.seed
        differing = [
            f"{name} {before.get(name)!r}, not {now.get(name)!r}" for name in now if now[name] != before.get(name)
        ]
        require(not differing, f"{folder} was trained with {'; '.join(differing)}; {RESUME_OR_LEAVE}")
        self.agent.load_weights(saved.weights, folder)
        self.record = saved.training
        self._optimizer.load_state_dict(state.optimizer["model"])
        self._policy_optimizer.load_state_dict(state.optimizer["policy"])
        self._replay.keep(int(state.optimizer["rows"]), int(state.optimizer["episodes"]))
        self._taken = self._saved = int(state.optimizer["taken"])
        self._learned_steps = state.step
        set_random_states(state.random, self.agent.device)

    _learned_steps: int = 0

    def _checkpoint(self) -> None:
        optimizer = {"model": self._optimizer.state_dict(), "policy": self._policy_optimizer.state_dict()}
        counts = {"rows": self._replay.rows, "episodes": self._replay.episodes, "taken": self._taken}
        state = TrainingState(self._learned_steps, {**optimizer, **counts}, random_states(self.agent.device))
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

    # --- act and learn ------------------------------------------------------------------------------------------------

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

    def _episode(self, log: MetricsLog) -> dict[str, float]:
        """Play one episode, learning between decisions, and keep it; returns what came of it, and the time it took."""
        env, number = self.agent.env, self._replay.episodes
        learning = self._learns
        begun = time.monotonic()
        observation, info = env.reset(seed=episode_seed(self.seed, number, STREAM))
        shown = goal_picture(Situation(env, observation, info), Trial())
        goal = resized(shown, self.agent.config.model.image_size)
        decide = self._decider(goal, number, learning)
        rows: list[dict[str, Any]] = []
        over, total, success, began = False, 0.0, False, self._taken
        while not over:
            frame = _frame(env)
            action = decide(frame)
            reward, ended, over, info = self._repeat(env, action)
            success |= bool(info.get("is_success", False))
            total += reward
            rows.append({"seen": self._sight(frame), "action": self._normal(action), "reward": reward, "ended": ended})
            if learning:
                self._learn(1, log)
        rows.append({"seen": self._sight(_frame(env))})
        self._replay.add(rows, self._sight(goal))
        if not learning and self._learns:
            self._check_rewards()
            self._learn(self._replay.rows - self._replay.episodes, log)
        return {
            "reward": total,
            "steps": self._taken - began,
            "success": float(success),
            "seconds": time.monotonic() - begun,
        }

    @property
    def _learns(self) -> bool:
        return self._taken >= RANDOM_STEPS and self._replay.episodes >= RANDOM_EPISODES

    def _check_rewards(self) -> None:
        rewards = self._replay.column("rewards")
        require(
            bool(np.isfinite(rewards).all() and np.ptp(rewards) > 0),
            f"in {self._taken} steps of random actions the environment's reward was always {rewards[0]:g}: there is "
            "nothing to learn from; give an environment that rewards nearness to its goal",
        )

    def _decider(self, goal: Frames, episode: int, learned: bool) -> Callable[[Frames], NDArray[np.float32]]:
        """Frame to action: at random, or with what has been learned."""
        space, seed = self.agent.env.action_space, episode_seed(self.seed, episode, STREAM)
        if not learned:
            space.seed(seed)
            return lambda frame: np.asarray(space.sample(), np.float32)
        controller, memories = self.agent.exploring(), [EpisodeMemory(seed)]

        def decide(frame: Frames) -> NDArray[np.float32]:
            nonlocal memories
            actions, memories = controller.decide(memories, frame[None], goal[None])
            memories = [dataclasses.replace(memory, queue=()) for memory in memories]
            return actions[0]

        return decide

    def _repeat(self, env: Environment, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """Take an action as often as it is repeated: reward, whether the goal ended it, whether it is over, info."""
        total, terminated, truncated = 0.0, False, False
        info: dict[str, Any] = {}
        for _ in range(self.agent.config.model.frame_skip):
            _, reward, terminated, truncated, info = env.step(action)
            total, self._taken = total + float(reward), self._taken + 1
            if terminated or truncated:
                break
        return total, bool(terminated), bool(terminated or truncated), info

    def _normal(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = self.agent.model.codec.normalize(torch.as_tensor(action, device=self.agent.device))
        return np.asarray(scores.cpu(), np.float32)

    def _sight(self, frame: Frames) -> NDArray[Any]:
        """What is kept of a frame."""
        if self.agent.config.model.seen is None:
            return frame
        with torch.no_grad():
            return self.agent.model.encode(torch.as_tensor(frame[None]).to(self.agent.device))[0].cpu().numpy()

    def _learn(self, count: int, log: MetricsLog) -> None:
        """Take optimisation steps on what was kept."""
        self.agent.model.train()
        for _ in range(count):
            loss, norm = self._step()
            self._learned_steps += 1
            numbers = {**described(loss), "gradient_norm": norm}
            if wrong := not_finite(numbers):
                raise DivergedError(
                    f"the loss is not finite after {self._taken} environment steps ({wrong}): lower the learning rate "
                    f"(training.learning_rate); {self.folder.kept()}"
                )
            if self._learned_steps % LOG_EVERY == 0:
                log.write(self._taken, "train", {**numbers, "updates": float(self._learned_steps)})
        self.agent.model.eval()

    def _step(self) -> tuple[Loss, float]:
        model, config = self.agent.model, self.agent.config
        rng = np.random.default_rng([self.seed, self._learned_steps])
        drawn = self._replay.draw(config.training.batch_size, config.planner.horizon, config.model.history, rng)
        loss = model.loss(Sequences(*(values.to(self.agent.device) for values in drawn)))
        self._optimizer.zero_grad()
        loss.total.backward()
        largest = config.training.gradient_clip
        norm = torch.nn.utils.clip_grad_norm_([p for g in self._optimizer.param_groups for p in g["params"]], largest)
        self._optimizer.step()
        assert loss.latents is not None
        policy, parameters = model.policy_loss(loss.latents), list(model.policy.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(policy, parameters), strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, largest)
        self._policy_optimizer.step()
        model.after_step(1.0)
        return Loss(loss.total, {**loss.terms, "policy": policy}), float(norm)


def _frame(env: Environment) -> Frames:
    frame: Frames = np.asarray(env.render())
    return frame
