"""Frames in other colors, so that latents learn to leave colors out.

The colors that other light, another camera or other paint would give cannot be predicted from one frame to the next
if every frame has its own, so a latent that follows them only adds to the prediction error. Colors that stay the same
through a clip would cost nothing, and would fill the latent (``docs/findings/results.md``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lewm_agent.models import whole_batch


def jittered(frames: Tensor, strength: float) -> Tensor:
    """Every frame under a random affine map of its colors, which can take any four of them to any four others.

    Args:
        frames: (B, H, W, 3), 0 to 255.
        strength: standard deviation of the change of a channel, as a share of 255, for the purest colors; of gray it is
            half of that.

    Returns:
        (B, H, W, 3) float32, 0 to 255.
    """
    gray, device = 127.5, frames.device
    mixing = torch.eye(3, device=device) + strength * whole_batch.randn(len(frames), 3, 3, device=device)
    shift = gray + gray * strength * whole_batch.randn(len(frames), 3, 1, device=device)
    planes = frames.permute(0, 3, 1, 2).contiguous().float() - gray
    with torch.autocast(device.type, enabled=False):  # bfloat16 would round 255 grey levels
        changed = torch.baddbmm(shift, mixing, planes.flatten(2)).clamp_(0, 255)
    return changed.view(planes.shape).permute(0, 2, 3, 1)
