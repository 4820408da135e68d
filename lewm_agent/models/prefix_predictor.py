"""A predictor that imagines all latents of a plan at once, without feeding its own predictions back.

After the last real frame come blank tokens, each conditioned on one action block: what stands at the k-th says where
the first k blocks lead. Errors then do not add up along the plan, and a plan takes one pass instead of one per block
(as in Fast-LeWM's action-prefix predictor; this one is LeWM's transformer with blanks).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lewm_agent.models.predictor import Head, ModelConfig, Predictor


class PrefixPredictor(Predictor):
    """LeWM's predictor over real frames followed by blanks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.clip_frames - 1)
        self.prefix_length = config.prefix_length
        self.blank = nn.Parameter(torch.zeros(config.latent_dim))

    def predict_in_training(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """Predictions (B, T, latent_dim) from a drawn number of real frames, 1 to ``history``, and blanks."""
        known = int(torch.randint(1, self.history + 1, ()))
        return self(self._with_blanks(latents[:, :known], latents.shape[1]), conditions)

    def imagine(self, known: Tensor, modulations: list[Tensor], head: Head) -> Tensor:
        """As :meth:`Predictor.imagine`, ``prefix_length`` blocks at once; more go on from the imagined latents."""
        frames, steps = known.shape[1], modulations[0].shape[1] - known.shape[1] + 1
        length = frames + min(steps, self.prefix_length) - 1
        tokens = self._with_blanks(known, length)
        outputs = self._run(tokens, [m[:, :length] for m in modulations], None, last_only=False)
        imagined = head(outputs[:, frames - 1 :])
        if steps <= self.prefix_length:
            return imagined
        sequence = torch.cat([known, imagined], dim=1)
        last = sequence[:, -self.history :]
        further = self.imagine(last, [m[:, sequence.shape[1] - last.shape[1] :] for m in modulations], head)
        return torch.cat([imagined, further], dim=1)

    def _with_blanks(self, known: Tensor, length: int) -> Tensor:
        blanks = self.blank.expand(len(known), length - known.shape[1], -1)
        return torch.cat([known, blanks], dim=1)


def make_predictor(config: ModelConfig) -> Predictor:
    """The one that ``config.predictor`` names."""
    return PrefixPredictor(config) if config.predictor == "prefix" else Predictor(config)
