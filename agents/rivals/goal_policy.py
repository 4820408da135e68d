"""Goal-conditioned policies learned offline: behavioural cloning, and two that also learn values.

``gcbc`` clones the actions that led to a later frame (Ghosh et al. 2019, arXiv 1912.06088). ``gcivl`` learns by
expectile regression how soon goals are reached, and clones actions more the more they gain (the value of HIQL, arXiv
2307.11949, in the form of OGBench, arXiv 2410.20092). ``gciql`` also learns the value of actions (implicit Q-learning,
arXiv 2110.06169).

Goals, discount, expectile, weights and teacher are those of the comparison in arXiv 2603.19312 (stable-worldmodel
``wm/gcrl``, ``scripts/train/gc*.py``). What differs here:

- The encoder has LeWM's sizes, and a perceptron reads the latents of frame and goal; there, transformers read the
  patches of a frozen DINOv2.
- One frame is seen, not three, and actions are predicted in blocks, because some datasets have only every
  ``frame_skip``-th frame. Reward and discount count blocks.
- Value and policy learn in one run, and both train a learning encoder; cloning weights are divided by their mean, so
  that neither drowns the other. The teacher is a slow copy of the value's last layers alone, on latents of the learning
  encoder, as in DrQ-v2 (arXiv 2107.09645).
- A goal counts as reached where it is the very same frame of the data, not where its pixels are equal.
- GCIQL's policy follows the advantage Q(s, a, g) - V(s, g) of the paper; the released code takes V(s', g) - V(s, g), as
  for GCIVL, and so never uses its Q.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lewm_agent.agents.rivals.frozen import encoder_part, read_encoder
from lewm_agent.config import AgentConfig
from lewm_agent.datasets.batch import GoalBatch
from lewm_agent.datasets.goals import GoalMixture
from lewm_agent.models import whole_batch
from lewm_agent.models.encoder import Encoder, EncoderConfig
from lewm_agent.models.learner import Learner, Loss
from lewm_agent.tools.checks import require, require_one_of
from lewm_agent.tools.settings import require_finite, settings_from_dict, settings_to_dict
from lewm_agent.training.settings import TrainingConfig

Algorithm = Literal["gcbc", "gcivl", "gciql"]

CLONING_GOALS = GoalMixture(uniform=1.0)
VALUE_GOALS = GoalMixture(random=0.3, geometric=0.5, current=0.2)
POLICY_GOALS = GoalMixture(random=0.5, uniform=0.5)
"""Of GCBC, of values, and of the policies that follow them (``GoalDataset`` in ``scripts/train/gc*.py``)."""
LARGEST_WEIGHT = 100.0
"""Of one action in advantage-weighted cloning."""
LOG_STD_RANGE = (-5.0, 2.0)
"""Of the policy's logarithmic standard deviations."""


@dataclass(frozen=True)
class PolicyConfig:
    """Which algorithm, and its constants; GCBC uses only the sizes."""

    algorithm: Algorithm = "gcbc"
    width: int = 512
    depth: int = 3
    """Hidden layers of policy, value and action value (512 x 3 as in OGBench)."""
    discount: float = 0.95
    """Per action block: 0.99 per step, over five steps."""
    expectile: float = 0.9
    advantage_weight: float = 3.0
    """Logarithm of how much more an action is cloned per block that it saves; 10 in GCIQL."""
    teacher_decay: float = 0.995
    """Of the exponential moving average that is the teacher, per optimisation step."""

    def __post_init__(self) -> None:
        require_one_of("algorithm", self.algorithm, get_args(Algorithm))
        for name in ("width", "depth"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("discount", "expectile", "teacher_decay"):
            require(0 < getattr(self, name) < 1, f"{name} must be in (0, 1), got {getattr(self, name)}")
        require(self.advantage_weight >= 0, f"advantage_weight must not be negative, got {self.advantage_weight}")

    @property
    def goals(self) -> tuple[GoalMixture, ...]:
        """Of value and policy, or of the policy alone."""
        return (CLONING_GOALS,) if self.algorithm == "gcbc" else (VALUE_GOALS, POLICY_GOALS)


@dataclass(frozen=True)
class GoalPolicyConfig:
    """A goal-conditioned policy: encoder, algorithm, training.

    The originals train with learning rate 1e-4 (GCBC) and 3e-4.
    """

    model: EncoderConfig = field(default_factory=lambda: EncoderConfig(history=1))
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    frozen: str | None = None
    """Bundled name, folder or Hub id of a world model whose encoder is taken over and not trained; its sizes replace
    those in ``model``. None: the encoder learns with the policy."""

    def __post_init__(self) -> None:
        require_finite(self)
        require(
            self.model.history == 1, f"a policy sees one frame, so model.history must be 1, got {self.model.history}"
        )

    @staticmethod
    def like(base: AgentConfig, algorithm: Algorithm) -> GoalPolicyConfig:
        """Encoder and training as in ``base``."""
        policy = PolicyConfig(algorithm, advantage_weight=10.0 if algorithm == "gciql" else 3.0)
        return GoalPolicyConfig(encoder_part(base.model, history=1), policy, base.training)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON."""
        return settings_to_dict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> GoalPolicyConfig:
        """Inverse of :meth:`to_dict`. Raises ``ValueError`` for unknown keys and wrong types."""
        return settings_from_dict(GoalPolicyConfig, values)


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Mean of |expectile - 1(difference < 0)| * difference^2, for differences target - value of any shape."""
    weight = torch.where(difference < 0, 1 - expectile, expectile)
    return (weight * difference.square()).mean()


def cloning_weights(advantage: Tensor, advantage_weight: float) -> Tensor:
    """How much each action (B,) is cloned: exp(weight * advantage), at most 100, over the mean of that.

    Dividing by the mean only sets the step of a policy trained alone; beside a value, on an encoder that both train, it
    keeps either from drowning the other.
    """
    weights = (advantage_weight * advantage.detach()).exp().clamp(max=LARGEST_WEIGHT)
    return weights / whole_batch.mean(weights.mean())


class _Head(nn.Module):
    """Vectors side by side to one vector or, with one output, to one number each."""

    def __init__(self, inputs: int, outputs: int, config: PolicyConfig) -> None:
        sizes = [inputs, *[config.width] * config.depth]
        layers: list[nn.Module] = []
        for size, following in itertools.pairwise(sizes):
            layers += [nn.Linear(size, following), nn.LayerNorm(following), nn.GELU()]
        super().__init__()
        self.layers = nn.Sequential(*layers, nn.Linear(config.width, outputs))

    def forward(self, *vectors: Tensor) -> Tensor:
        """Vectors (B, ...) to (B, outputs), or (B,) if there is one."""
        out: Tensor = self.layers(torch.cat(vectors, dim=-1))
        return out.squeeze(-1)


class GoalPolicy(Learner):
    """Latents of a frame and of a goal to an action block; values beside it where the algorithm has them."""

    def __init__(self, config: GoalPolicyConfig) -> None:
        super().__init__(config.model)
        self.settings = config
        policy, latent, block = config.policy, config.model.latent_dim, config.model.block_dim
        self.encoder: Encoder = Encoder(config.model).requires_grad_(config.frozen is None)
        self.actor = _Head(2 * latent, block, policy)
        if policy.algorithm != "gcbc":
            self.log_std = nn.Parameter(torch.zeros(block))
            self.value = _Head(2 * latent, 1, policy)
            self.value_teacher = copy.deepcopy(self.value).requires_grad_(False)
        if policy.algorithm == "gciql":
            self.critic = _Head(2 * latent + block, 1, policy)
            self.critic_teacher = copy.deepcopy(self.critic).requires_grad_(False)

    @property
    def config(self) -> EncoderConfig:
        """Encoder and action blocks."""
        return self.settings.model

    @property
    def trained_encoder(self) -> Encoder | None:
        """The encoder, unless it is frozen."""
        return self.encoder if self.settings.frozen is None else None

    def train(self, mode: bool = True) -> GoalPolicy:
        """Switch between training and evaluation; a frozen encoder always evaluates."""
        super().train(mode)
        if self.settings.frozen is not None:
            self.encoder.eval()
        return self

    def fetch(self) -> None:
        """Fill a frozen encoder with its world model's weights. Raises ``CheckpointError``."""
        if self.settings.frozen is not None:
            self.encoder.load_state_dict(read_encoder(self.settings.frozen)[1])

    def block(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Latents and goals (B, latent_dim) to the most likely action blocks (B, block_dim), normalised."""
        return self.actor(latents, goals)

    def loss(self, batch: GoalBatch[Tensor]) -> Loss:
        """The algorithm's losses on transitions with the goals of :attr:`PolicyConfig.goals`."""
        blocks = self.codec.blocks(batch.actions[:, 0])
        if self.settings.policy.algorithm == "gcbc":
            latents, goals = self.encode(torch.cat([batch.frames[:, :1], batch.goals], dim=1)).unbind(1)
            cloning = (self.actor(latents, goals) - blocks).square().mean()
            return Loss(cloning, {"policy": cloning})
        latents, following, goals, policy_goals = self.encode(torch.cat([batch.frames, batch.goals], dim=1)).unbind(1)
        terms = self._value_terms(latents, following, goals, blocks, batch.reached[:, 0])
        advantage = self._advantage(latents, following, policy_goals, blocks)
        likelihood = self._log_likelihood(latents, policy_goals, blocks)
        weights = cloning_weights(advantage, self.settings.policy.advantage_weight)
        terms["policy"] = -(weights * likelihood).mean()
        return Loss(torch.stack(list(terms.values())).sum(), {**terms, "advantage": advantage.mean()})

    def _value_terms(
        self, latents: Tensor, following: Tensor, goals: Tensor, blocks: Tensor, reached: Tensor
    ) -> dict[str, Tensor]:
        """Every block costs 1 until the goal is reached, where the episode ends."""
        policy, value = self.settings.policy, self.value(latents, goals)
        with torch.no_grad():
            going_on = (~reached).float()
            target = going_on * (policy.discount * self.value_teacher(following, goals) - 1)
        if policy.algorithm == "gcivl":
            return {"value": expectile_loss(target - value, policy.expectile)}
        with torch.no_grad():
            action_value = self.critic_teacher(latents, goals, blocks)
        critic = (self.critic(latents, goals, blocks) - target).square().mean()
        return {"value": expectile_loss(action_value - value, policy.expectile), "critic": critic}

    @torch.no_grad()
    def _advantage(self, latents: Tensor, following: Tensor, goals: Tensor, blocks: Tensor) -> Tensor:
        value: Tensor = self.value(latents, goals)
        if self.settings.policy.algorithm == "gciql":
            return self.critic(latents, goals, blocks) - value
        after: Tensor = self.value(following, goals)
        return after - value

    def _log_likelihood(self, latents: Tensor, goals: Tensor, blocks: Tensor) -> Tensor:
        """Of each block (B,) under the policy's normal distribution; its standard deviations are the same anywhere."""
        deviation = self.log_std.clamp(*LOG_STD_RANGE).exp()
        normal = torch.distributions.Normal(self.actor(latents, goals), deviation)
        return normal.log_prob(blocks).sum(-1)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Let the teachers follow."""
        share = 1 - self.settings.policy.teacher_decay
        for name in {"gcbc": (), "gcivl": ("value",), "gciql": ("value", "critic")}[self.settings.policy.algorithm]:
            student, teacher = getattr(self, name), getattr(self, f"{name}_teacher")
            for followed, following in zip(student.parameters(), teacher.parameters(), strict=True):
                following.lerp_(followed, share)
