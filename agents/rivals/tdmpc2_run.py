"""TD-MPC2's training: one optimisation step for every decision."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from lewm_agent.agents.rivals.online import Rewarded, RewardedRun
from lewm_agent.agents.rivals.online_run import Replay
from lewm_agent.agents.rivals.tdmpc2 import ENCODER_RATE, TDMPC2, Sequences, TDMPC2Config
from lewm_agent.models.learner import Loss


class TDMPC2Learning(Rewarded, Protocol):
    """What TD-MPC2's training asks of its agent."""

    @property
    def model(self) -> TDMPC2:
        """What learns."""

    @property
    def config(self) -> TDMPC2Config:
        """All settings."""


class TDMPC2Run(RewardedRun[TDMPC2Learning]):
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
