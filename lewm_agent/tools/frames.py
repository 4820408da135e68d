"""Frames as they are given, made what the model takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def as_rgb(frame: NDArray[Any]) -> NDArray[Any]:
    """One picture as (H, W, 3), if it is grey (H, W) or (H, W, 1), RGBA (H, W, 4), whose last is dropped, or (3, H, W).

    Anything else comes back as it is.
    """
    if frame.ndim == 2:
        frame = frame[..., None]
    if frame.ndim == 3 and frame.shape[0] in (1, 3, 4) and frame.shape[2] not in (1, 3, 4):
        frame = frame.transpose(1, 2, 0)
    if frame.ndim != 3 or frame.shape[2] not in (1, 4):
        return frame
    return frame[..., :3] if frame.shape[2] == 4 else frame.repeat(3, axis=2)


def resized(frames: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """Frames (..., H, W, 3) uint8 as (..., side, side, 3): averaged when smaller, stretched when not square."""
    if frames.shape[-3:-1] == (side, side):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:])
    pictures = [Image.fromarray(frame).resize((side, side), Image.Resampling.BOX) for frame in flat]
    return np.stack([np.asarray(picture) for picture in pictures]).reshape(*frames.shape[:-3], side, side, 3)


def checked_frames(observation: dict[str, NDArray[np.uint8]], key: str, side: int) -> NDArray[np.uint8]:
    """The frames (N, side, side, 3) under ``key``, given as N of any size or as one, which may also be grey or RGBA.

    Raises:
        ValueError: there are none, or they are not uint8 frames.
    """
    if not isinstance(observation, dict) or key not in observation:
        raise ValueError("an observation is a dict with `pixels` and `goal`")
    frames = np.asarray(observation[key])
    if frames.dtype != np.uint8:
        raise ValueError(f"`{key}` must be uint8 frames in [0, 255], got {frames.dtype}")
    frames = as_rgb(frames) if frames.ndim < 4 else frames
    if frames.ndim not in (3, 4) or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"`{key}` must be (H, W, 3) or (N, H, W, 3), got {frames.shape}")
    return resized(frames if frames.ndim == 4 else frames[None], side)
