"""How the cube task looks: its factors of variation, and drawing with a lighter copy of OGBench's model.

OGBench's arm has 185 thousand triangles, which a processor draws six times in a second. The copy has a tenth of them
and is never simulated, so motion stays exactly that of the full model.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lewm_agent.envs.factors import MOST_BLOTS, Color, Factors, checked_numbers
from lewm_agent.envs.goal_env import Frame
from lewm_agent.envs.mujoco_canvas import MujocoCanvas
from lewm_agent.envs.mujoco_gl import import_mujoco

Vertices = npt.NDArray[np.float64]
Faces = npt.NDArray[np.int64]

CAMERA = "front_pixels"
"""The camera of OGBench's pixel tasks."""
FLOOR, SHADOWS = 0.0, 0
"""Height of the table, m, and number of the light that throws shadows."""
ARM_CELL = 0.015
"""Edge of the grid on which the vertices of the arm are merged, m."""
GRIPPER_CELL = 0.005
"""The same for the two largest parts of the gripper, m; the others have few triangles already."""
LEAST_FACES = 250
"""A part left with fewer triangles than this gets a finer grid: thin rings would open, and let light through."""
SHADOW_SIZE = 256
"""Edge of the shadow map, px. Shadows tell how high the gripper is; without them frames would cost half."""

TILT = 0.4
"""Of the light in another look, either way."""

_FINER = 0.75  # a part's next grid after one that left too few triangles
_GRIPPER_PARTS = ("base", "base_mount")
_DRAWN_SIZE = 128  # px; smaller frames are drawn at least this large and averaged
_FLOOR_TEXTURE = "grid"
_CUBE_COLORS = ("cube_color", "second_cube_color", "third_cube_color", "fourth_cube_color")


@dataclass(frozen=True)
class CubeFactors(Factors):
    """Factors of variation of the cube task. They change the picture only, never masses or motion.

    Attributes:
        cube_color: RGB of the first cube, 0 to 255; light shades all colors.
        second_cube_color: RGB of the second cube, where there is one.
        third_cube_color: RGB of the third.
        fourth_cube_color: RGB of the fourth.
        floor_color: RGB of the floor's lighter tiles; the darker ones keep their ratio to them.
        light_color: RGB of all lights.
        light_tilt: how far the light that throws shadows goes along x and y for each m down, -1 to 1.

    Raises:
        ValueError: if a value is outside its range.
    """

    cube_color: Color = (245, 66, 84)
    second_cube_color: Color = (89, 140, 232)
    third_cube_color: Color = (255, 176, 54)
    fourth_cube_color: Color = (15, 189, 54)
    floor_color: Color = (38, 45, 63)
    light_color: Color = (255, 255, 255)
    light_tilt: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        object.__setattr__(self, "light_tilt", checked_numbers("light_tilt", self.light_tilt, 2, (-1.0, 1.0)))

    def other_light(self, rng: np.random.Generator) -> dict[str, Any]:
        """That of every world, from another direction, uniform in +-``TILT`` along either axis."""
        return {**super().other_light(rng), "light_tilt": rng.uniform(-TILT, TILT, 2).tolist()}


class CubeCanvas(MujocoCanvas):
    """Draws square frames of the cubes and the arm."""

    def __init__(self, ogbench_env: Any, size: int, floor_color: Color) -> None:
        """Prepare to draw.

        Args:
            ogbench_env: OGBench's environment, compiled; it is only read.
            size: height and width of frames, px.
            floor_color: the one factor that cannot be changed later, for it lies in a texture on the drawing device.

        Raises:
            RuntimeError: if there is no OpenGL library to draw with.
        """
        self.floor_color = floor_color
        self._cubes = int(ogbench_env._num_cubes)
        self._model: Any = copy.copy(drawn_model(ogbench_env))
        self._data: Any = import_mujoco().MjData(self._model)
        self._lights = self._model.light_diffuse.copy(), self._model.vis.headlight.diffuse.copy()
        _color_floor(self._model, floor_color)
        super().__init__(self._model, size, -(-_DRAWN_SIZE // size), CAMERA, FLOOR)

    def draw(self, positions: npt.NDArray[np.float64], factors: CubeFactors) -> Frame:
        """Draw the joint positions ``qpos``; returns (size, size, 3) uint8. The floor is as it was at first."""
        self._paint(factors)
        self._data.qpos[:] = positions
        return self.frame(self._model, self._data, factors)

    def _paint(self, factors: CubeFactors) -> None:
        for cube, name in zip(range(self._cubes), _CUBE_COLORS, strict=False):
            self._model.geom(f"object_{cube}").rgba[:3] = np.array(getattr(factors, name)) / 255.0
        lights, headlight = self._lights
        shade = np.array(factors.light_color) / 255.0
        self._model.light_diffuse[:] = lights * shade
        self._model.vis.headlight.diffuse[:] = headlight * shade
        self._model.light_dir[SHADOWS] = np.array([*factors.light_tilt, -1.0]) / np.hypot(
            1.0, np.hypot(*factors.light_tilt)
        )


@functools.cache
def drawn_model(ogbench_env: Any) -> Any:
    """The ``MjModel`` to draw with: OGBench's colors for pixel tasks, fewer triangles, no target, small shadow map.

    It has the joints of the simulated model in the same order. Built once for each ``ogbench_env``, in about 0.7 s.
    """
    from ogbench.manipspace import mjcf_utils

    pixel_env = copy.copy(ogbench_env)
    pixel_env._ob_type = "pixels"  # a see-through arm and a purple gripper
    mjcf = pixel_env.build_mjcf_model()
    for cube in range(ogbench_env._num_cubes):
        mjcf.find("body", f"object_target_{cube}").remove()
    for mesh in mjcf.find_all("mesh"):
        _simplify(mesh, ogbench_env.model)
    for number in range(MOST_BLOTS):
        flat = {"type": "box", "size": (0.01, 0.01, 0.003), "pos": (0, 0, -1), "contype": 0, "conaffinity": 0}
        mjcf.worldbody.add("geom", name=f"clutter_{number}", rgba=(0, 0, 0, 0), **flat)
    mjcf.visual.quality.shadowsize = SHADOW_SIZE
    mjcf.visual.quality.offsamples = 0
    return import_mujoco().MjModel.from_xml_string(mjcf_utils.to_string(mjcf), mjcf_utils.get_assets(mjcf))


def merge_vertices(vertices: Vertices, faces: Faces, cell: float) -> tuple[Vertices, Faces]:
    """Merge the vertices (V, 3) that share a cell of a grid into their mean, and drop what collapses of faces (F, 3).

    Args:
        vertices: positions, m.
        faces: triangles, as numbers of vertices.
        cell: edge of the grid's cells, m.
    """
    _, cells = np.unique(np.floor(vertices / cell), axis=0, return_inverse=True)
    cells = cells.ravel()
    sums = np.zeros((cells.max() + 1, 3))
    np.add.at(sums, cells, vertices)
    corners = cells[faces]
    apart = (corners != np.roll(corners, 1, axis=1)).all(axis=1)
    return sums / np.bincount(cells)[:, None], _without_repeats(corners[apart])


def _without_repeats(faces: Faces) -> Faces:
    """Each triangle once, begun at its lowest corner, which keeps its two sides apart."""
    order = (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3
    return np.unique(np.take_along_axis(faces, order, axis=1), axis=0)


def _simplify(mesh: Any, model: Any) -> None:
    """Replace the file of a mesh element by one with fewer triangles, if it has many."""
    from dm_control import mjcf

    name = mesh.full_identifier
    of_gripper = "robotiq" in name
    if of_gripper and mesh.name not in _GRIPPER_PARTS:
        return
    cell = GRIPPER_CELL if of_gripper else ARM_CELL
    original = _mesh(model, name)
    simple = merge_vertices(*original, cell)
    while len(simple[1]) < min(LEAST_FACES, len(original[1])):
        cell *= _FINER
        simple = merge_vertices(*original, cell)
    mesh.file = mjcf.Asset(_stl_file(*simple), ".stl", prefix=name.replace("/", "_"))
    mesh.scale = (1.0, 1.0, 1.0)  # the vertices of the compiled model are scaled already


def _mesh(model: Any, name: str) -> tuple[Vertices, Faces]:
    """Vertices and faces of a compiled mesh, in the frame of its file, which compiling leaves."""
    mesh = model.mesh(name)
    rotation = np.zeros(9)
    import_mujoco().mju_quat2Mat(rotation, model.mesh_quat[mesh.id])
    first, count = int(mesh.vertadr[0]), int(mesh.vertnum[0])
    vertices = model.mesh_vert[first : first + count].astype(np.float64)
    first, count = int(mesh.faceadr[0]), int(mesh.facenum[0])
    faces = model.mesh_face[first : first + count].astype(np.int64)
    return vertices @ rotation.reshape(3, 3).T + model.mesh_pos[mesh.id], faces


def _stl_file(vertices: Vertices, faces: Faces) -> bytes:
    """The triangles in binary STL: 80 bytes, their number, and 50 bytes for each (the normal may be zero)."""
    triangles = np.zeros(len(faces), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    triangles["corners"] = vertices[faces]
    return bytes(80) + len(faces).to_bytes(4, "little") + triangles.tobytes()


def _color_floor(model: Any, color: Color) -> None:
    """Give the lighter tiles of the floor's texture a color and the darker ones its share; the lines stay white."""
    texture = model.texture(_FLOOR_TEXTURE)
    first = int(texture.adr[0])
    count = int(texture.height[0] * texture.width[0])
    texels = model.tex_data[first : first + 3 * count].reshape(count, 3)
    dark, light, _ = sorted(np.unique(texels, axis=0), key=lambda texel: int(texel.sum()))
    is_dark, is_light = (texels == dark).all(axis=1), (texels == light).all(axis=1)
    texels[is_dark] = np.round(np.array(color) * (dark / light))
    texels[is_light] = color
