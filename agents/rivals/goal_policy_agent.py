"""Goal-conditioned policies as agents: a block of actions at a time, and no planning."""

from __future__ import annotations

import dataclasses
import functools
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lewm_agent.agents.rivals.frozen import encoder_part, read_encoder
from lewm_agent.agents.rivals.goal_policy import Algorithm, GoalPolicy, GoalPolicyConfig
from lewm_agent.checkpoints.checkpoint import Description
from lewm_agent.checkpoints.model_card import About
from lewm_agent.datasets import Clips, OfflineDataset
from lewm_agent.datasets.goals import GoalClips
from lewm_agent.environment import Environment
from lewm_agent.improving_agent import ImprovingAgent
from lewm_agent.planning.decider import Decider, require_finite
from lewm_agent.planning.episodes import Actions, EpisodeMemory, Memories


class PolicyController(Decider):
    """Looks, executes one action block, and looks again."""

    def __init__(self, policy: GoalPolicy, low: Actions, high: Actions) -> None:
        super().__init__(policy, low, high)
        self.policy = policy

    def needs_frame(self, memory: EpisodeMemory) -> bool:
        """Not within a block."""
        return not memory.queue

    def queued(self, memories: Memories, seen: dict[int, Tensor]) -> Memories:
        """Who has no actions left gets a block."""
        return [self._with_block(m, seen[i]) if i in seen else m for i, m in enumerate(memories)]

    def _with_block(self, memory: EpisodeMemory, latent: Tensor) -> EpisodeMemory:
        block = self.policy.block(latent[None], cast(Tensor, memory.goal_latent)[None])
        require_finite(block, "an action")
        return dataclasses.replace(memory, plans=memory.plans + 1, queue=tuple(self._actions(block)))

    def _actions(self, block: Tensor) -> Actions:
        """A block (1, block_dim) as actions (frame_skip, action_dim), in the environment's units."""
        config, actions = self.policy.config, self.policy.codec.actions(block)[0].cpu().numpy()
        if config.discrete_actions:
            actions = np.eye(config.action_dim)[actions.argmax(axis=1)]
        return np.clip(actions, self.low, self.high).astype(np.float32)


class GoalPolicyAgent(ImprovingAgent[GoalPolicyConfig, GoalPolicy]):
    """GCBC, GCIVL or GCIQL (:mod:`lewm_agent.agents.rivals.goal_policy`).

    Checkpoints hold a frozen encoder too, so that they need not be kept beside the world model it came from.

    Args:
        env: as for ``LeWMAgent``.
        config: encoder, algorithm and training.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of the initial weights and of training.

    Raises:
        CheckpointError: the world model whose encoder is to be taken over cannot be had.
        ValueError: another action space, or no RGB frames.
    """

    config_type = GoalPolicyConfig

    def __init__(
        self,
        env: str | Environment | None,
        config: GoalPolicyConfig | Description,
        *,
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        if isinstance(config, GoalPolicyConfig) and config.frozen is not None:
            taken, _ = read_encoder(config.frozen)
            model = encoder_part(taken, history=1, frame_skip=config.model.frame_skip)
            config = dataclasses.replace(config, model=model)
        super().__init__(env, config, device=device, seed=seed)

    @staticmethod
    def make_model(config: GoalPolicyConfig) -> GoalPolicy:
        """Encoder, policy and values."""
        return GoalPolicy(config)

    def make_clips(self, dataset: OfflineDataset, episodes: NDArray[np.int64]) -> Clips:
        """Frames, later frames as goals, and what lies between."""
        policy = self.config.policy
        return GoalClips(dataset, episodes, self.config.model.frame_skip, policy.goals, policy.discount)

    @staticmethod
    def kind_of(config: GoalPolicyConfig) -> str:
        """Name of the algorithm."""
        return config.policy.algorithm

    @classmethod
    def accepts(cls, kind: str) -> bool:
        """Whether it is one of the algorithms."""
        return kind in get_args(Algorithm)

    @functools.cached_property
    def controller(self) -> PolicyController:
        """Acts with the present weights."""
        return PolicyController(self.model, *self._bounds)

    def about(self) -> About:
        """What sets this agent apart, for its model card and for ``lewm info``."""
        model, frozen = self.config.model, self.config.frozen
        traits = {
            "encoder": f"{model.encoder}, patch {model.patch_size}, width {model.encoder_width}"
            + (f", frozen, of {frozen}" if frozen else ""),
            "latent": f"{model.latent_dim} numbers per frame",
            "policy": f"{self.config.policy.depth} layers of {self.config.policy.width}",
        }
        sentence = "A policy that is given a goal image: it learned offline, and acts without planning."
        load = 'from lewm_agent.agents import load_agent\n\nagent = load_agent("PATH_OR_HUB_ID")'
        return About(sentence, load, traits)
