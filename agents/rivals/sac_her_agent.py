"""SAC with hindsight as an agent that learns in its environment, from the environment's own success.

Nothing is unpickled: checkpoints hold the networks as all others here do, and the buffer is filled again from
``replay``.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.her import HerReplayBuffer
from torch import Tensor

from lewm_agent.agents.rivals.online_agent import OnlineAgent
from lewm_agent.agents.rivals.online_run import STREAM, Learning, OnlineRun, Replay
from lewm_agent.agents.rivals.repeating import Repeating
from lewm_agent.agents.rivals.sac_her import (
    OBSERVED,
    SACHER,
    HindsightEnv,
    Networks,
    SACConfig,
    policy_settings,
    spaces,
    told_size,
)
from lewm_agent.checkpoints.checkpoint import Description
from lewm_agent.checkpoints.model_card import About
from lewm_agent.datasets.rollout import episode_seed
from lewm_agent.environment import Environment
from lewm_agent.planning.episodes import EpisodeMemory, Goal
from lewm_agent.tools.checks import require
from lewm_agent.training.loop import DivergedError
from lewm_agent.training.metrics_log import MetricsLog, not_finite
from lewm_agent.training.run_folder import RunFolder

RANDOM_STEPS = 1000
"""Environment steps with random actions before anything is learned; they say how states are scaled, too."""
LARGEST_BUFFER = 1_000_000
"""Decisions that are learned from, Stable-Baselines3's."""
SPARE = 10_000
"""Decisions that a last episode may have beyond the steps asked for."""


class Hindsight(Learning, Protocol):
    """What SAC's training asks of its agent."""

    model: SACHER

    @property
    def config(self) -> SACConfig:
        """All settings."""


class SACRun(OnlineRun[Hindsight]):
    """Stable-Baselines3 plays an episode, then takes as many optimisation steps as there were decisions."""

    def _begin(self) -> Replay:
        config, model = self.agent.config, self.agent.config.model
        self._env = HindsightEnv(self.agent.env, model, self.agent.model.view, self.seed)
        self._sac = SAC(
            Networks,
            self._env,
            learning_rate=config.training.learning_rate,
            batch_size=config.training.batch_size,
            gamma=config.discount,
            buffer_size=min(LARGEST_BUFFER, self.steps // model.frame_skip + SPARE),
            learning_starts=RANDOM_STEPS // model.frame_skip,
            train_freq=(1, "episode"),
            gradient_steps=0,  # taken below: states are scaled before the first
            replay_buffer_class=HerReplayBuffer,
            replay_buffer_kwargs={"n_sampled_goal": config.relabelled, "goal_selection_strategy": "future"},
            policy_kwargs=policy_settings(model),
            seed=self.seed,
            device=self.agent.device,
        )
        self._sac.set_logger(Logger(None, []))
        self._sac.policy.load_state_dict(self.agent.model.policy.state_dict())
        self.agent.model.policy = self._sac.policy
        row = spaces(model)["observation"].shape or ()
        return Replay(self.folder.path / "replay", (row, np.dtype(np.uint8)), model.action_dim)

    def _moments(self) -> dict[str, Any]:
        optimizers = {name: optimizer.state_dict() for name, optimizer in self._optimizers().items()}
        return {**optimizers, "log_entropy_weight": self._sac.log_ent_coef}

    def _go_on_with(self, moments: dict[str, Any]) -> None:
        for name, optimizer in self._optimizers().items():
            optimizer.load_state_dict(moments[name])
        assert self._sac.log_ent_coef is not None
        self._sac.log_ent_coef.data.copy_(moments["log_entropy_weight"])
        replay, self._env.number, self._env.taken = self._replay, self._replay.episodes, self._taken
        bounds = np.append(np.unique(replay.column("begins")), replay.rows)
        for number, (first, end) in enumerate(itertools.pairwise(bounds)):
            self._fill(replay.column("goals")[number], *(replay.column(n)[first:end] for n in ("seen", "actions")))
        self._sac.num_timesteps = replay.rows - replay.episodes

    def _fill(self, goal: NDArray[Any], rows: NDArray[Any], actions: NDArray[Any]) -> None:
        """Put an episode of T decisions, seen (T + 1, B) and done (T, A) or more, into the buffer again."""
        buffer, last = self._buffer, len(rows) - 2
        for t in range(last + 1):
            now, then = (dict(zip(OBSERVED, np.stack([s, s, goal])[:, None], strict=True)) for s in rows[t : t + 2])
            reward = self._env.compute_reward(rows[t + 1], goal, {})
            over = [{"TimeLimit.truncated": t == last}]
            buffer.add(now, then, actions[t : t + 1], np.array([reward]), np.array([t == last]), over)

    @property
    def _buffer(self) -> HerReplayBuffer:
        assert isinstance(self._sac.replay_buffer, HerReplayBuffer)
        return self._sac.replay_buffer

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        policy, entropy = self._sac.policy, self._sac.ent_coef_optimizer
        assert entropy is not None
        return {"actor": policy.actor.optimizer, "critic": policy.critic.optimizer, "entropy": entropy}

    def _episode(self, log: MetricsLog) -> dict[str, float]:
        begun, began, sac = time.monotonic(), self._taken, self._sac
        sac.set_random_seed(episode_seed(self.seed, self._replay.episodes, STREAM))
        decided = sac.num_timesteps
        sac.learn(1, reset_num_timesteps=False)
        count, self._taken = sac.num_timesteps - decided, self._env.taken
        rewards = self._keep(count)
        if self._taken > RANDOM_STEPS:
            self._learn(count, log)
        told = {"reward": float(rewards.sum()), "steps": self._taken - began, "success": float((rewards == 0).any())}
        return {**told, "seconds": time.monotonic() - begun}

    def _keep(self, count: int) -> NDArray[np.float32]:
        """Write down the episode of so many decisions that the buffer holds last; returns its rewards (count,)."""
        buffer = self._buffer
        at = (buffer.pos - count + np.arange(count)) % buffer.buffer_size
        states, rewards = buffer.observations["observation"][at, 0], buffer.rewards[at, 0]
        actions, last = buffer.actions[at, 0], buffer.next_observations["observation"][at[-1], 0]
        rows = [
            {"seen": s, "action": a, "reward": r, "ended": False}
            for s, a, r in zip(states, actions, rewards, strict=True)
        ]
        self._replay.add([*rows, {"seen": last}], buffer.observations["desired_goal"][at[0], 0])
        return np.asarray(rewards, np.float32)

    def _learn(self, count: int, log: MetricsLog) -> None:
        if self._learned_steps == 0:
            seen = np.array(self._replay.column("seen"))
            self.agent.model.set_scale(torch.from_numpy(seen).to(self.agent.device))
        self._sac.train(count, self._sac.batch_size)
        self._learned_steps += count
        names = {"actor": "actor_loss", "critic": "critic_loss", "entropy_weight": "ent_coef"}
        found = self._sac.logger.name_to_value
        numbers = {name: float(found[f"train/{key}"]) for name, key in names.items()}
        if wrong := not_finite(numbers):
            raise DivergedError(
                f"the loss is not finite after {self._taken} environment steps ({wrong}): lower the learning rate "
                f"(training.learning_rate); {self.folder.kept()}"
            )
        log.write(self._taken, "train", {**numbers, "updates": float(self._learned_steps)})


class SACController(Repeating[SACHER]):
    """Acts by the middle of the policy."""

    def decided(self, memory: EpisodeMemory, seen: Tensor) -> EpisodeMemory:
        """Nothing is carried."""
        assert memory.goal_latent is not None
        queue = self.repeated(self.model.action(seen, memory.goal_latent))
        return dataclasses.replace(memory, plans=memory.plans + 1, queue=queue)

    def _aimed_at(self, goals: Goal) -> list[Tensor]:
        return self._encoded(goals, "the goal")


class SACAgent(OnlineAgent[SACConfig, SACHER]):
    """Stable-Baselines3's SAC with HER (:mod:`lewm_agent.agents.rivals.sac_her`) on frames and goal images.

    It learns in its environment, where rewards are of states; acting, it sees frames alone.

    Args:
        env: tells ``info["state"]``, ``info["goal_state"]`` and which states reach which goals (``reached``).
        config: sizes and training.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of the initial weights and of training.

    Raises:
        CheckpointError: the world model whose encoder is to be taken over cannot be had.
        ValueError: actions that are choices, or an environment that does not tell these.
    """

    config_type = SACConfig

    def _described(self, config: SACConfig) -> Description:
        known = super()._described(config)
        actions = known.agent.model.action_dim
        model = dataclasses.replace(config.model, action_dim=actions, state_dim=told_size(self.env))
        return dataclasses.replace(known, agent=dataclasses.replace(config, model=model))

    def online_run(self, folder: RunFolder, *settings: Any) -> SACRun:
        """A training in its environment."""
        return SACRun(self, folder, *settings)

    @staticmethod
    def make_model(config: SACConfig) -> SACHER:
        """Policy and action values."""
        return SACHER(config)

    @staticmethod
    def kind_of(config: SACConfig) -> str:
        """``sac_her``, which looks at states, or ``sac_her_pixels``."""
        return "sac_her" if config.model.sight == "states" else "sac_her_pixels"

    @classmethod
    def accepts(cls, kind: str) -> bool:
        """Whether it is ``sac_her_pixels``."""
        return kind == "sac_her_pixels"

    @functools.cached_property
    def controller(self) -> SACController:
        """Acts with the present weights."""
        return SACController(self.model, *self._bounds)

    def about(self) -> About:
        """What sets this agent apart, for its model card and for ``lewm info``."""
        model, frozen = self.config.model, self.config.frozen
        frames = f"frames, by {'convolutions' if frozen is None else f'the frozen encoder of {frozen}'}"
        traits = {
            "looks at": frames if model.sight == "pixels" else f"{model.state_dim} numbers of the state: no frames",
            "policy": f"{model.depth} layers of {model.width}",
            "hindsight": f"{self.config.relabelled} later states as goals for each goal that was meant",
        }
        sentence = "SAC with hindsight (Stable-Baselines3): it learned in its environment, from success."
        load = 'from lewm_agent.agents import load_agent\n\nagent = load_agent("PATH_OR_HUB_ID")'
        return About(sentence, load, traits)


class SACStatesAgent(SACAgent):
    """The same on states, and so privileged: it is told ``info["state"]`` and ``info["goal_state"]``, and sees nothing.

    Arguments as for :class:`SACAgent`.
    """

    looks_at = "state"

    def __init__(
        self, env: str | Environment | None, config: SACConfig | Description, *, device: str = "auto", seed: int = 0
    ) -> None:
        super().__init__(env, config, device=device, seed=seed)
        numbers = gym.spaces.Box(-np.inf, np.inf, (self.config.model.state_dim,), np.float64)
        self.observation_space = gym.spaces.Dict({"state": numbers, "goal_state": numbers})

    @classmethod
    def accepts(cls, kind: str) -> bool:
        """Whether it is ``sac_her``."""
        return kind == "sac_her"

    def _shown(self, observation: dict[str, Any]) -> tuple[Goal, Goal]:
        size = self.config.model.state_dim
        given = [np.asarray(observation.get(name, ()), np.float64) for name in ("state", "goal_state")]
        require(
            all(values.shape[-1:] == (size,) and values.ndim <= 2 for values in given),
            f"sac_her looks at states and not at frames: give `state` and `goal_state`, ({size},) or (N, {size}) as in "
            f"info['state'], not {', '.join(f'{name} {np.shape(v)}' for name, v in observation.items())}",
        )
        state, goal = (np.atleast_2d(values) for values in given)
        return state, goal
