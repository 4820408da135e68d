"""Frames in another look, so that latents learn to leave the look out.

What other light, another camera or other paint would change cannot be predicted from one frame to the next if every
frame has its own, so a latent that follows it only adds to the prediction error. A look that stays the same through a
clip would cost nothing, and would fill the latent (``docs/findings/looks.md``).

A look is a list of parts, each with a strength. All draw for every frame of its own, where torchvision's functions
take one strength for a whole batch, and for the whole batch on every rank (:mod:`lewm_agent.models.whole_batch`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lewm_agent.models import whole_batch
from lewm_agent.tools.checks import named, require

GRAY = 127.5
LUMA = (0.299, 0.587, 0.114)
PATCHES, PAINTS = 3, 3
"""Patches that ``clutter`` puts into a frame, and colors of it that ``paint`` changes."""
NEAR = 30.0
"""Distance of a color, of 255 a channel, at which ``paint`` changes it by some two thirds of the whole."""
BLUR_REACH = 3

Camera = Tensor
"""Where the pixels of a frame come from, as ``torch.nn.functional.affine_grid`` has it, (B, 2, 3)."""


def colors(planes: Tensor, strength: float) -> Tensor:
    """A random affine map of the colors of each frame, which can take any four of them to any four others.

    ``strength`` is the standard deviation of the change of a channel, as a share of 255, for the purest colors; of gray
    it is half of that.
    """
    count, device = len(planes), planes.device
    mixing = torch.eye(3, device=device) + strength * whole_batch.randn(count, 3, 3, device=device)
    shift = GRAY + GRAY * strength * whole_batch.randn(count, 3, 1, device=device)
    return torch.baddbmm(shift, mixing, planes.flatten(2) - GRAY).view(planes.shape)


def paint(planes: Tensor, strength: float) -> Tensor:
    """Three times another color for all that has nearly the color of some pixel, so that things change one by one.

    The pixel is any, or one that stands out. ``strength`` is the standard deviation of the change, as a share of 255.
    """
    count, device, pixels = len(planes), planes.device, planes.shape[2] * planes.shape[3]
    flat = planes.flatten(2)
    apart = (flat - flat.mean(dim=2, keepdim=True)).square().sum(dim=1).cumsum(dim=1)
    chosen = whole_batch.uniform(count, 2, PAINTS, device=device)
    outstanding = torch.searchsorted(apart, chosen[:, 1] * apart[:, -1:])
    pixel = torch.where(chosen[:, 0] < 0.5, outstanding, (chosen[:, 1] * pixels).long()).clamp(max=pixels - 1)
    color = flat.gather(2, pixel[:, None].expand(-1, 3, -1))
    distance = flat.square().sum(dim=1, keepdim=True) + color.square().sum(dim=1)[..., None]
    distance = torch.baddbmm(distance, color.transpose(1, 2), flat, alpha=-2)
    change = 255 * strength * whole_batch.randn(count, 3, PAINTS, device=device)
    return torch.baddbmm(flat, change, torch.exp(distance * (-0.5 / NEAR**2))).view(planes.shape)


def hue(planes: Tensor, strength: float) -> Tensor:
    """All colors of a frame turned about the gray ones by an angle of deviation ``strength``, in half turns."""
    angle = math.pi * strength * whole_batch.randn(len(planes), 1, 1, device=planes.device)
    along = torch.full((3, 3), 1 / 3, device=planes.device)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=planes.device) / math.sqrt(3)
    turn = angle.cos() * torch.eye(3, device=planes.device) + (1 - angle.cos()) * along + angle.sin() * across
    return (turn @ planes.flatten(2)).view(planes.shape)


def brightness(planes: Tensor, strength: float) -> Tensor:
    """All values of a frame times the exponential of a number of standard deviation ``strength``."""
    return planes * _factors(planes, strength)


def contrast(planes: Tensor, strength: float) -> Tensor:
    """Differences from the mean gray of a frame times the exponential of a number of deviation ``strength``."""
    weights = torch.tensor(LUMA, device=planes.device)[:, None, None]
    mean = (planes * weights).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    return mean + (planes - mean) * _factors(planes, strength)


def light(planes: Tensor, strength: float) -> Tensor:
    """Brighter towards one side: values at the edge change by a factor of about 1 + ``strength``, across by 1."""
    slope = strength * whole_batch.randn(len(planes), 2, 1, 1, device=planes.device)
    down, right = (torch.linspace(-1, 1, side, device=planes.device) for side in planes.shape[2:])
    return planes * torch.exp(slope[:, :1] * right + slope[:, 1:] * down[:, None])


def clutter(planes: Tensor, strength: float) -> Tensor:
    """Three rectangles of any color anywhere, their sides ``strength`` to twice that, in sides of the picture."""
    for _ in range(PATCHES):
        drawn = whole_batch.uniform(len(planes), 7, device=planes.device)
        half_sides = 0.5 * strength + 0.5 * strength * drawn[:, 2:4]
        across, down = (_covered(drawn[:, i], half_sides[:, i], planes.shape[3 - i]) for i in (0, 1))
        planes = torch.lerp(planes, 255 * drawn[:, 4:, None, None], (down[:, :, None] * across[:, None])[:, None])
    return planes


def blur(planes: Tensor, strength: float) -> Tensor:
    """Each frame under a Gaussian of its own, whose standard deviation is half-normal with ``strength``, in pixels."""
    sigma = (strength * whole_batch.randn(len(planes), 1, device=planes.device)).abs().clamp(min=1e-2)
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=planes.device)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)[:, None]
    flat = planes.reshape(1, -1, *planes.shape[2:])
    flat = functional.pad(flat, [BLUR_REACH] * 4, mode="replicate")
    flat = functional.conv2d(flat, kernel[..., None], groups=len(kernel))
    return functional.conv2d(flat, kernel[:, :, None], groups=len(kernel)).view(planes.shape)


def noise(planes: Tensor, strength: float) -> Tensor:
    """Noise on every value, whose standard deviation in a frame is half-normal with ``strength``, a share of 255."""
    size = 255 * strength * whole_batch.randn(len(planes), 1, 1, 1, device=planes.device).abs()
    return planes + size * whole_batch.randn(len(planes), *planes.shape[1:], device=planes.device)


PARTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "paint": paint,
    "colors": colors,
    "hue": hue,
    "brightness": brightness,
    "contrast": contrast,
    "light": light,
    "clutter": clutter,
    "blur": blur,
    "noise": noise,
}
"""What changes the values of frames as planes (B, 3, H, W), 0 to 255, which may leave that range, by name."""
CAMERA = "camera"
"""The part that moves the whole picture, by shift, zoom and turn."""
SETS = {
    "look": "camera=0.02,paint=0.15,colors=0.2,hue=0.05,brightness=0.15,contrast=0.15,light=0.15,clutter=0.06,"
    "blur=0.5,noise=0.01",
}
"""Named lists; what they bring is in ``docs/findings/looks.md``."""


@dataclass(frozen=True)
class Augmentations:
    """Parts of a look and their strengths, in the order in which they come."""

    parts: tuple[tuple[str, float], ...] = ()

    @staticmethod
    def of(text: str) -> Augmentations:
        """From a named set (``look``), a list (``colors=0.2,noise=0.01``), or both; empty for none.

        Raises:
            ValueError: an unknown part, one that is there twice, or a strength that is no positive number.
        """
        parts: dict[str, float] = {}
        for item in filter(None, ",".join(SETS.get(item.strip(), item) for item in text.split(",")).split(",")):
            name, _, number = (half.strip() for half in item.partition("="))
            named(name, dict.fromkeys([CAMERA, *PARTS, *SETS]), "augmentation")
            require(name not in parts, f"augmentation {name} is there twice in {text!r}")
            parts[name] = _strength(name, number)
        return Augmentations(tuple(parts.items()))

    def __str__(self) -> str:
        """As :meth:`of` reads it."""
        return ",".join(f"{name}={strength:g}" for name, strength in self.parts)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames (B, H, W, 3), 0 to 255, each in a look of its own, as float32."""
        return self.seen(frames)[0]

    def seen(self, frames: Tensor) -> tuple[Tensor, Camera]:
        """The same, and through which camera each is seen."""
        planes = frames.permute(0, 3, 1, 2).contiguous().float()
        camera = torch.eye(2, 3, device=frames.device).expand(len(frames), 2, 3)
        with torch.autocast(frames.device.type, enabled=False):  # bfloat16 would round 255 grey levels
            for name, strength in self.parts:
                if name == CAMERA:
                    camera = drawn_camera(len(frames), strength, frames.device)
                    planes = through(camera, planes)
                else:
                    planes = PARTS[name](planes, strength).clamp_(0, 255)
        return planes.permute(0, 2, 3, 1), camera


def drawn_camera(count: int, strength: float, device: torch.device) -> Camera:
    """Cameras whose shift, in sides of the picture, zoom and turn, in rad, have this standard deviation."""
    drawn = strength * whole_batch.randn(count, 4, device=device)
    zoom, turn = torch.exp(drawn[:, 0]), drawn[:, 1]
    cosine, sine = zoom * turn.cos(), zoom * turn.sin()
    shift = 2 * drawn[:, 2:]  # a picture is two units wide
    return torch.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], dim=1).view(count, 2, 3)


def through(camera: Camera, planes: Tensor, padding: str = "border") -> Tensor:
    """Planes (B, C, H, W) as seen through cameras; beyond the picture there is its edge, or with ``zeros`` nothing."""
    grid = functional.affine_grid(camera, list(planes.shape), align_corners=False)
    return functional.grid_sample(planes, grid, padding_mode=padding, align_corners=False)


def _strength(name: str, number: str) -> float:
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    require(
        math.isfinite(strength) and strength > 0,
        f"augmentation {name} needs a strength, a positive number, as in {name}=0.1; got {number!r}",
    )
    return strength


def _factors(planes: Tensor, strength: float) -> Tensor:
    return torch.exp(strength * whole_batch.randn(len(planes), 1, 1, 1, device=planes.device))


def _covered(middle: Tensor, half: Tensor, pixels: int) -> Tensor:
    """Which share of each of a row of pixels lies within so much of a middle, (B, pixels), in sides of the picture."""
    low = torch.arange(pixels, device=middle.device) / pixels
    ends = torch.minimum((middle + half)[:, None], low + 1 / pixels) - torch.maximum((middle - half)[:, None], low)
    return ends.clamp(min=0) * pixels
