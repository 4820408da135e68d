"""SAC with hindsight (HER, arXiv 1707.01495), on states or on frames: its networks, its environment.

Networks, losses, buffer and relabelling are Stable-Baselines3's (``SAC``, ``HerReplayBuffer``). What is here is what it
has not: an environment with ``achieved_goal`` and ``desired_goal``, whose reward is 0 where the environment itself
counts the goal as reached and -1 elsewhere, and numbers scaled for the networks, with sines and cosines of angles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn, get_args

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from lewm_agent.agents.rivals.frozen import SeeingConfig, read_encoder
from lewm_agent.agents.rivals.online_run import STREAM, goal_shown
from lewm_agent.config import AgentConfig
from lewm_agent.datasets.rollout import episode_seed, steps_of
from lewm_agent.environment import Environment
from lewm_agent.evaluation.trials import Situation, Trial, present_state, wanted_state
from lewm_agent.models.encoder import Encoder
from lewm_agent.models.learner import Learner
from lewm_agent.planning.episodes import Frames
from lewm_agent.tools.checks import require, require_one_of
from lewm_agent.tools.frames import as_rgb, resized
from lewm_agent.tools.settings import require_finite, settings_from_dict, settings_to_dict
from lewm_agent.training.settings import TrainingConfig

FURTHEST = 5.0
"""Standard deviations beyond which a number is taken for that many."""
SMALLEST = 1e-6
"""Standard deviation under which a number counts as one that never changes."""
OBSERVED = ("observation", "achieved_goal", "desired_goal")
FEATURES = 64
"""Numbers that convolutions make of a frame."""
SMALLEST_FRAME = 36
"""Side in px under which nothing is left after the convolutions."""
Sight = Literal["states", "pixels"]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class SACModel(SeeingConfig):
    """Sizes of the networks."""

    history: int = 1
    sight: Sight = "states"
    """What policy and values look at. Rewards are of states in any case."""
    state_dim: int = 1
    """Numbers of a state; filled in from the environment."""
    width: int = 256
    depth: int = 2
    """Hidden layers of policy and action values, Stable-Baselines3's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("sight", self.sight, get_args(Sight))
        require(
            not self.convolves or self.image_size >= SMALLEST_FRAME,
            f"image_size must be at least {SMALLEST_FRAME}, got {self.image_size}",
        )

    @property
    def convolves(self) -> bool:
        """Whether frames go through convolutions that learn."""
        return self.sight == "pixels" and self.seen is None

    @property
    def view_bytes(self) -> int:
        """Of what is seen beside a state: a frame, or what a frozen encoder makes of it."""
        frame = self.image_size**2 * 3 if self.seen is None else 4 * self.seen.latent_dim
        return frame if self.sight == "pixels" else 0


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
    frozen: str | None = None
    """Bundled name, folder or Hub id of a world model whose encoder sees frames, and does not learn."""

    def __post_init__(self) -> None:
        require_finite(self)
        require(0 < self.discount < 1, f"discount must be in (0, 1), got {self.discount}")
        require(self.frozen is None or self.model.sight == "pixels", "an agent that looks at states takes no encoder")

    @staticmethod
    def like(base: AgentConfig, sight: Sight, frozen: str | None = None) -> SACConfig:
        """Frames as in ``base``; smaller batches where convolutions learn from them."""
        own = SACConfig(SACModel(image_size=base.model.image_size, sight=sight), frozen=frozen)
        batch = 64 if sight == "pixels" and frozen is None else own.training.batch_size
        return replace(own, training=replace(own.training, batch_size=batch))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON."""
        return settings_to_dict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> SACConfig:
        """Inverse of :meth:`to_dict`. Raises ``ValueError`` for unknown keys and wrong types."""
        return settings_from_dict(SACConfig, values)


def spaces(model: SACModel) -> gym.spaces.Dict:
    """What the buffer keeps: states and what is seen of them, :func:`packed`."""
    row = gym.spaces.Box(0, 255, (4 * model.state_dim + model.view_bytes,), np.uint8)
    return gym.spaces.Dict(dict.fromkeys(OBSERVED, row))


def packed(state: NDArray[Any], view: NDArray[Any]) -> Bytes:
    """A state (S,) and what is seen of it (...) as bytes (B,).

    A goal in hindsight is one vector, of which networks need what is seen and the reward needs the state.
    """
    parts = (np.ascontiguousarray(state, np.float32), np.ascontiguousarray(view).ravel())
    return np.concatenate([part.view(np.uint8) for part in parts])


def states_in(rows: Bytes, count: int) -> NDArray[np.float32]:
    """The states (..., count) in rows (..., B)."""
    return np.ascontiguousarray(rows[..., : 4 * count]).view(np.float32)


class GoalFeatures(BaseFeaturesExtractor):
    """What is seen, the same of the goal, and the difference: features of frames, or scaled numbers.

    States also have sine and cosine of numbers that may be angles. They count as such where they spread by less than
    pi: angles drawn from a whole turn do by 1.8.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, observation_space: gym.spaces.Dict, model: SACModel) -> None:
        size = model.state_dim if model.seen is None else model.seen.latent_dim
        features = FEATURES if model.convolves else size
        super().__init__(observation_space, (9 if model.sight == "states" else 3) * features)
        self.model = model
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        if model.convolves:
            side = model.image_size
            self.eyes = NatureCNN(gym.spaces.Box(0, 255, (3, side, side), np.uint8), FEATURES)

    def unpacked(self, rows: Tensor) -> Tensor:
        """What is seen in rows (N, B): states or latents (N, S), or bytes (N, H W 3) of frames."""
        content = rows.to(torch.uint8)
        if self.model.sight == "states":
            return content.view(torch.float32)
        view = content[:, 4 * self.model.state_dim :].contiguous()
        return view if self.model.convolves else view.view(torch.float32)

    def set_scale(self, rows: Tensor) -> None:
        """Take over mean and spread of the numbers in rows (N, B); frames have their own."""
        if not self.model.convolves:
            numbers = self.unpacked(rows)
            std = numbers.std(0)
            self.mean.copy_(numbers.mean(0))
            self.std.copy_(torch.where(std > SMALLEST, std, torch.ones_like(std)))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Rows (N, B) of the present and of the goal to features (N, F)."""
        return self.features(*(self.unpacked(observations[name]) for name in ("observation", "desired_goal")))

    def features(self, now: Tensor, goal: Tensor) -> Tensor:
        """The same of what is seen."""
        if self.model.convolves:
            now, goal = self._looked_at(now), self._looked_at(goal)
            return torch.cat([now, goal, goal - now], dim=1)
        rows = torch.stack([now, goal, goal - now])
        middle = torch.stack([self.mean, self.mean, torch.zeros_like(self.mean)])[:, None]
        scaled = ((rows - middle) / self.std).clamp(-FURTHEST, FURTHEST)
        if self.model.sight == "pixels":
            return torch.cat([*scaled], dim=1)
        turns = (self.std < math.pi) * torch.cat([rows.sin(), rows.cos()])
        return torch.cat([*scaled, *turns], dim=1)

    def _looked_at(self, frames: Tensor) -> Tensor:
        side = self.model.image_size
        seen: Tensor = self.eyes(frames.unflatten(1, (side, side, 3)).permute(0, 3, 1, 2).float() / 255)
        return seen


class Networks(SACPolicy):
    """Stable-Baselines3's, which can also be laid out without memory, to see whether weights fit."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are or, as long as there are none, where they will be made."""
        return next((parameter.device for parameter in self.parameters()), torch.empty(0).device)


def policy_settings(model: SACModel) -> dict[str, Any]:
    """How Stable-Baselines3 makes the networks."""
    return {
        "net_arch": [model.width] * model.depth,
        "features_extractor_class": GoalFeatures,
        "features_extractor_kwargs": {"model": model},
    }


class SACHER(Learner):
    """What is seen, and of the goal, to actions in [-1, 1] and what they are worth: Stable-Baselines3's networks."""

    def __init__(self, config: SACConfig) -> None:
        super().__init__(config.model)
        self.settings = config
        seen = config.model.seen
        self.encoder: nn.Module = nn.Flatten() if seen is None else Encoder(seen).requires_grad_(False)
        rate, actions = config.training.learning_rate, gym.spaces.Box(-1, 1, (config.model.action_dim,), np.float32)
        self.policy: SACPolicy = Networks(
            spaces(config.model), actions, lambda _: rate, **policy_settings(config.model)
        )

    @property
    def config(self) -> SACModel:
        """Sizes."""
        return self.settings.model

    def fetch(self) -> None:
        """Fill a frozen encoder with its world model's weights. Raises ``CheckpointError``."""
        if self.settings.frozen is not None:
            self.encoder.load_state_dict(read_encoder(self.settings.frozen)[1])

    def encode(self, frames: Tensor) -> Tensor:
        """States (..., S) as they are; frames (..., H, W, 3) in a row, or what a frozen encoder makes of them."""
        return frames.float() if self.config.sight == "states" else super().encode(frames)

    @torch.no_grad()
    def view(self, frame: Frames) -> NDArray[Any]:
        """What is kept of a frame (H, W, 3)."""
        view: NDArray[Any] = self.encode(torch.as_tensor(frame[None]).to(self.action_mean.device))[0].cpu().numpy()
        return view

    def action(self, seen: Tensor, goal: Tensor) -> Tensor:
        """The middle (A,) of the policy, in [-1, 1], for latents (S,) of the present and of the goal."""
        actor = self.policy.actor
        extractor = actor.features_extractor
        assert isinstance(extractor, GoalFeatures)
        mean: Tensor = actor.mu(actor.latent_pi(extractor.features(seen[None], goal[None])))
        return mean.tanh()[0]

    def set_scale(self, rows: Tensor) -> None:
        """Scale all networks' inputs by rows (N, B) of :func:`packed`."""
        for module in self.policy.modules():
            if isinstance(module, GoalFeatures):
                module.set_scale(rows)

    def loss(self, batch: Any) -> NoReturn:
        """Refuse: the losses are Stable-Baselines3's own, of transitions in its own buffer."""
        raise TypeError("sac_her learns by Stable-Baselines3's own steps (learn_online), not from batches")


def told_size(env: Environment) -> int:
    """How many numbers an environment tells of its state, for hindsight.

    Raises:
        ValueError: it does not tell its state or its goal in numbers, or not which states would reach which goals.
    """
    require(
        env.has_wrapper_attr("reached"),
        f"{env.unwrapped} does not say whether a state reaches a goal, which hindsight rewards need: give it a "
        "method reached(states, goals), (N, S) and (N, S) to (N,) truth values",
    )
    return wanted_state(Situation(env, *env.reset(seed=0)), Trial()).size


class HindsightEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment as HER asks for it: present and goal apart, and a reward of any state and any goal.

    Its reward is 0 where the environment counts the goal as reached and -1 elsewhere. An episode that the environment
    ends counts as cut off: in hindsight its goal was another one, at which nothing ended.

    Args:
        env: tells ``info["state"]`` and ``info["goal_state"]`` (S,), and has ``reached(states, goals)``.
        model: sizes, and whether frames are seen.
        view: what is kept of a frame (H, W, 3); not asked for where none are seen.
        seed: of the episodes, each of which has its own.

    Attributes:
        number: episodes begun.
        taken: environment steps.
    """

    def __init__(self, env: Environment, model: SACModel, view: Callable[[Frames], NDArray[Any]], seed: int) -> None:
        super().__init__(env)
        self._reached = env.get_wrapper_attr("reached")
        self._model, self._view, self._seed, self.number, self.taken = model, view, seed, 0, 0
        self.observation_space = spaces(model)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Bytes], dict[str, Any]]:
        """Begin the next episode; its seed is that of its number, whatever is given."""
        began = Situation(self.env, *self.env.reset(seed=episode_seed(self._seed, self.number, STREAM)))
        self.number, self._steps = self.number + 1, steps_of(self.env)
        self._goal = self._packed(wanted_state(began, Trial()), lambda: goal_shown(began))
        return self._told(began), {}

    def step(self, action: Any) -> tuple[dict[str, Bytes], float, bool, bool, dict[str, Any]]:
        """Take an action as often as it is repeated."""
        for _ in range(self._model.frame_skip):
            next(self._steps)
            observation, _, terminated, truncated, info = self.env.step(action)
            self.taken += 1
            if over := terminated or truncated:
                break
        now = self._told(Situation(self.env, observation, info))
        reward = float(self.compute_reward(now["achieved_goal"], now["desired_goal"], {}))
        return now, reward, False, bool(over), {"is_success": reward == 0}

    def compute_reward(self, achieved: Bytes, desired: Bytes, info: Any) -> NDArray[np.float32]:
        """0 where states reach goals, -1 elsewhere, of rows (..., B) of :func:`packed`."""
        states, goals = (states_in(rows, self._model.state_dim) for rows in (achieved, desired))
        return np.asarray(self._reached(states, goals), np.float32) - 1

    def _told(self, situation: Situation) -> dict[str, Bytes]:
        now = self._packed(present_state(situation), self.env.render)
        return dict(zip(OBSERVED, (now, now, self._goal), strict=True))

    def _packed(self, state: NDArray[np.float64], picture: Callable[[], Any]) -> Bytes:
        if self._model.sight == "states":
            return packed(state, np.empty(0, np.uint8))
        return packed(state, self._view(resized(as_rgb(np.asarray(picture())), self._model.image_size)))
