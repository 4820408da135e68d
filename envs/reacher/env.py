"""The two-link reacher of the DeepMind Control Suite with configuration goals, on MuJoCo alone.

``dm_control.suite`` is not used: dm_control 1.0.50 accepts MuJoCo 4 as a dependency but breaks on it (``MjModel`` has
lost ``flex_vertedge``), and holding MuJoCo below 4 would hold it for every environment. The model file here moves as
theirs does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from lewm_agent.envs.factors import Color, Factors
from lewm_agent.envs.goal_env import Frame, GoalEnv, Observation, Vector
from lewm_agent.envs.mujoco_canvas import MujocoCanvas
from lewm_agent.envs.mujoco_gl import import_mujoco

MODEL_FILE = Path(__file__).parent / "reacher.xml"
LINK_LENGTH = 0.12
"""Length of each of the two links, m (dm_control, ``suite/reacher.xml``)."""
WRIST_LIMIT = math.radians(160.0)
"""Largest wrist angle, rad; the limit is elastic, and full torques have been seen to pass it by 0.17 rad."""
SUCCESS_ERROR = 0.05
"""Error of each joint, rad, below which the goal counts as reached (stable-worldmodel, task ``qpos_match``)."""
ACTION_REPEAT = 2
"""Simulator steps of 0.02 s in one environment step (stable-worldmodel, ``envs/dmcontrol/dmcontrol.py``)."""
ARM_RADIUS_RANGE = (0.01, 0.025)

_MOST_VELOCITY = 20.0  # rad/s; the motors reach 7.2
_MOST_ERROR = 50.0  # rad; the shoulder can turn by 40 in 200 steps
_FINGERTIP_RATIO = 1.25  # radius of the drawn fingertip over that of the drawn links
_DRAWN_SIZE = 256  # px; smaller frames are drawn at least this large and averaged


@dataclass(frozen=True)
class ReacherFactors(Factors):
    """Factors of variation of the reacher. They change the picture only, never masses or motion.

    Attributes:
        arm_color: RGB of the upper link, 0 to 255; light shades all colors a little.
        hand_color: RGB of the lower link.
        fingertip_color: RGB of the fingertip.
        background_color: RGB of the floor.
        arm_radius: radius of the drawn links, m, 0.01 (that of dm_control) to 0.025.

    Raises:
        ValueError: if a value is outside its range.
    """

    drawn_sizes: ClassVar[Mapping[str, tuple[float, float]]] = {"arm_radius": (0.015, 0.025)}

    arm_color: Color = (180, 120, 60)
    hand_color: Color = (230, 190, 120)
    fingertip_color: Color = (240, 70, 50)
    background_color: Color = (26, 51, 77)
    arm_radius: float = 0.02

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        self._check_number("arm_radius", ARM_RADIUS_RANGE)


def fingertip_position(states: npt.ArrayLike) -> Vector:
    """Position of the fingertip, (..., 2) m, from states or configurations (..., at least 2) with angles in rad first.

    The shoulder is the origin; at angles 0 the arm points along x.
    """
    angles = np.asarray(states, dtype=np.float64)
    upper, lower = angles[..., 0], angles[..., 0] + angles[..., 1]
    links = np.stack([np.cos(upper) + np.cos(lower), np.sin(upper) + np.sin(lower)], axis=-1)
    return LINK_LENGTH * links


def joint_errors(states: npt.ArrayLike, goal: npt.ArrayLike, wrap_shoulder: bool) -> Vector:
    """How far shoulder and wrist must still turn, (..., 2) rad, from states (..., 4) to a goal (4,).

    With ``wrap_shoulder`` the shoulder's error lies in [-pi, pi): whole turns do not count. The wrist cannot turn
    around and is never wrapped.
    """
    errors: Vector = np.asarray(goal, dtype=np.float64)[..., :2] - np.asarray(states, dtype=np.float64)[..., :2]
    if wrap_shoulder:
        errors[..., 0] = wrapped_angle(errors[..., 0])
    return errors


def wrapped_angle(angle: npt.ArrayLike) -> Any:
    """The angle, rad, less the whole turns in it: in [-pi, pi)."""
    return (np.asarray(angle, dtype=np.float64) + math.pi) % (2.0 * math.pi) - math.pi


class ReacherEnv(GoalEnv[ReacherFactors]):
    """Turn the two joints of a planar arm to a goal configuration.

    ## Description

    An arm of two links, 0.12 m each, turns about a fixed shoulder, moved by torques at shoulder and wrist. It is to
    come to a goal configuration (both angles, not just the place of the fingertip), which is never drawn: a picture of
    the arm at the goal is given by `goal_frame()`. Masses, damping, torques and time step are those of dm_control's
    reacher; two simulator steps of 0.02 s to an action, and the success test, are those of stable-worldmodel (task
    `qpos_match`). The picture is ours: thicker links, a closer camera and three colors, so that a turn by the
    tolerance of 0.05 rad can be seen at 64 px.

    ## Action Space

    `Box(-1, 1, (2,), float32)`, held for 0.04 s; values outside the range are clipped.

    | Num | Action                     | Min | Max |
    |-----|----------------------------|-----|-----|
    | 0   | torque, shoulder (0.05 Nm) | -1  | 1   |
    | 1   | torque, wrist (0.05 Nm)    | -1  | 1   |

    ## Observation Space

    `Box(float32)` of shape (7,), clipped to its bounds. For pixels, wrap the environment
    (`lewm_agent.envs.make_pixel_env`).

    | Num | Observation                                        | Min | Max | Unit  |
    |-----|----------------------------------------------------|-----|-----|-------|
    | 0   | cosine of the shoulder angle                       | -1  | 1   |       |
    | 1   | sine of the shoulder angle                         | -1  | 1   |       |
    | 2   | wrist angle                                        | -pi | pi  | rad   |
    | 3   | shoulder velocity                                  | -20 | 20  | rad/s |
    | 4   | wrist velocity                                     | -20 | 20  | rad/s |
    | 5   | goal minus shoulder angle (see `wrap_shoulder`)    | -50 | 50  | rad   |
    | 6   | goal minus wrist angle                             | -50 | 50  | rad   |

    `info` holds `state` and `goal_state` (float64, shape (4,): shoulder and wrist angle, rad, shoulder and wrist
    velocity, rad/s), `is_success` (bool), `distance` (float, rad, the larger joint error) and `physics`:

    | Quantity          | Meaning                                              | Unit  |
    |-------------------|------------------------------------------------------|-------|
    | shoulder_angle    | angle of the upper link from the x axis, [-pi, pi)   | rad   |
    | wrist_angle       | angle of the lower link from the upper               | rad   |
    | shoulder_velocity | angular velocity of the shoulder                     | rad/s |
    | wrist_velocity    | angular velocity of the wrist                        | rad/s |
    | fingertip_x       | position of the fingertip, to the right of shoulder  | m     |
    | fingertip_y       | position of the fingertip, upwards in the picture    | m     |

    ## Rewards

    Minus the larger joint error divided by pi.

    ## Starting State

    Start and goal are at rest, the shoulder uniform in [-pi, pi], the wrist uniform in its range of +-160 degrees, as
    in dm_control.

    `reset(options={"state": s, "goal_state": g, "factors": {...}})` sets any of them exactly: the same state and the
    same actions give the same trajectory, bit for bit, also from the middle of an episode, for the simulator is made
    to carry nothing else from step to step. The shoulder angle may have any number of turns, the wrist must lie in
    [-pi, pi] rad and velocities in [-20, 20] rad/s. Velocities of the goal are kept but not asked for. Factors not
    named are those given to the constructor.

    ## Episode End

    The episode terminates when both joints are less than 0.05 rad from the goal after a step (not at reset), unless
    `terminate_on_success=False`. The released environment looks after each of the two simulator steps, so it also
    counts an arm that passes through the goal between two actions. Through `gymnasium.make` the episode is truncated
    after 200 steps.

    ## Arguments

    * `render_mode`: `None` or `"rgb_array"`.
    * `image_size`: height and width of frames in pixels, at least 16.
    * `wrap_shoulder`: whether a shoulder that is off by whole turns is at the goal. `False` is the released test, which
      takes the angles as they are, although the picture cannot show turns.
    * `terminate_on_success`: whether reaching the goal ends the episode.
    * `factors`: a `ReacherFactors`, or a mapping with some of its fields: colors and the radius of the drawn arm;
      and light, camera and clutter (`lewm_agent.envs.factors.Factors`).
    * `drawn_looks`: whether every reset that is given no `factors` draws other colors and another radius, for
      training data.

    Frames need EGL or OSMesa (see `lewm_agent.envs.mujoco_gl`), and vectorized environments in processes must be
    spawned (`vector_kwargs={"context": "spawn"}`): after a fork the drawing library hangs.

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("lewm_agent.envs:lewm/Reacher-v0", render_mode="rgb_array", image_size=64)
    >>> env.reset(seed=0)[0].shape, env.render().shape
    ((7,), (64, 64, 3))
    >>> env.close()

    ```

    ## Version History

    * v0: initial version.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012 (an instance variable in gym.Env)
    distance_scale = math.pi
    has_camera = True

    def __init__(
        self,
        render_mode: str | None = None,
        image_size: int = 224,
        wrap_shoulder: bool = True,
        terminate_on_success: bool = True,
        factors: ReacherFactors | Mapping[str, Any] | None = None,
        drawn_looks: bool = False,
    ) -> None:
        """Create the environment; see the class for the arguments.

        Raises:
            RuntimeError: if ``MUJOCO_GL`` names an OpenGL library that is not installed.
            ValueError: if an argument is outside its range.
        """
        super().__init__(render_mode, image_size, terminate_on_success, ReacherFactors.from_given(factors), drawn_looks)
        self.wrap_shoulder = bool(wrap_shoulder)
        bounds = np.array([1, 1, math.pi, _MOST_VELOCITY, _MOST_VELOCITY, _MOST_ERROR, _MOST_ERROR], dtype=np.float32)
        self.observation_space = spaces.Box(-bounds, bounds, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        mujoco = import_mujoco()
        self._model: Any = mujoco.MjModel.from_xml_path(str(MODEL_FILE))
        self._data: Any = mujoco.MjData(self._model)
        self._drawn_data: Any = mujoco.MjData(self._model)  # so that drawing leaves the simulation alone
        self._canvas: _Canvas | None = None

    def close(self) -> None:
        """Free what drawing holds. The environment can still be used, and closed again."""
        if self._canvas is not None:
            self._canvas.close()
            self._canvas = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the canvas, which belongs to this process; a copy makes its own."""
        return {**self.__dict__, "_canvas": None}

    def _sample(self) -> tuple[Vector, Vector]:
        return self._sample_state(), self._sample_state()

    def _sample_state(self) -> Vector:
        limits = np.array([math.pi, WRIST_LIMIT])
        return np.concatenate([self.np_random.uniform(-limits, limits), np.zeros(2)])

    def _checked_state(self, name: str, value: npt.ArrayLike) -> Vector:
        state = np.array(value, dtype=np.float64)
        if state.shape != (4,):
            raise ValueError(
                f"reset option {name!r} must have shape (4,) (shoulder and wrist angle in rad, their velocities in "
                f"rad/s), got shape {state.shape}"
            )
        most = np.array([np.inf, math.pi, _MOST_VELOCITY, _MOST_VELOCITY])
        if not (np.isfinite(state).all() and (np.abs(state) <= most).all()):
            raise ValueError(
                f"reset option {name!r} must be finite, with a wrist angle in [-pi, pi] rad and velocities in "
                f"[-{_MOST_VELOCITY:g}, {_MOST_VELOCITY:g}] rad/s, got {state.tolist()}"
            )
        return state

    def _restore(self, state: Vector) -> None:
        import_mujoco().mj_resetData(self._model, self._data)
        self._data.qpos[:] = state[:2]
        self._data.qvel[:] = state[2:]

    def _advance(self, state: Vector, action: Vector) -> Vector:
        self._data.ctrl[:] = action
        import_mujoco().mj_step(self._model, self._data, ACTION_REPEAT)
        return np.concatenate([self._data.qpos, self._data.qvel])

    def _observation(self) -> Observation:
        state = self._current_state()
        shoulder, wrist, *velocities = state
        errors = joint_errors(state, self._goal, self.wrap_shoulder)
        values = np.array([np.cos(shoulder), np.sin(shoulder), wrist, *velocities, *errors], dtype=np.float32)
        space: Any = self.observation_space
        return np.clip(values, space.low, space.high)

    def reached(self, states: npt.ArrayLike, goals: npt.ArrayLike) -> Any:
        """See the base class."""
        return np.abs(joint_errors(states, goals, self.wrap_shoulder)).max(axis=-1) < SUCCESS_ERROR

    def _outcome(self, state: Vector) -> dict[str, Any]:
        distance = float(np.abs(joint_errors(state, self._goal, self.wrap_shoulder)).max())
        return {"is_success": bool(self.reached(state, self._goal)), "distance": distance, "physics": _physics(state)}

    def _draw(self, state: Vector) -> Frame:
        if self._canvas is None:
            self._canvas = _Canvas(self._model, self.image_size)
        _paint(self._model, self._factors)
        self._drawn_data.qpos[:] = state[:2]
        return self._canvas.frame(self._model, self._drawn_data, self._factors)


class _Canvas(MujocoCanvas):
    """Draws the arm.

    Without shadows and reflections, which cost most in software, but at several times the size and averaged: smooth
    edges carry the fraction of a pixel by which a fingertip moves within the tolerance.
    """

    def __init__(self, model: Any, size: int) -> None:
        super().__init__(model, size, max(2, _DRAWN_SIZE // size), "above", float(model.geom("floor").pos[2]))
        flags = import_mujoco().mjtRndFlag
        for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX):
            self._renderer.scene.flags[flag] = 0


def _paint(model: Any, factors: ReacherFactors) -> None:
    colors = {
        "floor": factors.background_color,
        "drawn_arm": factors.arm_color,
        "drawn_hand": factors.hand_color,
        "drawn_finger": factors.fingertip_color,
    }
    for name, color in colors.items():
        model.geom(name).rgba[:3] = np.array(color) / 255.0
    for name, ratio in {"drawn_arm": 1.0, "drawn_hand": 1.0, "drawn_finger": _FINGERTIP_RATIO}.items():
        model.geom(name).size[0] = ratio * factors.arm_radius


def _physics(state: Vector) -> dict[str, float]:
    x, y = fingertip_position(state).tolist()
    _, wrist, shoulder_velocity, wrist_velocity = state.tolist()
    return {
        "shoulder_angle": float(wrapped_angle(state[0])),
        "wrist_angle": wrist,
        "shoulder_velocity": shoulder_velocity,
        "wrist_velocity": wrist_velocity,
        "fingertip_x": x,
        "fingertip_y": y,
    }
