"""Square frames of a MuJoCo model, drawn too large and averaged."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from lewm_agent.envs.goal_env import Frame
from lewm_agent.envs.mujoco_gl import import_mujoco, make_renderer


class MujocoCanvas:
    """Draws square frames of one model.

    Drawing at several times the size and averaging takes the place of multisampling, which costs more in software.
    `close()` frees the renderer.
    """

    def __init__(self, model: Any, size: int, ratio: int) -> None:
        """Prepare to draw.

        Args:
            model: ``MjModel`` to draw; the size of its off-screen buffer is set.
            size: height and width of frames, px.
            ratio: how many times as large the model is drawn, at most 16.

        Raises:
            RuntimeError: if there is no OpenGL library to draw with.
        """
        self._size, self._ratio = size, ratio
        drawn = size * ratio
        model.vis.global_.offwidth = model.vis.global_.offheight = drawn
        self._renderer = make_renderer(model, drawn, drawn)
        # Freed at the latest when the interpreter begins to end: later, MuJoCo before 4 prints errors.
        self.close = weakref.finalize(self, self._renderer.close)

    def frame(self, model: Any, data: Any, camera: str) -> Frame:
        """Draw the joint positions in ``data``; returns (size, size, 3) uint8."""
        mujoco = import_mujoco()
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        self._renderer.update_scene(data, camera=camera)
        return _area_average(self._renderer.render(), self._size, self._ratio)


def _area_average(frame: Frame, size: int, ratio: int) -> Frame:
    """Average the (ratio, ratio) pixels of every pixel, by sums of whole arrays: numpy is slow along short axes."""
    if ratio == 1:
        return frame
    rows = np.add.reduce(frame.reshape(size, ratio, size * ratio * 3), axis=1, dtype=np.uint16)
    columns = rows.reshape(size, size, ratio, 3)
    total = columns[:, :, 0].copy()
    for column in range(1, ratio):
        total += columns[:, :, column]
    total += ratio * ratio // 2  # at most 65408, from 16 x 16 white pixels
    return (total // (ratio * ratio)).astype(np.uint8)
