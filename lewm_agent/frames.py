"""Pictures of any size, made the model's size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resized(frames: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """Frames (..., H, W, 3) uint8 as (..., side, side, 3): averaged when smaller, stretched when not square."""
    if frames.shape[-3:-1] == (side, side):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:])
    pictures = [Image.fromarray(frame).resize((side, side), Image.Resampling.BOX) for frame in flat]
    return np.stack([np.asarray(picture) for picture in pictures]).reshape(*frames.shape[:-3], side, side, 3)
