"""From frames to the moments of a few masks: where the things of each color are, how they lie and how large they look.

A pixel is taken for one thing that covers the background in part, as the edge of a thing does in a smoothed picture:
with background b and the color c of a thing, its share a of the pixel is the a in [0, 1] for which b + a (c - b) comes
nearest to the pixel. Which thing it is, is decided softly by the squared error that is left, as a share of the change.
The moments of such masks tell places and angles to a small part of a pixel.

This is a strong prior: few things, of different colors, before a background that stands still.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

POWERS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3))
"""Powers of x and y in the moments of one mask, in the order in which they stand in a latent."""
NUMBERS = len(POWERS)
"""Numbers per mask: mass, centroid (2), and central moments of second (3) and third order (4)."""
FAINT = 6.0
"""Least change of a color, of 255, in which a pixel counts as different from the background."""

_EXCHANGE = [POWERS.index((j, i)) for i, j in POWERS]
_SPREAD, _LOPSIDED = 0.12, 0.19  # half sides of the picture; the units of second and third moments are their powers
_SHARPNESS = 100.0  # of the choice between things, at the start
_LEAST_MASS = 0.02  # of the usual mass; what is smaller has hardly a place
_WHOLE = 0.8  # of the usual mass; of what shows less, part is hidden or out of the picture
_LEAST_SCALE = 0.2  # what varies less, such as the shape of a disk, is not blown up to variance 1
_CANDIDATES, _ROUNDS = 300, 5  # of the search for a palette
_SOLID = 0.9  # share of a pixel from which its color is the thing's own
_MOST_PIXELS = 30_000
_SHADES = 24  # levels of each color that are told apart where shades are counted


class Moments(nn.Module):
    """Frames (B, H, W, 3) uint8, H = W, to standardised moments (B, masks * 10).

    Background, palette, and the usual values and scales of moments come from :meth:`start_from`; palette and sharpness
    are parameters. Mirror images share their scales, and moments that change sign with a mirror are not shifted, so
    that mirrors of the picture act on latents by signs and exchanges alone (:class:`Turn`).

    Args:
        masks: how many colors, and so many masks.
        size: height and width of the frames.
    """

    background: Tensor
    usual_mass: Tensor
    center: Tensor
    scale: Tensor
    basis: Tensor

    def __init__(self, masks: int, size: int) -> None:
        super().__init__()
        self.masks = masks
        self.palette = nn.Parameter(torch.rand(masks, 3))
        self.log_sharpness = nn.Parameter(torch.tensor(_SHARPNESS).log())
        self.register_buffer("background", torch.full((size, size, 3), 255.0))
        self.register_buffer("usual_mass", torch.ones(masks))
        self.register_buffer("center", torch.zeros(masks * NUMBERS))
        self.register_buffer("scale", torch.ones(masks * NUMBERS))
        self.register_buffer("basis", coordinates(size), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Standardised moments of frames."""
        return self.explained(frames)[0]

    def explained(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised moments of frames, and (B,) what the colors leave unexplained.

        That is the sum over pixels of the squared difference from the nearest color that things before the background
        can have. Frames like the training data's leave little, those in another look much.
        """
        moments, left = self._moments(frames)
        return _standard(moments, self.center, self.scale), left

    @torch.no_grad()
    def start_from(self, frames: Tensor) -> None:
        """Take background, palette and scales from frames (N, H, W, 3) uint8 of the training data.

        Raises:
            ValueError: nothing moves in them.
        """
        self.background.copy_(frames.median(dim=0).values)
        frame, _, colors, backgrounds = self._foreground(frames)
        if not len(colors):
            raise ValueError("nothing moves in these frames, so there is nothing for an encoder of moments to follow")
        step = -(-len(colors) // _MOST_PIXELS)
        self.palette.copy_(find_palette(colors[::step], backgrounds[::step], self.masks))
        masks, _ = self._masks(colors, backgrounds)
        mass = masks.new_zeros(len(frames), self.masks).index_add(0, frame, masks)
        self.usual_mass.copy_(mass.median(dim=0).values.clamp(min=1.0))
        self.center.zero_()
        self.scale.fill_(1.0)
        self._standardize(self._moments(frames)[0])

    def _standardize(self, moments: Tensor) -> None:
        center, scale = self.center.view(self.masks, NUMBERS), self.scale.view(self.masks, NUMBERS)
        for number, (i, j) in enumerate(POWERS):
            both = torch.cat([moments[..., number], moments[..., _EXCHANGE[number]]])
            if i % 2 == j % 2 == 0:
                center[:, number] = both.mean(dim=0)
            scale[:, number] = (both - center[:, number]).square().mean(dim=0).sqrt().clamp(min=_LEAST_SCALE)

    def _foreground(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels that are not background: frames and places (n,), colors and backgrounds (n, 3) of 0 to 1.

        They are few, and what is computed of them alone costs a fraction.
        """
        pixels, usual = frames.flatten(1, 2), self.background.flatten(0, 1)
        whole = usual.round().to(torch.int16)
        frame, place = ((pixels - whole).abs().amax(dim=-1) > FAINT).nonzero(as_tuple=True)
        return frame, place, pixels[frame, place] / 255, usual[place] / 255

    def _masks(self, colors: Tensor, backgrounds: Tensor) -> tuple[Tensor, Tensor]:
        """Share of each thing (n, masks) in pixels (n, 3) before backgrounds (n, 3), and squared errors (n,)."""
        share, left = shares(colors, backgrounds, self.palette)
        change = (colors - backgrounds).square().sum(dim=-1, keepdim=True) + (FAINT / 255) ** 2
        return share * torch.softmax(-left / change * self.log_sharpness.exp(), dim=-1), left.amin(dim=-1)

    @torch.no_grad()
    def masks_of(self, frames: Tensor) -> Tensor:
        """Shares of the pixels (B, masks, H, W), 0 to 1."""
        frame, place, colors, backgrounds = self._foreground(frames)
        whole = colors.new_zeros(len(frames), frames.shape[1] * frames.shape[2], self.masks)
        whole[frame, place], _ = self._masks(colors, backgrounds)
        return whole.transpose(1, 2).unflatten(2, frames.shape[1:3])

    def _moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Moments (B, masks, 10), not standardised, and what is left unexplained (B,)."""
        frame, place, colors, backgrounds = self._foreground(frames)
        masks, errors = self._masks(colors, backgrounds)
        weighted = (masks[:, :, None] * self.basis[place][:, None]).flatten(1)
        raw = weighted.new_zeros(len(frames), weighted.shape[1]).index_add(0, frame, weighted)
        left = errors.new_zeros(len(frames)).index_add(0, frame, errors)
        return _central(raw.unflatten(1, (self.masks, NUMBERS)), self.usual_mass), left


def coordinates(size: int) -> Tensor:
    """Powers of x and y, of -1 to 1, at the pixels of a picture of that size, (size * size, 10)."""
    along = (torch.arange(size) + 0.5) / size * 2 - 1
    x, y = along.repeat(size), along.repeat_interleave(size)
    return torch.stack([x**i * y**j for i, j in POWERS], dim=1)


def standard_moments(raw: Tensor, usual_mass: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """Latents (B, K * 10) from sums (B, K, 10) over masks times :func:`coordinates`."""
    return _standard(_central(raw, usual_mass), center, scale)


def _standard(moments: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    standardised: Tensor = (moments.flatten(1) - center) / scale
    return standardised


def shares(colors: Tensor, backgrounds: Tensor, palette: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each pixel each color of the palette (K, 3) would cover by itself.

    Returns:
        Shares (n, K) of 0 to 1, and the squared errors (n, K) that they leave.
    """
    change = colors - backgrounds
    # squares and products of differences, without a tensor of (n, K, 3)
    size = palette.square().sum(-1) - 2 * backgrounds @ palette.T + backgrounds.square().sum(-1, keepdim=True)
    along = change @ palette.T - (change * backgrounds).sum(-1, keepdim=True)
    share = (along / size.clamp(min=1e-4)).clamp(0, 1)
    left = change.square().sum(-1, keepdim=True) - 2 * share * along + share.square() * size
    return share, left.clamp(min=0)


def of_every_shade(colors: Tensor) -> Tensor:
    """Indices of some of the pixels (n, 3), in which each shade counts by the root of its share.

    Otherwise a palette would be of what is large: arm and shadow, but not the cube.
    """
    levels = (colors * _SHADES).long().clamp(max=_SHADES - 1)
    shade = (levels * levels.new_tensor([_SHADES**2, _SHADES, 1])).sum(dim=-1)
    _, which, counts = shade.unique(return_inverse=True, return_counts=True)
    order = which.argsort(stable=True)
    reached = counts[which[order]].double().rsqrt().cumsum(dim=0)
    evenly = (torch.arange(_MOST_PIXELS, device=colors.device) + 0.5) * (reached[-1] / _MOST_PIXELS)
    return order[torch.searchsorted(reached, evenly).clamp(max=len(order) - 1)]


def find_palette(colors: Tensor, backgrounds: Tensor, count: int) -> Tensor:
    """The colors (count, 3) that together explain pixels (n, 3) before backgrounds (n, 3) best.

    Greedily chosen among pixels of every shade, then replaced by the median of the pixels that each covers wholly.
    """
    shown = of_every_shade(colors)
    candidates = colors[shown[:: -(-len(shown) // _CANDIDATES)]]
    left = (colors - backgrounds).square().sum(-1)[shown]
    errors = shares(colors[shown], backgrounds[shown], candidates)[1]
    chosen = []
    for _ in range(count):
        best = int(torch.minimum(errors, left[:, None]).sum(dim=0).argmin())
        chosen.append(candidates[best])
        left = torch.minimum(left, errors[:, best])
    palette = torch.stack(chosen)
    for _ in range(_ROUNDS):
        share, error = shares(colors, backgrounds, palette)
        thing = error.argmin(dim=1)
        whole = share.gather(1, thing[:, None])[:, 0] > _SOLID
        own = [colors[whole & (thing == number)] for number in range(count)]
        palette = torch.stack([c.median(dim=0).values if len(c) else old for c, old in zip(own, palette, strict=True)])
    return palette


def _central(raw: Tensor, usual_mass: Tensor) -> Tensor:
    """Raw moments (B, K, 10) over coordinates of -1 to 1 to mass, centroid and central moments, all of order 1."""
    mass = raw[..., 0]
    _, x, y, xx, xy, yy, xxx, xxy, xyy, yyy = (
        raw / torch.maximum(mass, _LEAST_MASS * usual_mass).unsqueeze(-1)
    ).unbind(-1)
    second = [xx - x * x, xy - x * y, yy - y * y]
    third = [
        xxx - 3 * x * xx + 2 * x**3,
        xxy - 2 * x * xy - y * xx + 2 * x * x * y,
        xyy - 2 * y * xy - x * yy + 2 * x * y * y,
        yyy - 3 * y * yy + 2 * y**3,
    ]
    whole = (mass / (_WHOLE * usual_mass)).clamp(max=1).square()  # the shape of what is left of a thing tells little
    spread = [whole * torch.asinh(moment / _SPREAD**2) for moment in second]
    lopsided = [whole * torch.asinh(moment / _LOPSIDED**3) for moment in third]
    return torch.stack([mass / usual_mass, x, y, *spread, *lopsided], dim=-1)


class Turn:
    """Turns and mirrors of the picture, one for each of B rows: mirror x, mirror y, then exchange x and y.

    Args:
        vectors: (B, 2); the turn takes each into the octant between the x axis and the diagonal.
    """

    def __init__(self, vectors: Tensor) -> None:
        self._signs = torch.where(vectors < 0, -1.0, 1.0)
        self._exchanged = (vectors[:, 1].abs() > vectors[:, 0].abs())[:, None]
        odd = torch.tensor(POWERS, device=vectors.device) % 2 > 0
        self._of_moments = torch.where(odd, self._signs[:, None], 1.0).prod(dim=-1)

    def vectors(self, vectors: Tensor) -> Tensor:
        """Vectors (B, T, 2), such as actions, turned."""
        turned = vectors * self._signs[:, None]
        return torch.where(self._exchanged[:, None], turned.flip(-1), turned)

    def latents(self, latents: Tensor) -> Tensor:
        """Latents (B, masks * 10) of the turned pictures."""
        moments = latents.unflatten(-1, (-1, NUMBERS)) * self._of_moments[:, None]
        return self._exchange(moments).flatten(1)

    def latents_back(self, latents: Tensor) -> Tensor:
        """Inverse of :meth:`latents`."""
        moments = self._exchange(latents.unflatten(-1, (-1, NUMBERS))) * self._of_moments[:, None]
        return moments.flatten(1)

    def _exchange(self, moments: Tensor) -> Tensor:
        return torch.where(self._exchanged[:, None], moments[..., _EXCHANGE], moments)
