"""Moments, as :mod:`lewm_agent.models.seeing.moments` has them, of masks that a network finds in any look.

An encoder of moments knows things by their colors and everything else as background, so that in other light it sees
nothing, or all. Its masks are however what a network can be taught, pixel by pixel, from changed pictures whose masks
are known. Latents are the moments of these masks, in the same units, so that all that was trained on the former goes on
with the latter.

A network's masks are not as exact as those that colors tell. So an encoder looks first whether the colors that it knows
explain a frame, and asks the network about the others alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_agent.models.seeing.moments import NUMBERS, Moments, coordinates, standard_moments

COARSEST = 8
"""Side of what the network sees as one at its coarsest, in pixels."""
RARE = -4.0
"""Score of every mask before training: things are small."""
MARGIN = 1.5
"""How much more than of any usual frame colors may leave unexplained; other colors leave several times as much."""
FRAMES_AT_ONCE = 256
NOTHING = 0.02
"""Share of a pixel up to which a mask is empty: next to nothing in thousands of pixels would be more than a thing."""


class _Layer(nn.Sequential):
    """A 3 x 3 convolution, BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class LearnedMasks(nn.Module):
    """Frames (B, H, W, 3), H = W, to standardised moments (B, masks * 10), through masks that a U-Net finds.

    The network works on squares of two by two pixels, down to an eighth of the picture, whose mean tells what light
    there is, and is told where in the picture it looks.

    Args:
        masks: how many.
        size: height and width of the frames, a multiple of 8.
        width: channels at the coarsest of its four levels; the others have a half, a quarter and a quarter.

    Attributes:
        strange_above: what colors leave unexplained of a frame that the network is asked about, at least.
    """

    usual_mass: Tensor
    center: Tensor
    scale: Tensor
    basis: Tensor
    places: Tensor
    strange_above: Tensor

    def __init__(self, masks: int, size: int, width: int) -> None:
        super().__init__()
        self.masks = masks
        fine, middle = width // 4, width // 2
        self.fine = nn.Sequential(_Layer(14, fine), _Layer(fine, fine))
        self.middle = nn.Sequential(_Layer(fine, middle, 2), _Layer(middle, middle))
        self.coarse = nn.Sequential(_Layer(middle, width, 2), _Layer(width, width))
        self.whole = nn.Linear(width, width)
        self.to_middle = _Layer(width + middle, middle)
        self.to_fine = _Layer(middle + fine, fine)
        self.last = nn.Conv2d(fine, 4 * masks, 3, padding=1)
        nn.init.constant_(self.last.bias, RARE)  # type: ignore[arg-type]
        for name, like in (("usual_mass", masks), ("center", masks * NUMBERS), ("scale", masks * NUMBERS)):
            self.register_buffer(name, torch.ones(like))
        self.register_buffer("strange_above", torch.zeros(()))
        self.register_buffer("basis", coordinates(size), persistent=False)
        along = torch.linspace(-1, 1, size // 2)
        places = torch.stack([along.expand(size // 2, -1), along[:, None].expand(-1, size // 2)])
        self.register_buffer("places", places, persistent=False)

    def speak_like(self, moments: Moments) -> None:
        """Give latents in the units of an encoder of moments."""
        for name in ("usual_mass", "center", "scale"):
            getattr(self, name).copy_(getattr(moments, name))

    @torch.no_grad()
    def take_for_usual(self, moments: Moments, frames: Tensor) -> None:
        """Be asked about frames alone of which colors leave more unexplained than of these (N, H, W, 3)."""
        left = torch.cat([moments.explained(some)[1] for some in frames.split(FRAMES_AT_ONCE)])
        self.strange_above.copy_(MARGIN * left.max())

    def logits(self, planes: Tensor) -> Tensor:
        """Scores (B, masks, H, W) of normalised frames (B, 3, H, W)."""
        squares = functional.pixel_unshuffle(planes, 2)
        given = torch.cat([squares, self.places.expand(len(planes), -1, -1, -1)], dim=1)
        fine = self.fine(given.contiguous(memory_format=torch.channels_last))  # quicker on a CPU by a third
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        coarse = coarse + self.whole(coarse.mean(dim=(2, 3)))[:, :, None, None]
        middle = self.to_middle(torch.cat([_twice(coarse), middle], dim=1))
        fine = self.to_fine(torch.cat([_twice(middle), fine], dim=1))
        return functional.pixel_shuffle(self.last(fine), 2)

    def moments_of(self, logits: Tensor) -> Tensor:
        """Standardised moments (B, masks * 10) of scores (B, masks, H, W)."""
        return self.latents_of(_shares(logits))

    def latents_of(self, masks: Tensor) -> Tensor:
        """Standardised moments (B, masks * 10) of masks (B, masks, H, W), 0 to 1."""
        with torch.autocast(masks.device.type, enabled=False):
            raw = masks.flatten(2) @ self.basis
            return standard_moments(raw, self.usual_mass, self.center, self.scale)

    def centers_of(self, latents: Tensor) -> Tensor:
        """Where the middles of the masks are, (B, masks, 2) in pixels, up to a constant."""
        moments = (latents * self.scale).unflatten(-1, (self.masks, NUMBERS))
        return moments[..., 1:3] * (len(self.basis) ** 0.5 / 2)

    def forward(self, planes: Tensor) -> Tensor:
        """Latents of normalised frames (B, 3, H, W)."""
        return self.moments_of(self.logits(planes))


def _shares(logits: Tensor) -> Tensor:
    return (torch.sigmoid(logits.float()) - NOTHING).clamp(min=0) / (1 - NOTHING)


def _twice(planes: Tensor) -> Tensor:
    return functional.interpolate(planes, scale_factor=2.0, mode="bilinear", align_corners=False)
