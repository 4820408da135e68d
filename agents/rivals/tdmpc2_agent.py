"""TD-MPC2 as an agent: it plans towards rewards that it imagines, and learns in its environment."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from lewm_agent.agents.rivals.online import RewardedRun
from lewm_agent.agents.rivals.online_agent import OnlineAgent
from lewm_agent.agents.rivals.online_run import Replay
from lewm_agent.agents.rivals.repeating import Repeating
from lewm_agent.agents.rivals.tdmpc2 import ENCODER_RATE, TDMPC2, Sequences, TDMPC2Config, TDMPC2Planner
from lewm_agent.checkpoints.model_card import About
from lewm_agent.models.learner import Loss
from lewm_agent.planning.decider import require_finite
from lewm_agent.planning.episodes import EpisodeMemory
from lewm_agent.planning.settings import PlannerConfig
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.state import other_random_numbers


@torch.no_grad()
def plan(
    model: TDMPC2, latent: Tensor, before: Tensor | None, settings: TDMPC2Planner, exploring: bool
) -> tuple[Tensor, Tensor]:
    """Search for actions by MPPI.

    Args:
        model: in evaluation mode.
        latent: (latent_dim,), what is seen.
        before: means (horizon, A) of the last search, one decision ago; None at the beginning of an episode.
        settings: of the search.
        exploring: add the search's own deviation to the action.

    Returns:
        The action (A,) in [-1, 1], and the means (horizon, A).
    """
    steps, actions = settings.horizon, model.config.action_dim
    free = settings.samples - settings.policy_samples
    proposed = _of_policy(model, latent.expand(settings.policy_samples, -1), steps)
    mean, std = torch.zeros(steps, actions, device=latent.device), settings.max_std
    if before is not None:
        mean[:-1] = before[1:]
    deviation = torch.full_like(mean, std)
    starts = latent.expand(settings.samples, -1)
    for _ in range(settings.iterations):
        drawn = mean + deviation * torch.randn(free, steps, actions, device=latent.device)
        candidates = torch.cat([proposed, drawn.clamp(-1, 1)])
        worth = _worth(model, starts, candidates)
        require_finite(worth, "what a plan is worth")
        best, chosen = worth.topk(settings.elites)
        elites = candidates[chosen]
        weights = (settings.temperature * (best - best[0])).softmax(0)[:, None, None]
        mean = (weights * elites).sum(0)
        spread = (weights * (elites - mean).square()).sum(0).sqrt()
        deviation = spread.clamp(settings.min_std, settings.max_std)
    action = elites[torch.multinomial(weights.flatten(), 1)[0], 0]
    if exploring:
        action = action + deviation[0] * torch.randn_like(action)
    return action.clamp(-1, 1), mean


def _of_policy(model: TDMPC2, z: Tensor, steps: int) -> Tensor:
    """Actions (N, steps, A) that the policy takes in imagination from latents (N, latent_dim)."""
    made = []
    for step in range(steps):
        made.append(model.chosen(z)[0])
        z = model.following(z, made[-1]) if step + 1 < steps else z
    return torch.stack(made, dim=1)


def _worth(model: TDMPC2, z: Tensor, candidates: Tensor) -> Tensor:
    """Discounted sum (N,) of the rewards of candidates (N, H, A), and of what comes after by the policy."""
    total, share = torch.zeros(len(z), device=z.device), 1.0
    for step in range(candidates.shape[1]):
        total = total + share * model.expected_reward(z, candidates[:, step])
        z = model.following(z, candidates[:, step])
        share *= model.settings.discount
    return total + share * model.value_of(z, model.chosen(z)[0])


class TDMPC2Run(RewardedRun["TDMPC2Agent"]):
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


class TDMPC2Controller(Repeating[TDMPC2]):
    """Searches, from the means of the search before."""

    def decided(self, memory: EpisodeMemory, seen: Tensor) -> EpisodeMemory:
        """With the means of the search, and the frames that it began from."""
        history, goal = self.model.config.history, cast(Tensor, memory.goal_latent)
        known = (*(memory.latents or [seen] * history), seen)[-history:]
        seed = int(np.random.SeedSequence([memory.seed, memory.plans]).generate_state(1)[0])
        with other_random_numbers(seed, self.device):
            latent = self.model.latent(torch.stack(known)[None], goal[None])[0]
            action, means = plan(self.model, latent, memory.rest, self.model.settings.planner, self.exploring)
        queue = self.repeated(action)
        return dataclasses.replace(memory, plans=memory.plans + 1, latents=known, rest=means, queue=queue)


class TDMPC2Agent(OnlineAgent[TDMPC2Config, TDMPC2]):
    """TD-MPC2 (:mod:`lewm_agent.agents.rivals.tdmpc2`), which learns in its environment.

    Checkpoints hold a frozen encoder too. Arguments as for :class:`OnlineAgent`.
    """

    config_type = TDMPC2Config

    def online_run(self, folder: RunFolder, *settings: Any) -> TDMPC2Run:
        """A training in its environment."""
        return TDMPC2Run(self, folder, *settings)

    def set_planner(self, planner: str | PlannerConfig) -> Self:
        """Refuse: its search goes with its model. Raises ``ValueError``."""
        raise ValueError("tdmpc2 searches by its own settings, those it was trained with, and takes no other planner")

    def exploring(self) -> TDMPC2Controller:
        """Acts with the present weights, and noise."""
        return TDMPC2Controller(self.model, *self._bounds, exploring=True)

    @staticmethod
    def make_model(config: TDMPC2Config) -> TDMPC2:
        """Encoder, dynamics, rewards, values and policy."""
        return TDMPC2(config)

    @staticmethod
    def kind_of(config: TDMPC2Config) -> str:
        """``tdmpc2``."""
        return "tdmpc2"

    @classmethod
    def accepts(cls, kind: str) -> bool:
        """Whether it is ``tdmpc2``."""
        return kind == "tdmpc2"

    @functools.cached_property
    def controller(self) -> TDMPC2Controller:
        """Acts with the present weights."""
        return TDMPC2Controller(self.model, *self._bounds)

    def about(self) -> About:
        """What sets this agent apart, for its model card and for ``lewm info``."""
        model, planner, frozen = self.config.model, self.config.planner, self.config.frozen
        traits = {
            "encoder": f"four convolutions of {model.channels} channels" if frozen is None else f"frozen, of {frozen}",
            "latent": f"{model.latent_dim} numbers, of {model.history} frames and the goal",
            "planner": f"MPPI, {planner.samples} samples, {planner.iterations} iterations, horizon {planner.horizon}",
        }
        sentence = "TD-MPC2 (arXiv 2310.16828) with a goal image: it learned in its environment, from rewards."
        load = 'from lewm_agent.agents import load_agent\n\nagent = load_agent("PATH_OR_HUB_ID")'
        return About(sentence, load, traits)
