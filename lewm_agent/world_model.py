"""LeWorldModel: encode frames, predict latents under actions, and the loss that trains both end to end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_agent.config import InverseDynamicsConfig, ModelConfig, ObjectiveConfig
from lewm_agent.decoder import ThumbnailDecoder
from lewm_agent.encoder import Encoder, projection_head
from lewm_agent.inverse_dynamics import InverseDynamics
from lewm_agent.predictor import KeyValueCache, Predictor
from lewm_agent.sigreg import SIGReg


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
        embedding: Tensor = self.embed(self.smooth(blocks))
        return embedding


@dataclass
class Loss:
    """The terms of one training step (scalars) and the latents (B, T, latent_dim) they were computed from."""

    total: Tensor
    prediction: Tensor
    sigreg: Tensor
    straightness: Tensor
    inverse: Tensor
    reconstruction: Tensor
    latents: Tensor

    def terms(self) -> dict[str, Tensor]:
        """The scalars by name, detached, for logging."""
        names = ("total", "prediction", "sigreg", "straightness", "inverse", "reconstruction")
        return {name: getattr(self, name).detach() for name in names}


def straightness(latents: Tensor) -> Tensor:
    """Mean cosine between successive latent velocities (arXiv 2603.19312, equation 9).

    Args:
        latents: (B, T, D) with T >= 3.
    """
    velocity = latents.diff(dim=1)
    return functional.cosine_similarity(velocity[:, 1:], velocity[:, :-1], dim=-1).mean()


class WorldModel(nn.Module):
    """Encoder and causal predictor, trained together, without stop-gradient or target network.

    Actions outside the model are in the environment's units; ``normalize_actions`` turns them into the z-scored blocks
    that ``predict`` and ``rollout`` take. The statistics are saved with the weights, as is ``metric``
    (:mod:`lewm_agent.slow_metric`), which is zero until training has ended.
    """

    action_mean: Tensor
    action_std: Tensor
    metric: Tensor

    def __init__(
        self,
        config: ModelConfig,
        objective: ObjectiveConfig | None = None,
        inverse_dynamics: InverseDynamicsConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.objective = objective or ObjectiveConfig()
        self.encoder = Encoder(config)
        self.action_encoder = ActionEncoder(config.block_dim, config.latent_dim)
        self.predictor = Predictor(config)
        self.prediction_head = projection_head(config.latent_dim, config.projector_width, config.latent_dim)
        self.sigreg = SIGReg(self.objective.sigreg_projections, self.objective.sigreg_knots)
        self.inverse_dynamics = InverseDynamics(config, inverse_dynamics) if inverse_dynamics else None
        self.decoder = ThumbnailDecoder(config) if self.objective.reconstruction_weight else None
        self.register_buffer("metric", torch.zeros(config.latent_dim, config.latent_dim))
        self.register_buffer("action_mean", torch.zeros(config.action_dim))
        self.register_buffer("action_std", torch.ones(config.action_dim))

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (..., H, W, 3) uint8 to latents (..., latent_dim)."""
        latents: Tensor = self.encoder(frames.flatten(0, -4))
        unflattened: Tensor = latents.unflatten(0, frames.shape[:-3])
        return unflattened

    def normalize_actions(self, actions: Tensor) -> Tensor:
        """Actions (..., action_dim) in the environment's units to z-scores; the only place where this happens."""
        return (actions - self.action_mean) / self.action_std

    def denormalize_actions(self, actions: Tensor) -> Tensor:
        """Inverse of :meth:`normalize_actions`."""
        return actions * self.action_std + self.action_mean

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
        """Imagine S futures for each of N histories.

        While the history still grows, keys and values of earlier tokens are cached; once it is full the window slides,
        which moves every token to another position, and the window is computed anew. What the actions do to each
        layer is computed once, and only the last token goes through the end of the last layer and the head.

        Args:
            latents: (N, H, latent_dim), the last H <= history real frames.
            past_blocks: (N, H - 1, block_dim), the normalised blocks executed between them.
            blocks: (N, S, P, block_dim), the normalised candidates.

        Returns:
            (N, S, P, latent_dim): the latent after each block.
        """
        count, samples, steps, _ = blocks.shape
        known = latents.shape[1]
        modulations = self._rollout_modulations(past_blocks, blocks)
        sequence = latents.repeat_interleave(samples, dim=0)
        cache = KeyValueCache()
        for end in range(known, known + steps):
            if end <= self.config.history:
                tokens, seen = slice(cache.length, end), cache
            else:
                tokens, seen = slice(end - self.config.history, end), None
            output = self.predictor.last(sequence[:, tokens], [m[:, tokens] for m in modulations], seen)
            sequence = torch.cat([sequence, self._head(output)], dim=1)
        imagined: Tensor = sequence[:, known:].unflatten(0, (count, samples))
        return imagined

    def _rollout_modulations(self, past_blocks: Tensor, blocks: Tensor) -> list[Tensor]:
        """Per layer (N * S, H - 1 + P, 6 width), for executed blocks shared by the S samples and for candidates."""
        past = self.predictor.modulations(self.action_encoder(past_blocks))
        future = self.predictor.modulations(self.action_encoder(blocks.flatten(0, 1)))
        samples = blocks.shape[1]
        return [torch.cat([p.repeat_interleave(samples, 0), f], dim=1) for p, f in zip(past, future, strict=True)]

    def propose(self, latents: Tensor, past_blocks: Tensor, goals: Tensor, arrivals: Tensor, horizon: int) -> Tensor:
        """Plans that the inverse-dynamics head makes by acting in imagination.

        Args:
            latents: (N, H, latent_dim), the last real frames, as for :meth:`rollout`.
            past_blocks: (N, H - 1, block_dim), executed between them.
            goals: (N, latent_dim).
            arrivals: (N, K), after how many blocks each plan is meant to be at the goal, from 1 to ``furthest``.
            horizon: length of a plan, in blocks; after its arrival it tries to be there with every block.

        Returns:
            (N, K, horizon, block_dim).

        Raises:
            ValueError: the model has no such head.
        """
        head = self.inverse_dynamics
        if head is None:
            raise ValueError("this model has no inverse-dynamics head to propose plans")
        count = arrivals.shape[1]
        latents, past_blocks, goals = (x.repeat_interleave(count, 0) for x in (latents, past_blocks, goals))
        left = arrivals.flatten()
        blocks = [head(latents[:, -1], goals, left)]
        for _ in range(1, horizon):
            imagined = self.rollout(latents, past_blocks, blocks[-1][:, None, None])[:, 0]
            latents = torch.cat([latents, imagined], dim=1)[:, -self.config.history :]
            past_blocks = torch.cat([past_blocks, blocks[-1][:, None]], dim=1)
            past_blocks = past_blocks[:, past_blocks.shape[1] + 1 - latents.shape[1] :]
            left = (left - 1).clamp(min=1)
            blocks.append(head(latents[:, -1], goals, left))
        plans: Tensor = torch.stack(blocks, dim=1).unflatten(0, (-1, count))
        return plans

    def loss(self, frames: Tensor, actions: Tensor, blocks_to_goal: Tensor | None = None) -> Loss:
        """The training objective on a batch of clips (arXiv 2603.19312, equations 1 to 3, and three options).

        Args:
            frames: (B, T, H, W, 3) uint8, ``frame_skip`` environment steps apart, T = history + 1; then, with
                ``blocks_to_goal``, one later frame of the episode as a goal.
            actions: (B, T - 1, frame_skip, action_dim) in the environment's units.
            blocks_to_goal: (B,), how many action blocks after frame T - 1 the goal comes, at least 0.
        """
        latents = self.encode(frames)
        reconstruction = self._reconstruction_loss(latents, frames)
        blocks = self.normalize_actions(actions).flatten(-2)
        inverse = latents.new_zeros(())
        if blocks_to_goal is not None:
            inverse = self._inverse_loss(latents, blocks, blocks_to_goal)
            latents = latents[:, :-1]
        predicted = self.predict(latents[:, :-1], blocks)
        prediction = (predicted - latents[:, 1:]).square().mean()
        sigreg = self.sigreg(latents.transpose(0, 1))
        straight = straightness(latents) if latents.shape[1] > 2 else latents.new_zeros(())
        weights = self.objective
        total = prediction + weights.sigreg_weight * sigreg - weights.straightening_weight * straight
        total = total + weights.inverse_weight * inverse + weights.reconstruction_weight * reconstruction
        return Loss(total, prediction, sigreg, straight, inverse, reconstruction, latents)

    def _reconstruction_loss(self, latents: Tensor, frames: Tensor) -> Tensor:
        """Error of pictures decoded from the first and the last latent of every clip; the others cost too much."""
        if self.decoder is None:
            return latents.new_zeros(())
        pixels = self.encoder.normalize(frames[:, [0, -1]].flatten(0, 1))
        return self.decoder.error(latents[:, [0, -1]].flatten(0, 1), pixels)

    def _inverse_loss(self, latents: Tensor, blocks: Tensor, blocks_to_goal: Tensor) -> Tensor:
        """Error of the block proposed at each of the T - 1 frames that one leaves, towards the goal (last latent)."""
        if self.inverse_dynamics is None:
            raise ValueError("objective.inverse_weight needs a model with an inverse-dynamics head")
        steps = blocks.shape[1]
        left = blocks_to_goal[:, None] + torch.arange(steps, 0, -1, device=blocks.device)
        goals = latents[:, -1:].expand(-1, steps, -1)
        error: Tensor = self.inverse_dynamics(latents[:, :steps], goals, left) - blocks
        return error.square().mean()

    def _head(self, tokens: Tensor) -> Tensor:
        heads: Tensor = self.prediction_head(tokens.flatten(0, -2)).unflatten(0, tokens.shape[:-1])
        return heads
