"""Dreamer as an agent: it carries a state from look to look, and acts by a policy that learned in imagination."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lewm_agent.agents.rivals.dreamer import Dreamer, DreamerConfig
from lewm_agent.agents.rivals.dreamer_run import DreamerRun
from lewm_agent.agents.rivals.online_agent import OnlineAgent
from lewm_agent.checkpoints.model_card import About
from lewm_agent.planning.decider import Decider, require_finite
from lewm_agent.planning.episodes import Actions, EpisodeMemory, Memories
from lewm_agent.training.run_folder import RunFolder
from lewm_agent.training.state import other_random_numbers


class DreamerController(Decider):
    """Looks, takes the state further, acts by the policy, repeats that, and looks again.

    Args:
        model: in evaluation mode.
        low: lower action bounds (A,), in the environment's units.
        high: upper ones.
        exploring: draw actions, as in training, instead of their means.
    """

    def __init__(self, model: Dreamer, low: Actions, high: Actions, *, exploring: bool = False) -> None:
        super().__init__(model, low, high)
        self.model, self.exploring = model, exploring

    def needs_frame(self, memory: EpisodeMemory) -> bool:
        """Not while an action is repeated."""
        return not memory.queue

    def queued(self, memories: Memories, seen: dict[int, Tensor]) -> Memories:
        """Who has no actions left decides."""
        return [self._decided(m, seen[i]) if i in seen else m for i, m in enumerate(memories)]

    def _decided(self, memory: EpisodeMemory, features: Tensor) -> EpisodeMemory:
        seed = int(np.random.SeedSequence([memory.seed, memory.plans]).generate_state(1)[0])
        with other_random_numbers(seed, self.device):
            looked = torch.stack([features, cast(Tensor, memory.goal_latent)])
            state = self.model.state(looked, (*memory.latents, *memory.executing))
            mean, std = self.model.policy(*state)
            action = (mean + std * torch.randn_like(mean) if self.exploring else mean).clamp(-1, 1)
        require_finite(action, "an action")
        values = np.clip(self.model.codec.denormalize(action).cpu().numpy(), self.low, self.high).astype(np.float32)
        queue = (values,) * self.model.config.frame_skip
        return dataclasses.replace(memory, plans=memory.plans + 1, latents=state, executing=(action,), queue=queue)


class DreamerAgent(OnlineAgent[DreamerConfig, Dreamer]):
    """DreamerV3 (:mod:`lewm_agent.agents.rivals.dreamer`), which learns in its environment.

    Checkpoints hold a frozen encoder too. Arguments as for :class:`OnlineAgent`.

    Raises:
        ImportError: TorchRL is not installed.
    """

    config_type = DreamerConfig

    def online_run(self, folder: RunFolder, *settings: Any) -> DreamerRun:
        """A training in its environment."""
        return DreamerRun(self, folder, *settings)

    def exploring(self) -> DreamerController:
        """Acts with the present weights, and noise."""
        return DreamerController(self.model, *self._bounds, exploring=True)

    @staticmethod
    def make_model(config: DreamerConfig) -> Dreamer:
        """World model, policy and values."""
        return Dreamer(config)

    @staticmethod
    def kind_of(config: DreamerConfig) -> str:
        """``dreamer``."""
        return "dreamer"

    @classmethod
    def accepts(cls, kind: str) -> bool:
        """Whether it is ``dreamer``."""
        return kind == "dreamer"

    @functools.cached_property
    def controller(self) -> DreamerController:
        """Acts with the present weights."""
        return DreamerController(self.model, *self._bounds)

    def about(self) -> About:
        """What sets this agent apart, for its model card and for ``lewm info``."""
        model, frozen = self.config.model, self.config.frozen
        own = f"{len(model.stages)} convolutions of {model.channels} to {model.channels * max(model.stages)} channels"
        traits = {
            "encoder": own if frozen is None else f"frozen, of {frozen}",
            "state": f"{model.belief} numbers, and {model.categoricals} of {model.classes} classes",
            "policy": f"3 layers of {model.width}, learned over {self.config.imagined} imagined decisions",
        }
        sentence = "DreamerV3 (arXiv 2301.04104) with a goal image: it learned in its environment, from rewards."
        load = 'from lewm_agent.agents import load_agent\n\nagent = load_agent("PATH_OR_HUB_ID")'
        return About(sentence, load, traits)
