"""A predictor of what changes: a gated residual perceptron on one latent, one action block and the block before it.

The block before tells how fast things are at the start, which one frame does not show.

With an encoder of moments it also sees where things are relative to one another, and if the world looks and behaves the
same in a mirror, every block is predicted in the octant of its own push: signs and an exchange of moments take the
latent there and back, exactly and at no cost, and only an eighth of all situations remains to be learned.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_agent.models.predictor import Head, ModelConfig
from lewm_agent.models.seeing.moments import NUMBERS, Turn

_RELATIVE_SCALE = 3.0  # things that touch are a tenth of the picture apart
_ABSOLUTE_SCALE = 0.3  # where in the picture it is matters at the walls only


class _Layer(nn.Module):
    """LayerNorm, then a gated layer, added to its input (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        value, gate = self.inner(self.norm(hidden)).chunk(2, dim=-1)
        added: Tensor = hidden + self.outer(value * functional.silu(gate))
        return added


class ResidualPredictor(nn.Module):
    """Latents and action blocks to next latents; with a history of 2 it also sees the block before.

    It has the interface of :class:`lewm_agent.models.predictor.Predictor`; its conditions are the normalised action
    blocks as they are.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._action_dim, self._history = config.action_dim, config.history
        self._of_moments = config.of_moments
        self._mirrored = config.symmetry == "square"
        pairs = list(itertools.combinations(range(config.masks), 2)) if self._of_moments else []
        self._first, self._second = [a for a, _ in pairs], [b for _, b in pairs]
        width, latent_dim = config.predictor_width, config.latent_dim
        self.inner = nn.Linear(latent_dim + 2 * len(pairs) + config.history * config.block_dim, width)
        self.layers = nn.Sequential(*(_Layer(width) for _ in range(config.predictor_depth)))
        self.norm = nn.LayerNorm(width)
        self.change, self.gate = nn.Linear(width, latent_dim), nn.Linear(width, latent_dim)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """Entry k of the result (B, T, latent_dim) comes of latent k and of blocks k - 1 and k (B, T, block_dim)."""
        before = torch.cat([torch.zeros_like(conditions[:, :1]), conditions[:, :-1]], dim=1)
        next_latents: Tensor = self._next(*(x.flatten(0, 1) for x in (latents, before, conditions)))
        return next_latents.unflatten(0, latents.shape[:2])

    def predict_in_training(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """What training compares with the next latents (B, T, latent_dim): the history, and all imagined from it.

        Those of the history stand for themselves: what led to the first frame of a clip is not known.
        """
        known = latents[:, : self._history]
        return torch.cat([known[:, 1:], self.imagine(known, [conditions], nn.Identity())], dim=1)

    def imagine(self, known: Tensor, modulations: list[Tensor], head: Head) -> Tensor:
        """Latents (B, P, latent_dim) after each of P blocks; arguments as for ``Predictor.imagine``."""
        latents, imagined = known[:, -1], []
        steps = known.shape[1] - 1
        before = modulations[0][:, steps - 1] if steps else torch.zeros_like(modulations[0][:, 0])
        for block in modulations[0][:, steps:].unbind(dim=1):
            latents = self._next(latents, before, block)
            imagined.append(latents)
            before = block
        return torch.stack(imagined, dim=1)

    def modulations(self, conditions: Tensor) -> list[Tensor]:
        """The blocks (B, T, block_dim) themselves."""
        return [conditions]

    def _next(self, latents: Tensor, before: Tensor, blocks: Tensor) -> Tensor:
        """Latents (B, latent_dim) after blocks (B, block_dim) that follow others (B, block_dim)."""
        seen = torch.cat([before, blocks], dim=-1) if self._history > 1 else blocks
        if not self._mirrored:
            return latents + self._change(latents, seen)
        turn = Turn(blocks.unflatten(-1, (-1, self._action_dim)).mean(dim=1))
        actions = seen.unflatten(-1, (-1, self._action_dim))
        change = self._change(turn.latents(latents), turn.vectors(actions).flatten(1))
        return latents + turn.latents_back(change)

    def _change(self, latents: Tensor, blocks: Tensor) -> Tensor:
        seen = [latents, blocks]
        if self._of_moments:
            moments = latents.unflatten(-1, (-1, NUMBERS))
            places = moments[..., 1:3]
            apart = places[:, self._first] - places[:, self._second]
            rest = torch.cat([moments[..., :1], _ABSOLUTE_SCALE * places, moments[..., 3:]], dim=-1)
            seen = [rest.flatten(1), _RELATIVE_SCALE * apart.flatten(1), blocks]
        hidden = self.norm(self.layers(self.inner(torch.cat(seen, dim=-1))))
        change: Tensor = self.change(hidden) * torch.sigmoid(self.gate(hidden))
        return change
