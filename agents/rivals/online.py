"""Rewarded agents while they act: episodes of their environment, and optimisation steps between decisions."""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lewm_agent.agents.rivals.frozen import SeeingSettings
from lewm_agent.agents.rivals.online_run import STREAM, Learning, OnlineRun, goal_shown
from lewm_agent.datasets.rollout import checked_reward, episode_seed, steps_of
from lewm_agent.environment import Environment
from lewm_agent.evaluation.trials import Situation
from lewm_agent.models.learner import Learner, Loss
from lewm_agent.planning.decider import Decider
from lewm_agent.planning.episodes import EpisodeMemory, Frames
from lewm_agent.tools.checks import require
from lewm_agent.tools.frames import resized
from lewm_agent.training.loop import DivergedError
from lewm_agent.training.metrics_log import MetricsLog, described, not_finite

RANDOM_STEPS, RANDOM_EPISODES = 1000, 5
"""Environment steps with random actions before anything is learned: the larger of the two, as TD-MPC2 does."""
LOG_EVERY = 50
"""Optimisation steps between two lines of ``metrics.jsonl``."""


class Rewarded(Learning, Protocol):
    """What a training from rewards asks of its agent."""

    @property
    def model(self) -> Learner:
        """What learns."""

    @property
    def config(self) -> SeeingSettings:
        """All settings."""

    def exploring(self) -> Decider:
        """Acts with the present weights, and noise."""


RewardedT = TypeVar("RewardedT", bound=Rewarded)


class RewardedRun(OnlineRun[RewardedT]):
    """Plays, keeps what was seen, done and rewarded, and learns between decisions."""

    @abstractmethod
    def _step(self) -> tuple[Loss, float]:
        """Take an optimisation step on what was kept; returns its loss and the norm of the gradient."""

    @property
    def _every(self) -> int:
        """Decisions for each optimisation step."""
        return 1

    def _kind_of_sight(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of what is kept of a frame."""
        side = self.agent.config.model.image_size
        if self.agent.config.model.seen is None:
            return (side, side, 3), np.dtype(np.uint8)
        return (self.agent.config.model.seen.latent_dim,), np.dtype(np.float32)

    def _episode(self, log: MetricsLog) -> dict[str, float]:
        """Play one episode, learning between decisions, and keep it; returns what came of it, and the time it took."""
        env, number = self.agent.env, self._replay.episodes
        learning = self._learns
        begun = time.monotonic()
        observation, info = env.reset(seed=episode_seed(self.seed, number, STREAM))
        goal = resized(goal_shown(Situation(env, observation, info)), self.agent.config.model.image_size)
        decide = self._decider(goal, number, learning)
        rows: list[dict[str, Any]] = []
        over, total, success, began, steps = False, 0.0, False, self._taken, steps_of(env)
        while not over:
            frame = _frame(env)
            action = decide(frame)
            reward, ended, over, info = self._repeat(env, action, steps)
            success |= bool(info.get("is_success", False))
            total += reward
            rows.append({"seen": self._sight(frame), "action": self._normal(action), "reward": reward, "ended": ended})
            if learning:
                self._learn(len(rows), log)
        rows.append({"seen": self._sight(_frame(env))})
        self._keep(rows, self._sight(goal))
        if not learning and self._learns:
            self._check_rewards()
            self._learn(0, log)
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
            np.ptp(rewards) > 0,
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

    def _repeat(
        self, env: Environment, action: NDArray[np.float32], steps: Iterator[int]
    ) -> tuple[float, bool, bool, dict[str, Any]]:
        """Take an action as often as it is repeated: reward, whether the goal ended it, whether it is over, info."""
        total, terminated, truncated = 0.0, False, False
        info: dict[str, Any] = {}
        for _ in range(self.agent.config.model.frame_skip):
            step = next(steps)
            _, reward, terminated, truncated, info = env.step(action)
            total, self._taken = total + checked_reward(reward, step), self._taken + 1
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

    def _keep(self, rows: list[dict[str, Any]], goal: NDArray[Any]) -> None:
        """Write down an episode, its rows as for :meth:`Replay.add`."""
        self._replay.add(rows, goal)

    def _learn(self, decided: int, log: MetricsLog) -> None:
        """Take the optimisation steps that are due on what was kept, after so many decisions of the present episode."""
        self.agent.model.train()
        decisions = self._replay.rows - self._replay.episodes + decided
        while self._learned_steps < decisions // self._every:
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


def _frame(env: Environment) -> Frames:
    frame: Frames = np.asarray(env.render())
    return frame
