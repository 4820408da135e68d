"""Square frames of a MuJoCo model, drawn too large and averaged."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np

from lewm_agent.envs.factors import MOST_BLOTS, Factors
from lewm_agent.envs.goal_env import Frame, Vector
from lewm_agent.envs.mujoco_gl import import_mujoco, make_renderer


class MujocoCanvas:
    """Draws square frames of one model.

    Drawing at several times the size and averaging takes the place of multisampling, which costs more in software.
    The model has flat boxes ``clutter_0`` and so on, as many as there can be blots. `close()` frees the renderer.
    """

    def __init__(self, model: Any, size: int, ratio: int, camera: str, floor: float) -> None:
        """Prepare to draw.

        Args:
            model: ``MjModel`` to draw; the size of its off-screen buffer is set.
            size: height and width of frames, px.
            ratio: how many times as large the model is drawn, at most 16.
            camera: name of a camera that stands still.
            floor: height on which clutter lies, m.

        Raises:
            RuntimeError: if there is no OpenGL library to draw with.
        """
        self._size, self._ratio = size, ratio
        self._camera, self._floor = camera, floor
        seen_by = model.camera(camera)
        self._usual = seen_by.pos.copy(), seen_by.quat.copy(), math.tan(math.radians(float(seen_by.fovy[0])) / 2)
        drawn = size * ratio
        model.vis.global_.offwidth = model.vis.global_.offheight = drawn
        self._renderer = make_renderer(model, drawn, drawn)
        # Freed at the latest when the interpreter begins to end: later, MuJoCo before 4 prints errors.
        self.close = weakref.finalize(self, self._renderer.close)

    def frame(self, model: Any, data: Any, factors: Factors) -> Frame:
        """Draw the joint positions in ``data``, through the factors' camera, with their clutter: (size, size, 3)."""
        mujoco = import_mujoco()
        self._aim(model, factors)
        self._scatter(model, factors)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        self._renderer.update_scene(data, camera=self._camera)
        return _area_average(self._renderer.render(), self._size, self._ratio)

    def _aim(self, model: Any, factors: Factors) -> None:
        """Turn the camera to where all is shifted, zoomed and turned in the picture."""
        mujoco, (_, usual, slope) = import_mujoco(), self._usual
        right, down, zoom, turn = factors.camera
        slope /= zoom
        pose, turned = usual.copy(), np.zeros(4)
        for angle, axis in ((math.atan(2 * right * slope), 1), (math.atan(2 * down * slope), 0), (turn, 2)):
            mujoco.mju_axisAngle2Quat(turned, np.eye(3)[axis], angle)
            mujoco.mju_mulQuat(pose, pose.copy(), turned)
        model.camera(self._camera).quat[:] = pose
        model.camera(self._camera).fovy[:] = math.degrees(2 * math.atan(slope))

    def _scatter(self, model: Any, factors: Factors) -> None:
        """Lay the clutter on the floor where the usual camera would see it; the rest of the boxes are not seen."""
        for number in range(MOST_BLOTS):
            box = model.geom(f"clutter_{number}")
            box.rgba[3] = 0.0
            if number < len(factors.clutter):
                x, y, half, *color = factors.clutter[number]
                place, depth = self._on_the_floor(x, y)
                box.pos[:] = place
                box.size[:2] = half * 2 * self._usual[2] * depth
                box.rgba[:] = [*np.array(color) / 255.0, 1.0]

    def _on_the_floor(self, x: float, y: float) -> tuple[Vector, float]:
        """Where on the floor a place of the picture is, (3,) m, and how far in front of the camera."""
        position, usual, slope = self._usual
        rotation = np.zeros(9)
        import_mujoco().mju_quat2Mat(rotation, usual)
        ray = rotation.reshape(3, 3) @ np.array([(2 * x - 1) * slope, (1 - 2 * y) * slope, -1.0])
        depth = (self._floor - position[2]) / min(ray[2], -_GRAZING)
        return position + depth * ray * [1, 1, 0] + [0, 0, depth * min(ray[2], -_GRAZING)], depth


_GRAZING = 0.05  # slope of a ray that meets the floor as far away as clutter can be


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
