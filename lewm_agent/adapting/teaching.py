"""Teaching a trained model's encoder other looks: what it says of a frame, to be said of the same frame changed.

The latents of the clean frames, by the encoder as it was, are the targets, so that predictor, heads and metric stay as
they are and nothing can collapse. An encoder of moments knows things by their colors and cannot learn this: a network
that finds its masks sees those frames that its colors do not explain, and is also told every pixel of them.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lewm_agent.datasets import Clips, OfflineDataset
from lewm_agent.models import whole_batch
from lewm_agent.models.encoder import Encoder
from lewm_agent.models.learner import Learner, Loss
from lewm_agent.models.predictor import ModelConfig
from lewm_agent.models.seeing.augmentations import Augmentations, Camera, through
from lewm_agent.tools.checks import require
from lewm_agent.training.settings import TrainingConfig

CHANGES = 512
"""Pairs of frames, a block apart, from which it is taken how much a block usually changes."""
IN_BLOCKS = 3.0
"""In the unit of the robust loss, how much a block usually changes; larger errors count by size, smaller by square."""
LATENTS_SHARE = 0.05
"""Weight of the loss of latents beside that of masks, which leads to it at first."""
MASKS_RATE, RATE = 4e-3, 5e-4


@dataclass(frozen=True)
class AdaptConfig:
    """How an encoder is taught other looks."""

    augmentations: str = "look"
    """Named set, or parts with strengths (:mod:`lewm_agent.models.seeing.augmentations`)."""
    clean: float = 0.2
    """Share of the frames that are left as they are."""
    steps: int = 2500
    batch_size: int = 64
    """Frames in a step."""
    learning_rate: float | None = None
    """Highest one; by default 4e-3 for a network of masks, which begins anew, else 5e-4."""
    width: int = 32
    """Channels of a network of masks at its coarsest; other encoders stay as large as they are."""

    def __post_init__(self) -> None:
        look = Augmentations.of(self.augmentations)
        object.__setattr__(self, "augmentations", str(look))
        require(bool(look), "augmentations must name at least one part, or the set look")
        require(0 <= self.clean < 1, f"clean must be in [0, 1), got {self.clean}")
        require(self.steps >= 1, f"steps must be at least 1, got {self.steps}")
        require(self.width >= 4 and self.width % 4 == 0, f"width must be a multiple of 4, got {self.width}")

    def model(self, model: ModelConfig) -> ModelConfig:
        """The configuration that a model has afterwards."""
        if not model.of_moments:
            return dataclasses.replace(model, augmentations=self.augmentations)
        return dataclasses.replace(
            model,
            encoder="learned_masks",
            augmentations=self.augmentations,
            encoder_width=self.width if model.encoder == "moments" else model.encoder_width,
            encoder_heads=1,
            first_share=1,
        )

    def training(self, model: ModelConfig, held_out_fraction: float, steps_per_epoch: int) -> TrainingConfig:
        """The optimisation of these many steps."""
        usual = MASKS_RATE if model.of_moments else RATE
        return TrainingConfig(
            epochs=self.steps / steps_per_epoch,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate or usual,
            weight_decay=1e-2,
            warmup_fraction=0.03,
            held_out_fraction=held_out_fraction,
        )


def student_of(teacher: Encoder, config: ModelConfig) -> Encoder:
    """An encoder of the given configuration that begins where the teacher is, as far as it can."""
    if teacher.backbone != "moments":
        student = copy.deepcopy(teacher)
        student.config, student.look = config, Augmentations.of(config.augmentations)
        return student
    student = Encoder(config).to(teacher.pixel_mean.device)
    student.moments.load_state_dict(teacher.moments.state_dict())
    student.moments.requires_grad_(False)
    student.learned_masks.speak_like(teacher.moments)
    return student


class Adapting(Learner):
    """A frozen encoder and the one that it teaches.

    Args:
        config: sizes of the model whose encoder learns.
        teacher: encoder as it was.
        student: encoder that learns, by :func:`student_of`.
        metric: in which errors of latents are measured, (latent_dim, latent_dim); None for plain latents.
        clean: share of the frames that are left as they are.
    """

    encoder: Encoder
    metric: Tensor
    unit: Tensor

    def __init__(
        self, config: ModelConfig, teacher: Encoder, student: Encoder, metric: Tensor | None, clean: float
    ) -> None:
        super().__init__(config)
        self._config, self._clean = config, clean
        self.teacher = copy.deepcopy(teacher).requires_grad_(False).eval()
        self.encoder = student
        everything = torch.eye(config.latent_dim) if metric is None else metric.detach().clone()
        self.register_buffer("metric", everything)
        self.register_buffer("unit", torch.ones(()))

    @property
    def config(self) -> ModelConfig:
        """Sizes."""
        return self._config

    @torch.no_grad()
    def take_usual(self, dataset: OfflineDataset, episodes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        """Take how much latents of these episodes (n,) usually change in a block, and what their frames look like."""
        pairs = Clips(dataset, episodes, 2, self.config.frame_skip)
        chosen = np.unique(np.linspace(0, len(pairs) - 1, CHANGES).round().astype(np.int64))
        frames = torch.as_tensor(pairs.fetch(chosen).frames, device=self.unit.device)
        if self.teacher.backbone == "moments":
            self.encoder.learned_masks.take_for_usual(self.teacher.moments, frames.flatten(0, 1))
        before, after = (self.teacher.see(frames[:, i]) for i in (0, 1))
        self.unit.copy_(((after - before) @ self.metric).norm(dim=-1).median().clamp(min=1e-6))

    def train(self, mode: bool = True) -> Adapting:
        """The teacher never is in training."""
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(self, batch: Any) -> Loss:
        """Of frames (B, T, H, W, 3) uint8, changed; without gradients, how far off both encoders are."""
        frames = batch.frames.flatten(0, 1)
        look = self.encoder.look
        if not self.training:
            return self._examined(frames, look)
        seen, camera = look.seen(frames)
        left = whole_batch.uniform(len(frames), device=frames.device) < self._clean
        seen = torch.where(left[:, None, None, None], frames.float(), seen)
        if self.encoder.backbone == "learned_masks":
            untouched = torch.eye(2, 3, device=frames.device)
            return self._of_masks(frames, seen, torch.where(left[:, None, None], untouched, camera))
        with torch.no_grad():
            target = self.teacher.see(frames)
        loss = self._robust(self.encoder.see(seen), target)
        return Loss(loss, {"latents": loss})

    def _of_masks(self, frames: Tensor, seen: Tensor, camera: Camera) -> Loss:
        """Masks go along with the camera, as things would, and latents are those of the masks."""
        student = self.encoder.learned_masks
        with torch.no_grad():
            masks = through(camera, self.teacher.moments.masks_of(frames), "zeros")
            target = student.latents_of(masks)
        logits = student.logits(self.encoder.normalize(seen)).float()
        wrong = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none").sum(dim=(2, 3))
        of_masks = (wrong / student.usual_mass).mean()  # a small thing counts as much as a large one
        of_latents = self._robust(student.moments_of(logits), target)
        return Loss(of_masks + LATENTS_SHARE * of_latents, {"masks": of_masks, "latents": of_latents})

    def _robust(self, latents: Tensor, target: Tensor) -> Tensor:
        """Pseudo-Huber loss, in the metric."""
        squares = ((latents - target) @ self.metric * (IN_BLOCKS / self.unit)).square().sum(dim=-1)
        return (torch.sqrt(1 + squares) - 1).mean()

    def _examined(self, frames: Tensor, look: Augmentations) -> Loss:
        """Median errors, as shares of what a block usually changes, and of centers of masks in pixels."""
        changed, camera = look.seen(frames)
        usual = wanted = self.teacher.see(frames)
        if self.config.of_moments:
            masks = self.teacher.moments.masks_of(frames)
            wanted = self.encoder.learned_masks.latents_of(through(camera, masks, "zeros"))
        told = {
            "clean": (self.encoder.see(frames), usual),
            "changed": (self.encoder.see(changed), wanted),
            "unadapted": (self.teacher.see(changed), wanted),
        }
        terms = {f"error_{name}": self._error(*each) for name, each in told.items()}
        if self.config.of_moments:
            terms |= {f"pixels_{name}": self._pixels(*each) for name, each in told.items()}
        return Loss(terms["error_changed"], terms)

    def _error(self, latents: Tensor, target: Tensor) -> Tensor:
        return ((latents - target) @ self.metric / self.unit).norm(dim=-1).median()

    def _pixels(self, latents: Tensor, target: Tensor) -> Tensor:
        found = self.encoder.learned_masks.centers_of(latents) - self.encoder.learned_masks.centers_of(target)
        return found.norm(dim=-1).median()
