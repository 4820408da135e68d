"""Actions told from frames: which episodes keep their own, and a model that tells those of the others.

The model sees two frames, one action block apart, and says the block between them. It learns from the episodes that
keep their actions, and tells those of the others; or it learns from the frames of all of them a code for what happens
between two (:mod:`lewm_agent.models.latent_actions`), and from those that keep their actions what a code means. An
action lies between several pairs of frames; what is told of it is their mean.
"""

from __future__ import annotations

import copy
import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
from lewm_agent.models.latent_actions import LatentActions
from lewm_agent.models.learner import Learner
from lewm_agent.models.objectives.lewm import ObjectiveConfig
from lewm_agent.models.objectives.sigreg import SIGReg
from lewm_agent.tools.checks import named, require
from lewm_agent.tools.progress import ProgressShown
from lewm_agent.tools.replacing import write_atomically
from lewm_agent.training.batches import FinishData
from lewm_agent.training.settings import AgentSettings
from lewm_agent.training.state import other_random_numbers

STEPS, BATCH, LEARNING_RATE = 1500, 64, 1e-3
"""Of the model's training: optimisation steps, pairs of frames in each, and where its cosine begins."""
HELD_OUT_PAIRS = 1024
"""From which its error is taken, at most."""
AT_ONCE = 256
"""Pairs or frames that are looked at together."""
SIGREG_WEIGHT = ObjectiveConfig().sigreg_weight
"""Of the term that keeps the latents of an encoder that learns from frames alone from collapse."""
STREAM = 1
"""Of the random numbers that choose episodes, beside the one that splits them."""


@dataclass(frozen=True)
class Labels:
    """Actions (rows, A) of a whole dataset, told where they were missing, and the held-out error of what is told."""

    actions: NDArray[np.float32]
    error: float


def check(dataset: OfflineDataset, labels: float, by: str) -> None:
    """Raise ``ValueError`` unless ``labels`` is a share, told by a known model, and there are actions to learn from."""
    named(by, TELLERS, "model that tells actions from frames (labels_by)")
    is_share = isinstance(labels, int | float) and not isinstance(labels, bool) and 0 < labels <= 1
    require(
        is_share, f"labels is the share of the episodes that keep their actions, above 0 and at most 1, got {labels!r}"
    )
    require(
        dataset.has_actions,
        f"no episode of {dataset.path} has actions, so that nothing tells what moves what one sees: learn from it "
        "beside a dataset with actions (--dataset A --dataset B)",
    )


def chosen(dataset: OfflineDataset, episodes: NDArray[np.int64], labels: float, seed: int) -> NDArray[np.int64]:
    """Those of the training episodes (n,) that keep their actions, sorted; a larger share has those of a smaller.

    Raises:
        ValueError: there would be none.
    """
    having = np.setdiff1d(episodes, dataset.awaited)
    count = round(labels * len(having))
    require(
        count > 0,
        f"labels {labels:g} of {len(having)} training episodes with actions is not one: give at least "
        f"{1 / max(1, len(having)):.2g}, or more such episodes",
    )
    order = np.random.default_rng([seed, STREAM]).permutation(len(having))
    return np.sort(having[order[:count]])


def kept_or_told(
    file: Path,
    request: str,
    model: Learner,
    settings: AgentSettings,
    data: FinishData,
    seed: int,
    by: str = "inverse",
    *,
    progress: bool = False,
) -> Labels:
    """What :func:`tell` told before for the same request, as the file has it; or what it tells now, kept there."""
    awaited = data.dataset.row_mask(data.dataset.awaited)
    if (kept := _read(file, request)) is not None:
        actions = data.dataset.actions.copy()
        actions[awaited] = kept["actions"]
        return Labels(actions, float(kept["error"]))
    labels = tell(model, settings, data, seed, by, progress=progress)
    content = io.BytesIO()
    np.savez(content, actions=labels.actions[awaited], error=labels.error, request=request)
    write_atomically(file, content.getvalue())
    return labels


def tell(
    model: Learner,
    settings: AgentSettings,
    data: FinishData,
    seed: int,
    by: str = "inverse",
    *,
    progress: bool = False,
) -> Labels:
    """Train a model and have it tell the awaited actions of a dataset.

    Args:
        model: prepared for training; a copy of its encoder learns with the other one, unless it is frozen.
        settings: of its agent.
        data: dataset, labelled episodes (n,), held-out ones with actions, and latents instead of frames, if any.
        seed: of weights, pairs of frames and dropout; other random numbers stay as they are.
        by: one of :data:`TELLERS`.
        progress: show progress.

    Raises:
        ValueError: the error of what is told is not finite.
    """
    with other_random_numbers(seed, model.action_mean.device):
        teller = TELLERS[by](model, settings, data)
        teller.learn(seed, progress)
        error = teller.held_out_error()
    require(math.isfinite(error), f"what is told of the actions of {data.dataset.path} has an error of {error}")
    return Labels(teller.told(), round(error, 4))


class _Teller(nn.Module):
    """Encoder and head: what a frame shows, and another one a block later, to the block between."""

    def __init__(self, model: Learner, settings: AgentSettings, data: FinishData) -> None:
        super().__init__()
        self.data, self.skip, self.codec = data, settings.model.frame_skip, model.codec
        self.discrete = settings.model.discrete_actions
        self.learns = model.trained_encoder is not None and not settings.training.frozen_encoder
        self.encoder = copy.deepcopy(model.encoder).requires_grad_(self.learns) if data.stand_ins is None else None
        self.device = model.action_mean.device
        self.eval()
        with torch.no_grad():
            latent_dim = self.latents(self.pairs(data.train)[:1]).shape[1]
        self.head = self.new_head(latent_dim, settings.model.block_dim)
        self.to(self.device)

    @staticmethod
    def new_head(latent_dim: int, block_dim: int) -> nn.Module:
        """The head of its kind."""
        return InverseDynamics(latent_dim, block_dim, InverseDynamicsConfig(furthest=1))

    @property
    def learned_from(self) -> NDArray[np.int64]:
        """Episodes (n,) in whose pairs of frames :meth:`loss` is taken."""
        return self.data.train

    def train(self, mode: bool = True) -> _Teller:
        """Switch the head, and the encoder if it learns."""
        super().train(mode)
        if self.encoder is not None:
            self.encoder.train(mode and self.learns)
        return self

    def latents(self, rows: NDArray[np.int64]) -> Tensor:
        """Of the frames of rows (N,): (N, D)."""
        if self.encoder is None:
            assert self.data.stand_ins is not None
            return torch.as_tensor(self.data.stand_ins[rows], device=self.device)
        latents: Tensor = self.encoder(torch.as_tensor(self.data.dataset.read_frames(rows), device=self.device))
        return latents.flatten(1)

    def pairs(self, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (N,) of the frames of some episodes that have another one a block later."""
        dataset = self.data.dataset
        ends = dataset.episode_starts[episodes] + dataset.episode_lengths[episodes]
        frames = -(-dataset.episode_lengths[episodes] // dataset.frame_interval)
        rows = dataset.frame_rows(episodes)
        return rows[rows + self.skip < np.repeat(ends, frames)]

    def between(self, before: Tensor, after: Tensor) -> Tensor:
        """Latents (N, D), and those a block later, to blocks (N, block_dim)."""
        blocks: Tensor = self.head(before, after, torch.ones(len(before), device=self.device))
        return blocks

    def ends(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Latents (N, D) of the frames of rows (N,), and those a block later."""
        before, after = self.latents(np.concatenate([rows, rows + self.skip])).chunk(2)
        return before, after

    def blocks(self, rows: NDArray[np.int64]) -> Tensor:
        """Blocks (N, block_dim) after the frames of rows (N,), whose actions are known."""
        actions = self.data.dataset.actions[rows[:, None] + np.arange(self.skip)]
        return self.codec.blocks(torch.as_tensor(actions, device=self.device))

    def error(self, rows: NDArray[np.int64]) -> Tensor:
        """Mean squared error of the blocks after the frames of rows (N,)."""
        return (self.between(*self.ends(rows)) - self.blocks(rows)).square().mean()

    def loss(self, rows: NDArray[np.int64]) -> Tensor:
        """What is minimised, over the frames of rows (N,) and those a block later."""
        return self.error(rows)

    def learn(self, seed: int, progress: bool) -> None:
        """Train, and be ready to tell."""
        rng, rows = np.random.default_rng([seed, STREAM]), self.pairs(self.learned_from)
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=LEARNING_RATE, weight_decay=1e-2, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        self.train()
        with ProgressShown("actions from frames", STEPS, shown=progress) as shown:
            for step in range(STEPS):
                loss = self.loss(rng.choice(rows, BATCH))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                shown.update(step + 1, f"loss {loss.item():.4f}" if step % 20 == 0 else None)
        self.eval()

    @torch.inference_mode()
    def held_out_error(self) -> float:
        """Mean squared error of blocks of held-out episodes."""
        rows = self.pairs(self.data.held_out)
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), HELD_OUT_PAIRS)).round().astype(np.int64)]
        chunks = np.array_split(rows, -(-len(rows) // AT_ONCE))
        return sum(float(self.error(chunk)) * len(chunk) for chunk in chunks) / len(rows)

    @torch.inference_mode()
    def told(self) -> NDArray[np.float32]:
        """Actions (rows, A) of the dataset, where they are awaited those that are told; none after a last frame."""
        dataset = self.data.dataset
        own = dataset.actions[dataset.row_mask(self.data.train)]
        own = own[np.isfinite(own).all(axis=1)]
        actions = dataset.actions.copy()
        for episode in dataset.awaited.tolist():
            first, length = dataset.episode_starts[episode], dataset.episode_lengths[episode]
            told = np.clip(self._of_episode(episode, own.mean(axis=0)), own.min(axis=0), own.max(axis=0))
            actions[first : first + length] = np.eye(told.shape[1])[told.argmax(axis=1)] if self.discrete else told
            actions[first + length - 1] = np.nan
        return actions

    def _of_episode(self, episode: int, otherwise: NDArray[np.float32]) -> NDArray[np.float32]:
        """Means (n, A) of what all pairs of frames tell of each action; ``otherwise`` (A,) where there are none."""
        dataset = self.data.dataset
        frames, first = dataset.frame_rows(np.array([episode])), dataset.episode_starts[episode]
        apart, length = self.skip // dataset.frame_interval, dataset.episode_lengths[episode]
        sums, counts = np.zeros((length, dataset.action_dim), np.float32), np.zeros((length, 1), np.float32)
        if len(frames) > apart:
            latents = torch.cat([self.latents(some) for some in np.array_split(frames, -(-len(frames) // AT_ONCE))])
            blocks = self.codec.actions(self.between(latents[:-apart], latents[apart:])).cpu().numpy()
            within = frames[: len(blocks), None] - first + np.arange(self.skip)
            np.add.at(sums, within, blocks)
            np.add.at(counts, within, 1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), otherwise)


class _CodeTeller(_Teller):
    """Tells by codes of what happens, learned from the frames of all episodes; the labelled say what a code means."""

    head: LatentActions

    def __init__(self, model: Learner, settings: AgentSettings, data: FinishData) -> None:
        super().__init__(model, settings, data)
        self.sigreg = SIGReg()

    @staticmethod
    def new_head(latent_dim: int, block_dim: int) -> nn.Module:
        """Codes and what they mean."""
        return LatentActions(latent_dim, block_dim)

    @property
    def learned_from(self) -> NDArray[np.int64]:
        """All episodes whose actions are known or wanted."""
        return np.union1d(self.data.train, self.data.dataset.awaited)

    def between(self, before: Tensor, after: Tensor) -> Tensor:
        """Latents (N, D), and those a block later, to blocks (N, block_dim)."""
        blocks: Tensor = self.head(before, after)
        return blocks

    def loss(self, rows: NDArray[np.int64]) -> Tensor:
        """That of the codes; latents that learn are kept from collapse as LeWM's are."""
        before, after = self.ends(rows)
        loss = self.head.loss(before, after)
        return loss + SIGREG_WEIGHT * self.sigreg(torch.stack([before, after])) if self.learns else loss

    def learn(self, seed: int, progress: bool) -> None:
        """Train on frames, then learn from the labelled episodes what a code means."""
        super().learn(seed, progress)
        rows = self.pairs(self.data.train)
        with torch.inference_mode():
            ends = [self.ends(some) for some in np.array_split(rows, -(-len(rows) // AT_ONCE))]
            before, after = (torch.cat(latents) for latents in zip(*ends, strict=True))
            self.head.read(before, after, self.blocks(rows))


TELLERS: dict[str, type[_Teller]] = {"inverse": _Teller, "latent": _CodeTeller}
"""What ``labels_by`` names: an inverse-dynamics model of the labelled episodes, or latent actions of all."""


def _read(file: Path, request: str) -> dict[str, NDArray[Any]] | None:
    """What the file has, if it is whole and was told for this request."""
    try:
        with np.load(file) as arrays:
            kept = dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return kept if str(kept.get("request")) == request else None
