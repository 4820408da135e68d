"""DreamerV3 (arXiv 2301.04104) with a goal image: its networks and its objective, which are TorchRL's.

A recurrent state of what was seen and done (RSSM) tells frame, goal, reward and whether an episode goes on; policy and
values learn in sequences that it imagines. Constants without a size are those of the released configuration
(danijar/dreamerv3 ``configs.yaml``). What differs here:

- The picture of the goal is part of the observation: frame and goal go through the same convolutions, and what they
  show is put side by side. Both are reconstructed, as one picture of six channels.
- ``frozen``: the encoder of a trained world model takes the place of the convolutions and does not learn; its latents
  are what is reconstructed. The original has no such thing.
- TorchRL is asked for when a model is made, for nothing else here needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lewm_agent.agents.rivals.frozen import SeeingConfig, read_encoder
from lewm_agent.config import AgentConfig
from lewm_agent.datasets.formats.source import imported
from lewm_agent.models.encoder import Encoder
from lewm_agent.models.learner import Learner
from lewm_agent.tools.checks import require
from lewm_agent.tools.settings import require_finite, settings_from_dict, settings_to_dict
from lewm_agent.training.settings import TrainingConfig

BINS = 255
"""Of rewards and values, on the symexp scale."""
UNIFORM = 0.01
"""Share of the uniform distribution in those of states."""
STD = (0.1, 1.0)
"""Least and largest standard deviation of actions."""
BLOCKS = 8
"""Into which the recurrent layers, and the first of the decoder, fall."""
TRACE = 0.95
"""Lambda of returns."""
STAGES = (2, 3, 4, 4, 4)
"""Channels of the convolutions, in multiples; each halves the side, as long as that leaves 4 pixels or more."""


def torchrl(module: str) -> Any:
    """A module of TorchRL, or of tensordict. Raises ``ImportError`` with the line that installs both."""
    with torch.device("cpu"):  # it calculates while it is imported, also where only shapes are asked for
        return imported(module, "dreamer", "pip install 'lewm-agent[rivals]'")


@dataclass(frozen=True)
class DreamerModel(SeeingConfig):
    """Sizes of the model. The defaults are the released ``size12m``."""

    history: int = 1
    channels: int = 16
    """Of the convolutions, to be multiplied by :data:`STAGES`."""
    width: int = 256
    """Of all hidden layers."""
    belief: int = 2048
    """Numbers of the recurrent state that are certain."""
    categoricals: int = 32
    """Numbers of it that are drawn, each one of ``classes``."""
    classes: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.belief % BLOCKS == 0, f"belief must be a multiple of {BLOCKS}, got {self.belief}")
        require(self.drawn % BLOCKS == 0, f"categoricals x classes must be a multiple of {BLOCKS}, got {self.drawn}")
        require(
            self.seen is not None or (self.image_size % 8 == 0 and self.image_size >= 32),
            f"image_size must be a multiple of 8, and at least 32, got {self.image_size}",
        )

    @property
    def drawn(self) -> int:
        """Size of the drawn part of a state, in one-hot vectors."""
        return self.categoricals * self.classes

    @property
    def stages(self) -> tuple[int, ...]:
        """Multiples of channels of each convolution."""
        halvings = [n for n in range(1, len(STAGES) + 1) if self.image_size % 2**n == 0 and self.image_size >> n >= 4]
        return STAGES[: len(halvings)]


@dataclass(frozen=True)
class DreamerConfig:
    """A Dreamer agent. Of ``training``, batch size, learning rate and gradient clip (as a share of weights) count."""

    model: DreamerModel = field(default_factory=DreamerModel)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(batch_size=16, learning_rate=4e-5, gradient_clip=0.3)
    )
    sequence: int = 64
    """Frames of a sequence that is learned from."""
    imagined: int = 15
    """Decisions that are imagined from each of them."""
    every: int = 4
    """Decisions for each optimisation step."""
    warmup: int = 1000
    """Optimisation steps in which the learning rate rises from 0."""
    discount: float = 1 - 1 / 333
    """Of rewards, for each decision."""
    frozen: str | None = None
    """Bundled name, folder or Hub id of a world model whose encoder sees, and does not learn."""

    def __post_init__(self) -> None:
        require_finite(self)
        require(0 < self.discount < 1, f"discount must be in (0, 1), got {self.discount}")
        require(self.sequence >= 2, f"sequence must be at least 2, got {self.sequence}")
        for name in ("imagined", "every", "warmup"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")

    @staticmethod
    def like(base: AgentConfig, frozen: str | None = None) -> DreamerConfig:
        """Frames as in ``base``; ``size12m`` where these are the paper's, and otherwise the released ``size1m``."""
        own = DreamerConfig(frozen=frozen)
        if base.model.image_size >= 224:
            return replace(own, model=replace(own.model, image_size=base.model.image_size))
        sizes: dict[str, Any] = {"channels": 4, "width": 64, "belief": 512, "classes": 4}
        return replace(
            own,
            model=replace(own.model, image_size=base.model.image_size, **sizes),
            training=replace(own.training, batch_size=8, learning_rate=6e-4),
            sequence=16,
            imagined=10,
            warmup=100,
            discount=0.97,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON."""
        return settings_to_dict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> DreamerConfig:
        """Inverse of :meth:`to_dict`. Raises ``ValueError`` for unknown keys and wrong types."""
        return settings_from_dict(DreamerConfig, values)


class _Pictures(nn.Module):
    """Pictures (B, H, W, 3) uint8 to features (B, F)."""

    def __init__(self, model: DreamerModel) -> None:
        super().__init__()
        self.layers = torchrl("torchrl.modules").DreamerV3ImageEncoder(3, model.channels, model.stages)
        self.features: int = self.layers.output_features((3, model.image_size, model.image_size))

    def forward(self, frames: Tensor) -> Tensor:
        """Through the convolutions."""
        return self.layers(frames.permute(0, 3, 1, 2))


class Dreamer(Learner):
    """Observations and actions to states, of which all else is told; states to actions.

    The statistics of actions are the middle and half the width of their bounds, so that a normalised one is in [-1, 1].
    """

    def __init__(self, config: DreamerConfig) -> None:
        super().__init__(config.model)
        self.settings, model, parts = config, config.model, torchrl("torchrl.modules")
        known = model.belief + model.drawn
        self.observer: nn.Module = nn.Identity()
        if model.seen is None:
            pictures = _Pictures(model)
            self.encoder, features, size = pictures, 2 * pictures.features, (6, model.image_size, model.image_size)
            self.decoder = parts.DreamerV3ImageDecoder(known, size, model.channels, model.stages, num_blocks=BLOCKS)
        else:
            self.encoder, features = Encoder(model.seen).requires_grad_(False), model.width
            self.observer = parts.DreamerV3MLP(2 * model.seen.latent_dim, None, 3, model.width)
            self.decoder = parts.DreamerV3MLP(known, 2 * model.seen.latent_dim, 3, model.width)
        self.prior = parts.RSSMPriorV3(
            action_shape=(model.action_dim,),
            action_dim=model.action_dim,
            hidden_dim=model.width,
            rnn_hidden_dim=model.belief,
            num_categoricals=model.categoricals,
            num_classes=model.classes,
            recurrent_model="block_gru",
            num_blocks=BLOCKS,
            unimix=UNIFORM,
        )
        self.posterior = parts.RSSMPosteriorV3(
            hidden_dim=model.width,
            rnn_hidden_dim=model.belief,
            num_categoricals=model.categoricals,
            num_classes=model.classes,
            obs_embed_dim=features,
            use_rms_norm=True,
            unimix=UNIFORM,
        )
        self.rewards = parts.DreamerV3MLP(known, BINS, 1, model.width, outscale=0.0)
        self.goes_on = parts.DreamerV3MLP(known, 1, 1, model.width)
        self.actor = parts.DreamerV3MLP(known, 2 * model.action_dim, 3, model.width, outscale=0.01)
        self.critic = parts.DreamerV3MLP(known, BINS, 3, model.width, outscale=0.0)

    @property
    def config(self) -> DreamerModel:
        """Sizes."""
        return self.settings.model

    def train(self, mode: bool = True) -> Dreamer:
        """Switch to training; a frozen encoder always evaluates."""
        super().train(mode)
        if self.config.seen is not None:
            self.encoder.eval()
        return self

    def fetch(self) -> None:
        """Fill a frozen encoder with its world model's weights. Raises ``CheckpointError``."""
        if self.settings.frozen is not None:
            self.encoder.load_state_dict(read_encoder(self.settings.frozen)[1])

    def observed(self, seen: Tensor) -> Tensor:
        """Frames and goals (..., 2, H, W, 3) uint8, or features of both (..., 2, F), to embeddings (..., E)."""
        features = seen if seen.is_floating_point() else self.encode(seen)
        return self.observer(features.flatten(-2))

    def told(self, drawn: Tensor, belief: Tensor) -> Tensor:
        """States to frames and goals, as :meth:`observed` takes them; pictures in [0, 1]."""
        both: Tensor = self.decoder(drawn, belief)
        if self.config.seen is not None:
            return both.unflatten(-1, (2, -1))
        return both.unflatten(-3, (2, 3)).movedim(-3, -1)

    def policy(self, drawn: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (..., A) of actions in [-1, 1]."""
        mean, raw = self.actor(drawn, belief).chunk(2, dim=-1)
        least, largest = STD
        return mean.tanh(), least + (largest - least) * (raw + 2).sigmoid()

    def state(self, seen: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The state after another look.

        Args:
            seen: features of frame and goal (2, F).
            before: the state, drawn (D,) and belief (H,), and the action (A,) since; nothing where an episode begins.
        """
        sizes = (self.config.drawn, self.config.belief, self.config.action_dim)
        drawn, belief, action = before or (torch.zeros(size, device=seen.device) for size in sizes)
        given = {"state": drawn, "belief": belief, "previous_action": action, "encoded_latents": self.observed(seen)}
        values = {**given, "is_init": torch.tensor([not before], device=seen.device)}
        looked = torchrl("torchrl.modules").RSSMStateEstimatorV3(self.prior, self.posterior)(
            torchrl("tensordict").TensorDict({name: value[None] for name, value in values.items()}, [1])
        )
        return looked["state"][0], looked["belief"][0]

    def loss(self, batch: Any) -> NoReturn:
        """Refuse: :meth:`objective` has weights of its own, and so is made once for a training."""
        raise TypeError("dreamer learns by TorchRL's objective (learn_online), not from batches")

    # --- learning -----------------------------------------------------------------------------------------------------

    def world(self) -> Any:
        """What goes through sequences of what was seen and done: states, and what is told of them."""
        parts, keyed = torchrl("torchrl.modules"), torchrl("tensordict.nn")
        at, after = keyed.TensorDictModule, [("next", "state"), ("next", "belief")]
        logits = [("next", name) for name in ("prior_logits", "posterior_logits")]
        prior = at(self.prior, ["state", "belief", "action"], [logits[0], *after])
        posterior = at(self.posterior, [after[1], ("next", "encoded_latents")], [logits[1], after[0]])
        return keyed.TensorDictSequential(
            at(self.observed, [("next", "pixels")], [("next", "encoded_latents")]),
            parts.RSSMRolloutV3(prior, posterior),
            at(self.told, after, [("next", "reco_pixels")]),
            at(self.rewards, after, [("next", "reward_logits")]),
            at(parts.SymExpTwoHot(BINS), [("next", "reward_logits")], [("next", "reward")]),
            at(self.goes_on, after, [("next", "continue_pred")]),
        )

    def imagination(self) -> Any:
        """The environment that policy and values learn in."""
        parts, keyed, data = torchrl("torchrl.modules"), torchrl("tensordict.nn"), torchrl("torchrl.data")
        at, state = keyed.TensorDictModule, ["state", "belief"]
        rewards = keyed.TensorDictSequential(
            at(self.rewards, state, ["reward_logits"]), at(parts.SymExpTwoHot(BINS), ["reward_logits"], ["reward"])
        )
        step = parts.WorldModelWrapper(at(self.prior, [*state, "action"], ["_", *state]), rewards)
        drawn, belief = self.config.drawn, self.config.belief
        device = self.action_mean.device
        env = torchrl("torchrl.envs.model_based").DreamerEnv(step, (drawn,), (belief,), device=device)
        env.observation_spec = data.Composite(
            state=data.Unbounded(drawn, device=device), belief=data.Unbounded(belief, device=device)
        )
        env.state_spec = env.observation_spec.clone()
        env.action_spec = data.Unbounded((self.config.action_dim,), device=device)
        env.reward_spec = data.Unbounded((1,), device=device)
        return env

    def objective(self) -> Any:
        """TorchRL's ``DreamerV3Loss`` of these networks, with values that follow the critic and a scale of returns."""
        parts, keyed, losses = torchrl("torchrl.modules"), torchrl("tensordict.nn"), torchrl("torchrl.objectives")
        at, state, settings = keyed.TensorDictModule, ["state", "belief"], self.settings
        actor = keyed.ProbabilisticTensorDictSequential(
            at(self.policy, state, ["loc", "scale"]),
            keyed.ProbabilisticTensorDictModule(
                ["loc", "scale"],
                ["action"],
                default_interaction_type=keyed.InteractionType.RANDOM,
                distribution_class=torchrl("torchrl.modules.distributions.continuous").IndependentNormal,
            ),
        )
        values = ["state_value_logits"], ["state_value"]
        critic = keyed.TensorDictSequential(
            at(self.critic, state, values[0]), at(parts.SymExpTwoHot(BINS), values[0], values[1])
        )
        goes_on = keyed.TensorDictSequential(
            at(self.goes_on, state, ["continue_pred"]), at(nn.Sigmoid(), ["continue_pred"], ["continuation"])
        )
        learned = losses.DreamerV3ModelLoss(
            self.world(),
            lambda_continue=1.0,
            kl_mode="separate",
            unimix=UNIFORM,
            reco_symlog=False,
            detach_output=False,
        )
        acting = losses.DreamerV3ActorLoss(
            actor,
            critic,
            self.imagination(),
            continuation_model=goes_on,
            imagination_horizon=settings.imagined,
            use_reinforce=True,
        )
        acting.make_value_estimator(losses.ValueEstimators.TDLambda, gamma=settings.discount, lmbda=TRACE)
        worth = losses.DreamerV3ValueLoss(critic, "two_hot", actor_loss=acting, slow_critic_regularization=1.0)
        horizon = 1 / (1 - settings.discount)
        return losses.DreamerV3Loss(learned, acting, worth, continuation_horizon=horizon, lmbda=TRACE)
