"""TD-MPC2 while it acts: episodes of an environment with rewards, and optimisation steps between decisions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lewm_agent.agents.rivals.online_run import STREAM, Learning, OnlineRun, Replay
from lewm_agent.agents.rivals.tdmpc2 import ENCODER_RATE, TDMPC2, Sequences, TDMPC2Config
from lewm_agent.datasets.rollout import episode_seed
from lewm_agent.environment import Environment
from lewm_agent.evaluation.trials import Situation, Trial, goal_picture
from lewm_agent.models.learner import Loss
from lewm_agent.planning.decider import Decider
from lewm_agent.planning.episodes import EpisodeMemory, Frames
from lewm_agent.tools.checks import require
from lewm_agent.tools.frames import resized
from lewm_agent.training.loop import DivergedError
from lewm_agent.training.metrics_log import MetricsLog, described, not_finite

RANDOM_STEPS, RANDOM_EPISODES = 1000, 5
"""Environment steps with random actions before anything is learned: the larger of the two, as released."""
LOG_EVERY = 50
"""Optimisation steps between two lines of ``metrics.jsonl``."""


class Rewarded(Learning, Protocol):
    """What TD-MPC2's training asks of its agent."""

    model: TDMPC2

    @property
    def config(self) -> TDMPC2Config:
        """All settings."""

    def exploring(self) -> Decider:
        """Acts with the present weights, and noise."""


class Online(OnlineRun[Rewarded]):
    """TD-MPC2's training: one optimisation step for every decision."""

    def _begin(self) -> Replay:
        model, training = self.agent.model, self.agent.config.training
        torch.manual_seed(self.seed)
        rate, policy = training.learning_rate, list(model.policy.parameters())
        seeing = [*model.encoder.parameters(), *model.observer.parameters()]
        apart = {id(parameter) for parameter in (*policy, *seeing)}
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
        seeing = [parameter for parameter in seeing if parameter.requires_grad]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": seeing, "lr": rate * ENCODER_RATE}]
        self._optimizer = torch.optim.Adam(groups, lr=rate, fused=True)
        self._policy_optimizer = torch.optim.Adam(policy, lr=rate, eps=1e-5, fused=True)
        return Replay(self.folder.path / "replay", self._kind_of_sight(), model.config.action_dim)

    def _moments(self) -> dict[str, Any]:
        return {"model": self._optimizer.state_dict(), "policy": self._policy_optimizer.state_dict()}

    def _go_on_with(self, moments: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(moments["model"])
        self._policy_optimizer.load_state_dict(moments["policy"])

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
