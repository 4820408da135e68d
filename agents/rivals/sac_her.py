"""SAC with hindsight (HER, arXiv 1707.01495) on states: the networks, and the environment as it asks for it.

Networks, losses, buffer and relabelling are Stable-Baselines3's (``SAC``, ``HerReplayBuffer``). What is here is what it
has not: an environment with ``achieved_goal`` and ``desired_goal``, whose reward is 0 where the environment itself
counts the goal as reached and -1 elsewhere, and numbers scaled for the networks, with sines and cosines of angles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from lewm_agent.agents.rivals.online_run import STREAM
from lewm_agent.config import AgentConfig
from lewm_agent.datasets.rollout import episode_seed
from lewm_agent.environment import Environment
from lewm_agent.evaluation.trials import Situation, Trial, present_state, wanted_state
from lewm_agent.models.clip import ClipConfig
from lewm_agent.models.learner import Learner
from lewm_agent.tools.checks import require
from lewm_agent.tools.settings import require_finite, settings_from_dict, settings_to_dict
from lewm_agent.training.settings import TrainingConfig

FURTHEST = 5.0
"""Standard deviations beyond which a number is taken for that many."""
SMALLEST = 1e-6
"""Standard deviation under which a number counts as one that never changes."""
OBSERVED = ("observation", "achieved_goal", "desired_goal")


@dataclass(frozen=True)
class SACModel(ClipConfig):
    """Sizes of the networks."""

    frame_skip: int = 2
    """Environment steps that an action is repeated for, as TD-MPC2 does."""
    history: int = 1
    state_dim: int = 1
    """Numbers of a state; filled in from the environment."""
    width: int = 256
    depth: int = 2
    """Hidden layers of policy and action values, Stable-Baselines3's."""


@dataclass(frozen=True)
class SACConfig:
    """SAC with HER. Of ``training``, batch size and learning rate count.

    Learning rate, batch size and relabelled goals are those of RL Baselines3 Zoo for reaching with an arm (``her.yml``,
    FetchReach).
    """

    model: SACModel = field(default_factory=SACModel)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(batch_size=256, learning_rate=1e-3))
    discount: float = 0.97
    """Of rewards, for each decision; TD-MPC2's here."""
    relabelled: int = 4
    """Goals in hindsight for each that was meant, from later in the same episode (``future``)."""

    def __post_init__(self) -> None:
        require_finite(self)
        require(0 < self.discount < 1, f"discount must be in (0, 1), got {self.discount}")

    @staticmethod
    def like(base: AgentConfig) -> SACConfig:
        """Frames, which are drawn but not looked at, as in ``base``."""
        own = SACConfig()
        return replace(own, model=replace(own.model, image_size=base.model.image_size))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON."""
        return settings_to_dict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> SACConfig:
        """Inverse of :meth:`to_dict`. Raises ``ValueError`` for unknown keys and wrong types."""
        return settings_from_dict(SACConfig, values)


def spaces(model: SACModel) -> gym.spaces.Dict:
    """What the networks observe."""
    numbers = gym.spaces.Box(-np.inf, np.inf, (model.state_dim,), np.float32)
    return gym.spaces.Dict(dict.fromkeys(OBSERVED, numbers))


class GoalFeatures(BaseFeaturesExtractor):
    """State, goal and what lies between: each scaled, and with sine and cosine where numbers may be angles.

    Numbers count as such where they spread by less than pi: angles drawn from a whole turn do by 1.8.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, observation_space: gym.spaces.Dict) -> None:
        (size,) = observation_space["observation"].shape or (0,)
        super().__init__(observation_space, 9 * size)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def set_scale(self, states: Tensor) -> None:
        """Take over mean and spread of states (N, S)."""
        std = states.std(0)
        self.mean.copy_(states.mean(0))
        self.std.copy_(torch.where(std > SMALLEST, std, torch.ones_like(std)))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """States and goals (N, S) to features (N, 9 S)."""
        now, goal = observations["observation"], observations["desired_goal"]
        rows = torch.stack([now, goal, goal - now])
        middle = torch.stack([self.mean, self.mean, torch.zeros_like(self.mean)])[:, None]
        scaled = ((rows - middle) / self.std).clamp(-FURTHEST, FURTHEST)
        turns = (self.std < math.pi) * torch.cat([rows.sin(), rows.cos()])
        return torch.cat([*scaled, *turns], dim=1)


class Networks(SACPolicy):
    """Stable-Baselines3's, which can also be laid out without memory, to see whether weights fit."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are or, as long as there are none, where they will be made."""
        return next((parameter.device for parameter in self.parameters()), torch.empty(0).device)


def policy_settings(model: SACModel) -> dict[str, Any]:
    """How Stable-Baselines3 makes the networks."""
    return {"net_arch": [model.width] * model.depth, "features_extractor_class": GoalFeatures}


class SACHER(Learner):
    """States and goals to actions in [-1, 1], and what they are worth: Stable-Baselines3's networks."""

    def __init__(self, config: SACConfig) -> None:
        super().__init__(config.model)
        self.settings = config
        self.encoder = nn.Flatten()
        rate, actions = config.training.learning_rate, gym.spaces.Box(-1, 1, (config.model.action_dim,), np.float32)
        self.policy: SACPolicy = Networks(
            spaces(config.model), actions, lambda _: rate, **policy_settings(config.model)
        )

    @property
    def config(self) -> SACModel:
        """Sizes."""
        return self.settings.model

    def encode(self, frames: Tensor) -> Tensor:
        """States (..., S) as they are."""
        return frames.float()

    def action(self, state: Tensor, goal: Tensor) -> Tensor:
        """The middle (A,) of the policy, in [-1, 1], for a state (S,) and a goal (S,)."""
        actor, observed = self.policy.actor, {"observation": state[None], "desired_goal": goal[None]}
        mean: Tensor = actor.mu(actor.latent_pi(actor.features_extractor(observed)))
        return mean.tanh()[0]

    def set_scale(self, states: Tensor) -> None:
        """Scale all networks' inputs by states (N, S)."""
        for module in self.policy.modules():
            if isinstance(module, GoalFeatures):
                module.set_scale(states)

    def loss(self, batch: Any) -> NoReturn:
        """Refuse: the losses are Stable-Baselines3's own, of transitions in its own buffer."""
        raise TypeError("sac_her learns by Stable-Baselines3's own steps (learn_online), not from batches")


class HindsightEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment as HER asks for it: states and goals apart, and a reward of any state and any goal.

    Its reward is 0 where the environment counts the goal as reached and -1 elsewhere. An episode that the environment
    ends counts as cut off: in hindsight its goal was another one, at which nothing ended.

    Args:
        env: tells ``info["state"]`` and ``info["goal_state"]`` (S,), and has ``reached(states, goals)``.
        repeats: environment steps that an action is repeated for.
        seed: of the episodes, each of which has its own.

    Attributes:
        number: episodes begun.
        taken: environment steps.

    Raises:
        ValueError: it does not tell its state or its goal in numbers, or not which states would reach which goals.
    """

    def __init__(self, env: Environment, repeats: int, seed: int) -> None:
        super().__init__(env)
        require(
            env.has_wrapper_attr("reached"),
            f"{env.unwrapped} does not say whether a state reaches a goal, which hindsight rewards need: give it a "
            "method reached(states, goals), (N, S) and (N, S) to (N,) truth values",
        )
        self._reached = env.get_wrapper_attr("reached")
        self._repeats, self._seed, self.number, self.taken = repeats, seed, 0, 0
        self.state_dim = len(told(env.reset(seed=seed), env)["observation"])
        self.observation_space = spaces(SACModel(state_dim=self.state_dim))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Begin the next episode; its seed is that of its number, whatever is given."""
        began = self.env.reset(seed=episode_seed(self._seed, self.number, STREAM))
        self.number += 1
        return told(began, self.env), {}

    def step(self, action: Any) -> tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]:
        """Take an action as often as it is repeated."""
        for _ in range(self._repeats):
            observation, _, terminated, truncated, info = self.env.step(action)
            self.taken += 1
            if over := terminated or truncated:
                break
        now = told((observation, info), self.env)
        reward = float(self.compute_reward(now["achieved_goal"], now["desired_goal"], {}))
        return now, reward, False, bool(over), {"is_success": reward == 0}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> NDArray[np.float32]:
        """0 where states (..., S) reach goals (..., S), -1 elsewhere."""
        return np.asarray(self._reached(achieved, desired), np.float32) - 1


def told(happened: tuple[Any, dict[str, Any]], env: Environment) -> dict[str, NDArray[np.float32]]:
    """State and goal (S,) after a reset or a step. Raises ``ValueError`` where they are not told, or not alike."""
    situation = Situation(env, *happened)
    state, goal = present_state(situation), wanted_state(situation, Trial())
    return dict(zip(OBSERVED, np.array([state, state, goal], np.float32), strict=True))
