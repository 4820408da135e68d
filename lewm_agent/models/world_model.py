"""LeWorldModel: encode frames, predict latents under actions, and the loss that trains both end to end."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lewm_agent.datasets.batch import ClipBatch
from lewm_agent.models.encoder import Encoder, projection_head
from lewm_agent.models.far_goals import FarGoals
from lewm_agent.models.goal_states import GoalStates
from lewm_agent.models.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
from lewm_agent.models.learner import LatentModel, Loss
from lewm_agent.models.objectives import registry
from lewm_agent.models.objectives.base import EncodedClip, Objective, ObjectiveSettings
from lewm_agent.models.objectives.lewm import ObjectiveConfig
from lewm_agent.models.objectives.lewm import straightness as straightness
from lewm_agent.models.predictor import ModelConfig, Predictor
from lewm_agent.models.prefix_predictor import make_predictor
from lewm_agent.models.residual_predictor import ResidualPredictor
from lewm_agent.models.thumbnail_decoder import SIDE, ThumbnailDecoder


class ActionEncoder(nn.Module):
    """Normalised action blocks (..., block_dim) to embeddings (..., latent_dim).

    Released code: stable-worldmodel ``wm/lewm/module.py``, class Embedder; its width-1 convolution is a Linear.
    """

    def __init__(self, block_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.smooth = nn.Linear(block_dim, 10)
        self.embed = nn.Sequential(nn.Linear(10, 4 * latent_dim), nn.SiLU(), nn.Linear(4 * latent_dim, latent_dim))

    def forward(self, blocks: Tensor) -> Tensor:
        """Embed each block on its own."""
        return self.embed(self.smooth(blocks))


class WorldModel(LatentModel):
    """Encoder and causal predictor, trained together on an objective, without stop-gradient or target network.

    Statistics of actions are saved with the weights, as are, when training has ended, ``metric``
    (:mod:`lewm_agent.training.slow_metric`), ``goal_states`` (:mod:`lewm_agent.training.goal_states`) and ``far_goals``
    (:mod:`lewm_agent.training.far_goals`).
    """

    def __init__(
        self,
        config: ModelConfig,
        objective: ObjectiveSettings | None = None,
        inverse_dynamics: InverseDynamicsConfig | None = None,
    ) -> None:
        super().__init__(config)
        self._config = config
        self.encoder: Encoder = Encoder(config)
        self.predictor: Predictor | ResidualPredictor
        self.action_encoder: nn.Module
        self.prediction_head: nn.Module
        if config.predictor == "residual":
            self.predictor = ResidualPredictor(config)
            self.action_encoder, self.prediction_head = nn.Identity(), nn.Identity()
        else:
            self.action_encoder = ActionEncoder(config.block_dim, config.latent_dim)
            self.predictor = make_predictor(config)
            self.prediction_head = projection_head(config.latent_dim, config)
        sizes = config.latent_dim, config.block_dim
        self.inverse_dynamics = InverseDynamics(*sizes, inverse_dynamics) if inverse_dynamics else None
        settings = objective or ObjectiveConfig()
        self.objective: Objective = registry.find(settings.kind).objective(settings, config)
        self.teacher: Encoder | None = None
        if self.objective.teacher_momentum is not None:
            self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
        self.decoder = ThumbnailDecoder(config) if self.objective.needs_decoder else None
        self.register_buffer("metric", None)
        self.far_goals = None

    @property
    def config(self) -> ModelConfig:
        """Sizes."""
        return self._config

    @property
    def trained_encoder(self) -> Encoder:
        """The encoder."""
        return self.encoder

    def make_room(self, weights: Mapping[str, Tensor]) -> None:
        """Metric, head for goals in numbers and what is for far goals are there when training had ended."""
        super().make_room(weights)
        side = self.config.latent_dim
        self.metric = self.action_mean.new_zeros(side, side) if "metric" in weights else None
        head = GoalStates.fitting(weights, side)
        self.goal_states = None if head is None else head.to(self.action_mean.device).eval()
        far = FarGoals.fitting(weights, side)
        self.far_goals = None if far is None else far.to(self.action_mean.device).eval()

    def before_training(self) -> None:
        """The teacher, if there is one, begins as the encoder."""
        if self.teacher is not None:
            self.teacher.load_state_dict(self.encoder.state_dict())

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """The teacher follows."""
        momentum = self.objective.teacher_momentum
        if self.teacher is None or momentum is None:
            return
        share = 1 - momentum(progress)
        for following, followed in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            following.lerp_(followed, share)

    def dynamics(self) -> tuple[nn.Module, ...]:
        """Action encoder, predictor and prediction head."""
        return self.action_encoder, self.predictor, self.prediction_head

    def predict_in_training(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """As :meth:`predict`, but as in training, and for clips that may be longer than the history."""
        return self._head(self.predictor.predict_in_training(latents, self.action_encoder(blocks)))

    def predict(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Next latents by teacher forcing.

        Args:
            latents: (B, T, latent_dim), T <= history.
            blocks: (B, T, block_dim), normalised; block k leaves frame k.

        Returns:
            (B, T, latent_dim): entry k is the prediction of frame k + 1 from frames 0..k.
        """
        return self._head(self.predictor(latents, self.action_encoder(blocks)))

    def rollout(self, latents: Tensor, past_blocks: Tensor, blocks: Tensor) -> Tensor:
        """As :meth:`LatentModel.rollout`; what the actions do to each layer is computed once."""
        count, samples = blocks.shape[:2]
        past = self.predictor.modulations(self.action_encoder(past_blocks))  # shared by the samples
        future = self.predictor.modulations(self.action_encoder(blocks.flatten(0, 1)))
        layers = zip(past, future, strict=True)
        modulations = [torch.cat([p.repeat_interleave(samples, 0), f], dim=1) for p, f in layers]
        known = latents.repeat_interleave(samples, dim=0)
        return self.predictor.imagine(known, modulations, self._head).unflatten(0, (count, samples))

    def loss(self, batch: ClipBatch[Tensor]) -> Loss:
        """The objective on clips of T = clip_frames frames, ``frame_skip`` environment steps apart.

        In place of frames there may be their latents (B, T, latent_dim).
        """
        clip = self._encoded(batch)
        total, terms = self.objective(clip)
        return Loss(total, terms, clip.latents)

    def _encoded(self, batch: ClipBatch[Tensor]) -> EncodedClip:
        """All that the objective is told. Dropout draws in this order, whatever the objective looks at."""
        goals = [] if batch.goals is None else [batch.goals[:, None]]
        frames = torch.cat([batch.frames, *goals], dim=1)  # encoded together: they share the statistics of BatchNorm
        encoded = frames if frames.is_floating_point() else self.encode(frames)
        blocks = self.codec.blocks(batch.actions)
        steps = blocks.shape[1]
        latents = encoded[:, : steps + 1]
        return EncodedClip(
            latents,
            blocks,
            goals=None if batch.goals is None else encoded[:, -1],
            blocks_to_goal=batch.blocks_to_goal,
            reconstruction_error=self._reconstruction_error(frames[:, [0, -1]], encoded[:, [0, -1]]),
            proposed=self._proposed(encoded, steps, batch.blocks_to_goal),
            predicted=self.predict_in_training(latents[:, :-1], blocks),
            taught=self._taught(frames[:, : steps + 1]),
        )

    @torch.no_grad()
    def _taught(self, frames: Tensor) -> Tensor | None:
        """What the teacher makes of frames (B, T, H, W, 3); None of latents, whose encoder does not learn."""
        if self.teacher is None or frames.is_floating_point():
            return None
        return self.teacher(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def _reconstruction_error(self, frames: Tensor, latents: Tensor) -> Tensor | None:
        if self.decoder is None:
            return None
        return self.decoder.error(latents.flatten(0, 1), self.encoder.thumbnails(frames.flatten(0, 1), SIDE))

    def _proposed(self, encoded: Tensor, steps: int, blocks_to_goal: Tensor | None) -> Tensor | None:
        """The head's block at each of the frames that one leaves, towards the goal, (B, steps, block_dim)."""
        if self.inverse_dynamics is None or blocks_to_goal is None:
            return None
        left = blocks_to_goal[:, None] + torch.arange(steps, 0, -1, device=encoded.device)
        return self.inverse_dynamics(encoded[:, :steps], encoded[:, -1:].expand(-1, steps, -1), left)

    def _head(self, tokens: Tensor) -> Tensor:
        return self.prediction_head(tokens.flatten(0, -2)).unflatten(0, tokens.shape[:-1])
