"""What light and camera do to a picture that was drawn without them."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from lewm_agent.envs.factors import USUAL_CAMERA, Blot

Frame = npt.NDArray[np.uint8]
Corners = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


def in_light(frame: Frame, brightness: float, slope: tuple[float, float]) -> Frame:
    """A frame (H, W, 3) that much brighter, and that much more towards the right and lower edges than in the middle."""
    if brightness == 1.0 and slope == (0.0, 0.0):
        return frame
    down, right = (np.linspace(-1.0, 1.0, side, dtype=np.float32) for side in frame.shape[:2])
    factor = np.float32(brightness) * (1.0 + np.float32(slope[0]) * right + np.float32(slope[1]) * down[:, None])
    return np.rint(np.minimum(frame * factor[..., None], 255.0)).astype(np.uint8)


def through_camera(frame: Frame, camera: tuple[float, float, float, float]) -> Frame:
    """A square frame (S, S, 3) shifted right and down (sides), zoomed and turned (rad); its edge goes on beyond it."""
    if camera == USUAL_CAMERA:
        return frame
    places, weights = _corners(camera, len(frame))
    flat = frame.reshape(-1, 3)
    total = sum(weight[:, None] * flat[place] for place, weight in zip(places, weights, strict=True))
    return np.rint(total).astype(np.uint8).reshape(frame.shape)


@functools.lru_cache(maxsize=16)
def _corners(camera: tuple[float, float, float, float], size: int) -> Corners:
    """For each pixel, four pixels of the frame (4, S * S) between which it looks, and their weights."""
    right, down, zoom, turn = camera
    along = (np.arange(size) + 0.5) / size - 0.5
    x, y = along - right, along[:, None] - down
    cosine, sine = math.cos(turn) / zoom, math.sin(turn) / zoom
    across = np.clip((cosine * x + sine * y + 0.5) * size - 0.5, 0, size - 1)
    downwards = np.clip((cosine * y - sine * x + 0.5) * size - 0.5, 0, size - 1)
    column, row = (np.minimum(np.floor(v), size - 2).astype(np.int64) for v in (across, downwards))
    u, v = across - column, downwards - row
    places = np.stack([size * (row + i) + column + j for i in (0, 1) for j in (0, 1)])
    weights = np.stack([(v if i else 1 - v) * (u if j else 1 - u) for i in (0, 1) for j in (0, 1)])
    return places.reshape(4, -1), weights.reshape(4, -1).astype(np.float32)


def corners_of(blot: Blot, size: float) -> tuple[float, float, float, float]:
    """Left, top, right and lower edge of a blot in a picture of that size."""
    x, y, half = (size * value for value in blot[:3])
    return x - half, y - half, x + half, y + half
