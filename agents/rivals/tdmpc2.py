"""TD-MPC2 (arXiv 2310.16828) with a goal image: the model, and what it learns from rewards.

Latents are what is needed to tell rewards and their discounted sum, and to go on from there without looking. From the
paper and its released configuration (nicklashansen/tdmpc2 ``config.yaml``, ``common/``) come SimNorm, the losses and
their weights, five action values of which two are drawn, two-hot numbers on a symlog scale, the policy prior and its
scale, and all constants that have no size. What differs here:

- The picture of the goal is part of the observation: frames and goal go through the same convolutions, and what they
  show is put side by side before the layers that make a latent. The episodes end at the goal where the environment says
  so, and nothing comes after.
- ``frozen``: the encoder of a trained world model takes the place of the convolutions and does not learn. The original
  has no such thing; it makes a step so cheap that two cores come far.
- Presets for two cores have smaller layers and shorter searches (:meth:`TDMPC2Config.like`).
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lewm_agent.agents.rivals.frozen import SeeingConfig, read_encoder
from lewm_agent.config import AgentConfig
from lewm_agent.models.encoder import Encoder
from lewm_agent.models.learner import Learner, Loss
from lewm_agent.tools.checks import require
from lewm_agent.tools.settings import require_finite, settings_from_dict, settings_to_dict
from lewm_agent.training.settings import TrainingConfig

LOWEST, HIGHEST = -10.0, 10.0
"""Of numbers on the symlog scale."""
CONSISTENCY, REWARD, VALUE = 20.0, 0.1, 0.1
"""Weights of the losses."""
LATER = 0.5
"""Weight of each further step of a sequence, to that of the step before."""
ENTROPY = 1e-4
LOG_STD = (-10.0, 2.0)
TARGET_SHARE, SCALE_SHARE = 0.01, 0.01
"""How far the target's values, and the scale of values, go towards the new ones after a step."""
ENCODER_RATE = 0.3
"""Learning rate of what sees, to that of the rest."""
SHIFT = 3
"""Pixels by which the pictures of a sequence are shifted at random, at most."""


@dataclass(frozen=True)
class TDMPC2Model(SeeingConfig):
    """Sizes of the model. The defaults are those of the paper's 5M parameters."""

    channels: int = 32
    """Of the four convolutions."""
    encoder_width: int = 256
    width: int = 512
    latent_dim: int = 512
    group: int = 8
    """Numbers of a latent that are positive and add up to 1 (SimNorm)."""
    bins: int = 101
    """Of rewards and values, on the symlog scale."""
    values: int = 5
    value_dropout: float = 0.01

    def __post_init__(self) -> None:
        for name in ("channels", "encoder_width", "width", "latent_dim", "group"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.values >= 2, f"values must be at least 2, of which two are drawn, got {self.values}")
        require(self.bins >= 2, f"bins must be at least 2, got {self.bins}")
        require(0 <= self.value_dropout < 1, f"value_dropout must be in [0, 1), got {self.value_dropout}")
        require(self.latent_dim % self.group == 0, f"group ({self.group}) must divide latent_dim ({self.latent_dim})")
        require(
            self.image_size >= 32 or self.seen is not None, f"image_size must be at least 32, got {self.image_size}"
        )


@dataclass(frozen=True)
class TDMPC2Planner:
    """The search over sequences of actions (MPPI). The defaults are the released ones."""

    horizon: int = 3
    """Also the length of the sequences that are learned from."""
    iterations: int = 6
    samples: int = 512
    elites: int = 64
    policy_samples: int = 24
    """Of the samples, those that the policy makes."""
    min_std: float = 0.05
    max_std: float = 2.0
    temperature: float = 0.5

    def __post_init__(self) -> None:
        for name in ("horizon", "iterations", "elites"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(
            0 <= self.policy_samples < self.samples >= self.elites,
            f"samples ({self.samples}) must be at least elites ({self.elites}) and more than policy_samples "
            f"({self.policy_samples}), which must not be negative",
        )
        require(
            0 < self.min_std <= self.max_std and self.temperature > 0,
            f"min_std ({self.min_std}) must be positive and at most max_std ({self.max_std}), and temperature "
            f"({self.temperature}) positive",
        )


@dataclass(frozen=True)
class TDMPC2Config:
    """A TD-MPC2 agent. Of ``training``, batch size, learning rate and gradient clip count."""

    model: TDMPC2Model = field(default_factory=TDMPC2Model)
    planner: TDMPC2Planner = field(default_factory=TDMPC2Planner)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(batch_size=256, learning_rate=3e-4, gradient_clip=20.0)
    )
    discount: float = 0.97
    """Of rewards, for each decision."""
    frozen: str | None = None
    """Bundled name, folder or Hub id of a world model whose encoder sees, and does not learn."""

    def __post_init__(self) -> None:
        require_finite(self)
        require(0 < self.discount < 1, f"discount must be in (0, 1), got {self.discount}")

    @staticmethod
    def like(base: AgentConfig, frozen: str | None = None) -> TDMPC2Config:
        """Frames as in ``base``; the released sizes where these are the paper's, and small ones otherwise."""
        own = TDMPC2Config(frozen=frozen)
        if base.model.image_size >= 224:
            return replace(own, model=replace(own.model, image_size=base.model.image_size))
        sizes: dict[str, Any] = {"channels": 16, "encoder_width": 128, "width": 128, "latent_dim": 128}
        return replace(
            own,
            model=replace(own.model, image_size=base.model.image_size, **sizes),
            planner=replace(own.planner, iterations=4, samples=128, elites=16, policy_samples=8),
            training=replace(own.training, batch_size=64),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON."""
        return settings_to_dict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> TDMPC2Config:
        """Inverse of :meth:`to_dict`. Raises ``ValueError`` for unknown keys and wrong types."""
        return settings_from_dict(TDMPC2Config, values)


class Sequences(NamedTuple):
    """What TD-MPC2 learns from: sequences of H decisions.

    Attributes:
        seen: (B, history + H, H_px, W_px, 3) uint8, frames up to the first decision and those after each; or what a
            frozen encoder makes of them, (B, history + H, F) float32.
        goals: (B, H_px, W_px, 3) uint8 or (B, F) float32.
        actions: (B, H, A), in [-1, 1].
        rewards: (B, H), of each decision.
        ended: (B, H) bool, whether the episode had ended after it, at its goal.
    """

    seen: Tensor
    goals: Tensor
    actions: Tensor
    rewards: Tensor
    ended: Tensor


class SimNorm(nn.Module):
    """Softmax within groups."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return x.unflatten(-1, (-1, self.group)).softmax(-1).flatten(-2)


def perceptron(sizes: list[int], last: nn.Module | None = None, dropout: float = 0.0) -> nn.Sequential:
    """Linear, LayerNorm, Mish for each layer; the last is linear alone, or normalised and followed by ``last``."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes), start=1):
        final = number == len(sizes) - 1
        layers.append(nn.Linear(inputs, outputs))
        if number == 1 and dropout:
            layers.append(nn.Dropout(dropout))
        if not final or last is not None:
            layers += [nn.LayerNorm(outputs), last if final and last is not None else nn.Mish()]
    return nn.Sequential(*layers)


class _Convolutions(nn.Module):
    """Pictures (B, H, W, 3) uint8 to features (B, F), as TD-MPC2 sees 64 x 64 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inputs = [3, channels, channels, channels]
        layers: list[nn.Module] = []
        for width, (kernel, stride) in zip(inputs, [(7, 2), (5, 2), (3, 2), (3, 1)], strict=True):
            layers += [nn.Conv2d(width, channels, kernel, stride), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1], nn.Flatten())

    def forward(self, frames: Tensor) -> Tensor:
        """Without the last ReLU, whose place SimNorm takes after the layers that follow."""
        features: Tensor = self.layers(frames.permute(0, 3, 1, 2).float().div(255).sub(0.5))
        return features


class TDMPC2(Learner):
    """Observations to latents; latents and actions to the next latent, rewards and values; latents to actions.

    The statistics of actions are the middle and half the width of their bounds, so that a normalised one is in [-1, 1].
    """

    def __init__(self, config: TDMPC2Config) -> None:
        super().__init__(config.model)
        self.settings, model = config, config.model
        frozen = None if model.seen is None else Encoder(model.seen).requires_grad_(False)
        self.encoder: nn.Module = _Convolutions(model.channels) if frozen is None else frozen
        with torch.no_grad():
            side = model.image_size
            features = self.encoder.eval()(torch.zeros(1, side, side, 3, dtype=torch.uint8)).flatten(1).shape[1]
        latent, action, width = model.latent_dim, model.action_dim, model.width
        self.observer = perceptron([features * (model.history + 1), model.encoder_width, latent], SimNorm(model.group))
        self.dynamics = perceptron([latent + action, width, width, latent], SimNorm(model.group))
        self.reward = perceptron([latent + action, width, width, model.bins])
        self.policy = perceptron([latent, width, width, 2 * action])
        sizes = [latent + action, width, width, model.bins]
        self.values = nn.ModuleList(perceptron(sizes, dropout=model.value_dropout) for _ in range(model.values))
        self._begin_small()
        self.target_values = copy.deepcopy(self.values).requires_grad_(False)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("bins", torch.linspace(LOWEST, HIGHEST, model.bins), persistent=False)

    scale: Tensor
    bins: Tensor

    def _begin_small(self) -> None:
        """Truncated normal weights, and rewards and values that begin at 0."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear) and layer not in list(self.encoder.modules()):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        for head in (self.reward, *self.values):
            last = list(head.children())[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)

    @property
    def config(self) -> TDMPC2Model:
        """Sizes."""
        return self.settings.model

    def train(self, mode: bool = True) -> TDMPC2:
        """Switch dropout and the shifting of pictures; a frozen encoder and the target always evaluate."""
        super().train(mode)
        self.target_values.eval()
        if self.config.seen is not None:
            self.encoder.eval()
        return self

    def fetch(self) -> None:
        """Fill a frozen encoder with its world model's weights. Raises ``CheckpointError``."""
        if self.settings.frozen is not None:
            self.encoder.load_state_dict(read_encoder(self.settings.frozen)[1])

    # --- what is told of latents --------------------------------------------------------------------------------------

    def latent(self, seen: Tensor, goals: Tensor) -> Tensor:
        """Features of the last frames (B, history, F) and of goals (B, F) to latents (B, latent_dim)."""
        z: Tensor = self.observer(torch.cat([seen.flatten(1), goals], dim=1))
        return z

    def following(self, z: Tensor, actions: Tensor) -> Tensor:
        """The latents after actions (B, A) in [-1, 1]."""
        after: Tensor = self.dynamics(torch.cat([z, actions], dim=-1))
        return after

    def expected_reward(self, z: Tensor, actions: Tensor) -> Tensor:
        """(B,), in the environment's unit."""
        return self._number(self.reward(torch.cat([z, actions], dim=-1)))

    def chosen(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B, A) drawn from the policy, in (-1, 1), and their log-likelihoods (B,)."""
        mean, raw = self.policy(z).chunk(2, dim=-1)
        low, high = LOG_STD
        log_std = low + 0.5 * (high - low) * (raw.tanh() + 1)
        noise = torch.randn_like(mean)
        likelihood = (-0.5 * noise.square() - log_std - 0.9189385332046727).sum(-1)
        actions = (mean + noise * log_std.exp()).tanh()
        return actions, likelihood - (1 - actions.square()).clamp(min=0).add(1e-6).log().sum(-1)

    def value_of(self, z: Tensor, actions: Tensor, *, target: bool = False, least: bool = False) -> Tensor:
        """Mean, or least, of two action values (B,) that are drawn, in the environment's unit."""
        every = self.target_values if target else self.values
        drawn = torch.randperm(len(every))[:2].tolist()
        inputs = torch.cat([z, actions], dim=-1)
        pair = torch.stack([self._number(every[number](inputs)) for number in drawn])
        return pair.amin(0) if least else pair.mean(0)

    def _number(self, logits: Tensor) -> Tensor:
        scaled = (logits.softmax(-1) * self.bins).sum(-1)
        return scaled.sign() * (scaled.abs().exp() - 1)

    def _two_hot(self, numbers: Tensor) -> Tensor:
        """Numbers (B,) as weights (B, bins) of the two bins beside them."""
        scaled = (numbers.sign() * numbers.abs().log1p()).clamp(LOWEST, HIGHEST)
        place = (scaled - LOWEST) / (HIGHEST - LOWEST) * (len(self.bins) - 1)
        return (1 - (place[:, None] - torch.arange(len(self.bins), device=place.device)).abs()).clamp(min=0)

    def _cross_entropy(self, logits: Tensor, numbers: Tensor) -> Tensor:
        return -(self._two_hot(numbers) * logits.log_softmax(-1)).sum(-1)

    # --- learning -----------------------------------------------------------------------------------------------------

    def loss(self, batch: Sequences) -> Loss:
        """What model and values learn from sequences; ``latents`` (B, H + 1, latent_dim) are those gone through."""
        features, goals = self._features(batch)
        history, steps = self.config.history, batch.actions.shape[1]
        with torch.no_grad():
            windows = features.unfold(1, history, 1)[:, 1:].transpose(2, 3).flatten(0, 1)
            after = self.latent(windows, goals.repeat_interleave(steps, 0))
            worth = self.value_of(after, self.chosen(after)[0], target=True, least=True).unflatten(0, (-1, steps))
            targets = batch.rewards + self.settings.discount * (~batch.ended) * worth
        gone = [self.latent(features[:, :history], goals)]
        for t in range(steps):
            gone.append(self.following(gone[-1], batch.actions[:, t]))
        latents = torch.stack(gone, dim=1)
        pairs = torch.cat([latents[:, :-1], batch.actions], dim=-1).flatten(0, 1)
        later = (LATER ** torch.arange(steps, device=pairs.device)).repeat(len(goals)) / len(pairs)
        errors = [self._cross_entropy(value(pairs), targets.flatten()) for value in self.values]
        missed = (latents[:, 1:].flatten(0, 1) - after).square().mean(-1)
        terms = {
            "consistency": (later * missed).sum(),
            "reward": (later * self._cross_entropy(self.reward(pairs), batch.rewards.flatten())).sum(),
            "value": (later * torch.stack(errors).mean(0)).sum(),
        }
        total = CONSISTENCY * terms["consistency"] + REWARD * terms["reward"] + VALUE * terms["value"]
        return Loss(total, terms, latents)

    def _features(self, batch: Sequences) -> tuple[Tensor, Tensor]:
        """Of frames (B, T, F) and goals (B, F); in training of pictures that are shifted, all of a sequence alike."""
        if batch.seen.is_floating_point():
            return batch.seen, batch.goals
        pictures = torch.cat([batch.seen, batch.goals[:, None]], dim=1)
        if self.training:
            pictures = shifted(pictures, SHIFT)
        features = self.encode(pictures)
        return features[:, :-1], features[:, -1]

    def policy_loss(self, latents: Tensor) -> Tensor:
        """What the policy learns at latents (B, T, latent_dim): large values, on their present scale, and entropy."""
        flat = latents.detach().flatten(0, 1)
        actions, likelihood = self.chosen(flat)
        worth = self.value_of(flat, actions)
        spread = torch.quantile(worth.detach()[:: latents.shape[1]], torch.tensor([0.05, 0.95], device=worth.device))
        self.scale.lerp_((spread[1] - spread[0]).clamp(min=1.0), SCALE_SHARE)
        each = (ENTROPY * likelihood - worth / self.scale).unflatten(0, latents.shape[:2]).mean(0)
        later = LATER ** torch.arange(latents.shape[1], device=each.device)
        return (each * later).mean()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Let the target's values follow."""
        for followed, following in zip(self.values.parameters(), self.target_values.parameters(), strict=True):
            following.lerp_(followed, TARGET_SHARE)


def shifted(pictures: Tensor, most: int) -> Tensor:
    """Pictures (B, T, H, W, 3) moved by at most so many pixels, those of a row alike; edges are repeated."""
    count, _, height, width, _ = pictures.shape
    up, left = torch.randint(-most, most + 1, (2, count, 1), device=pictures.device)
    rows = (torch.arange(height, device=pictures.device) + up).clamp(0, height - 1)
    columns = (torch.arange(width, device=pictures.device) + left).clamp(0, width - 1)
    number = torch.arange(count, device=pictures.device)[:, None, None]
    moved = pictures.transpose(1, 2).transpose(2, 3)[number, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2, 4)
