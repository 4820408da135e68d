"""The two-room navigation environment of the LeWM paper, redrawn in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from lewm_agent.envs.two_room_geometry import (
    BORDER,
    WORLD_SIZE,
    Geometry,
    Vector,
    move_released,
    move_swept,
    nearest_clear,
)
from lewm_agent.envs.two_room_scene import MINIMUM_IMAGE_SIZE, Frame, TwoRoomFactors, draw_frame

Collision = Literal["released", "swept"]
Observation = npt.NDArray[np.float32]
Action = npt.NDArray[np.float32]

SPEED = 5.0
SUCCESS_RADIUS = 16.0
SAMPLING_RANGE = (BORDER, WORLD_SIZE - BORDER - 1.0)

_MOVES: dict[str, Callable[[Vector, Vector, Geometry], Vector]] = {"released": move_released, "swept": move_swept}
_OPTIONS = ("state", "goal_state", "factors")


class TwoRoomEnv(gym.Env[Observation, Action]):
    """Reach a goal position in two rooms that are joined by a door.

    ## Description

    An agent moves in the plane through two rooms, separated by a wall with one door. It is to come near a goal
    position, which is never drawn: a picture of the agent at the goal is given by `goal_frame()`. World, speed,
    sampling and success test are those of stable-worldmodel, `envs/two_room/env.py`. All lengths are pixels (px) of a
    224 x 224 world with x to the right and y downwards; `image_size` only changes how large it is drawn.

    ## Action Space

    `Box(-1, 1, (2,), float32)`. The agent moves by 5 px per unit action; values outside the range are clipped.

    | Num | Action                | Min | Max |
    |-----|-----------------------|-----|-----|
    | 0   | motion along x (5 px) | -1  | 1   |
    | 1   | motion along y (5 px) | -1  | 1   |

    ## Observation Space

    `Box(0, 224, (4,), float32)`. For pixels, wrap the environment (`lewm_agent.envs.make_pixel_env`).

    | Num | Observation | Unit |
    |-----|-------------|------|
    | 0   | agent x     | px   |
    | 1   | agent y     | px   |
    | 2   | goal x      | px   |
    | 3   | goal y      | px   |

    `info` holds `state` and `goal_state` (float64, shape (2,), px), `is_success` (bool), `distance` (float, px, from
    agent to goal) and `physics`:

    | Quantity   | Meaning                                   | Unit    |
    |------------|-------------------------------------------|---------|
    | agent_x    | position of the agent                     | px      |
    | agent_y    | position of the agent                     | px      |
    | velocity_x | displacement that the last step achieved  | px/step |
    | velocity_y | displacement that the last step achieved  | px/step |

    ## Rewards

    Minus the distance to the goal divided by 224.

    ## Starting State

    Start and goal are uniform in [14, 209] px on each axis; a start within the wall's band (100 to 124 px across the
    wall) is drawn again. The goal may be in either room. As in the released environment the start may lie up to 7 px
    outside the square that the agent can reach ([21, 203] px); the first step clips it in. With `collision="swept"` the
    start is clipped at once.

    `reset(options={"state": s, "goal_state": g, "factors": {...}})` sets any of them exactly: the same state and the
    same actions give the same trajectory, bit for bit. States must lie in [0, 223] px. Factors not named are those
    given to the constructor.

    ## Episode End

    The episode terminates when the agent is less than `success_radius` from the goal after a step (not at reset),
    unless `terminate_on_success=False`. Through `gymnasium.make` it is truncated after 100 steps.

    ## Arguments

    * `render_mode`: `None` or `"rgb_array"`.
    * `image_size`: height and width of frames in pixels, at least 16.
    * `collision`: `"released"` judges a step by its end point, as the released environment does, so the disk may clip
      the edges of the door; `"swept"` moves a solid disk, which slides along what it touches.
    * `success_radius`: distance in px below which the goal counts as reached.
    * `terminate_on_success`: whether reaching the goal ends the episode.
    * `factors`: a `TwoRoomFactors`, or a mapping with some of its fields: colors, agent radius, door position, wall
      axis.

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("lewm_agent.envs:lewm/TwoRoom-v0", render_mode="rgb_array", image_size=64)
    >>> env.reset(seed=0)[0].shape, env.render().shape
    ((4,), (64, 64, 3))

    ```

    ## Version History

    * v0: initial version.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (an instance variable in gym.Env)

    def __init__(
        self,
        render_mode: str | None = None,
        image_size: int = 224,
        collision: Collision = "released",
        success_radius: float = SUCCESS_RADIUS,
        terminate_on_success: bool = True,
        factors: TwoRoomFactors | Mapping[str, Any] | None = None,
    ) -> None:
        """Create the environment; see the class for the arguments.

        Raises:
            ValueError: if an argument is outside its range.
        """
        _check_arguments(render_mode, image_size, collision, success_radius)
        self.render_mode = render_mode
        self.image_size = int(image_size)
        self.collision = collision
        self.success_radius = float(success_radius)
        self.terminate_on_success = bool(terminate_on_success)
        self.observation_space = spaces.Box(0.0, WORLD_SIZE, (4,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        if not isinstance(factors, TwoRoomFactors):
            factors = TwoRoomFactors().changed(_checked_mapping("factors", factors))
        self._initial_factors = factors
        self._apply_factors(factors)
        self._position: Vector | None = None
        self._goal = np.zeros(2)
        self._velocity = np.zeros(2)

    @property
    def factors(self) -> TwoRoomFactors:
        """The factors of variation in force."""
        return self._factors

    @property
    def geometry(self) -> Geometry:
        """Wall, door and agent radius in force, for controllers and for the `..._is_clear` functions."""
        return self._geometry

    def set_factors(self, **changes: Any) -> None:
        """Change factors of variation from the next frame and step on, until the next reset.

        Raises:
            ValueError: for an unknown factor or a value outside its range.
        """
        self._apply_factors(self._factors.changed(changes))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode at a sampled or given state; see "Starting State" in the class.

        Raises:
            ValueError: if an option is unknown, or its value has the wrong shape, is not finite, or is out of range.
        """
        super().reset(seed=seed)
        given = _checked_options(options or {})
        changes = given.pop("factors", None)
        self._apply_factors(self._initial_factors.changed(_checked_mapping("reset option 'factors'", changes)))
        start, goal = self._sample_start(), self._sample_position()
        self._position = given.get("state", start)
        self._goal = given.get("goal_state", goal)
        self._velocity = np.zeros(2)
        return self._observation(), self._info()

    def step(self, action: npt.ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move by 5 px per unit action (2,).

        Raises:
            ValueError: if the action has another shape or is not finite.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        position = self._current_position()
        displacement = SPEED * np.clip(_checked_action(action), -1.0, 1.0)
        self._position = _MOVES[self.collision](position, position + displacement, self._geometry)
        self._velocity = self._position - position
        info = self._info()
        terminated = info["is_success"] and self.terminate_on_success
        return self._observation(), -info["distance"] / WORLD_SIZE, terminated, False, info

    def render(self) -> Frame:
        """Return the current frame, (image_size, image_size, 3) uint8.

        Raises:
            ValueError: if the environment was made without ``render_mode="rgb_array"``.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        self._require_render_mode()
        return draw_frame(self._current_position(), self._factors, self.image_size)

    def goal_frame(self) -> Frame:
        """Return the frame with the agent at the goal, (image_size, image_size, 3) uint8.

        Raises:
            ValueError: if the environment was made without ``render_mode="rgb_array"``.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        self._require_render_mode()
        self._current_position()
        return draw_frame(self._goal, self._factors, self.image_size)

    def _apply_factors(self, factors: TwoRoomFactors) -> None:
        self._factors = factors
        self._geometry = factors.geometry

    def _sample_position(self) -> Vector:
        return self.np_random.uniform(*SAMPLING_RANGE, size=2)

    def _sample_start(self) -> Vector:
        band_start, band_end = self._geometry.wall_band
        start = self._sample_position()
        while band_start <= start[self._geometry.across] <= band_end:
            start = self._sample_position()
        return nearest_clear(start, self._geometry) if self.collision == "swept" else start

    def _current_position(self) -> Vector:
        if self._position is None:
            raise gym.error.ResetNeeded("call reset() first: the environment has no state yet")
        return self._position

    def _observation(self) -> Observation:
        return np.concatenate([self._current_position(), self._goal]).astype(np.float32)

    def _info(self) -> dict[str, Any]:
        position = self._current_position()
        distance = math.dist(position, self._goal)
        (x, y), (velocity_x, velocity_y) = position.tolist(), self._velocity.tolist()
        return {
            "state": position.copy(),
            "goal_state": self._goal.copy(),
            "is_success": distance < self.success_radius,
            "distance": distance,
            "physics": {"agent_x": x, "agent_y": y, "velocity_x": velocity_x, "velocity_y": velocity_y},
        }

    def _require_render_mode(self) -> None:
        if self.render_mode is None:
            raise ValueError('frames need render_mode="rgb_array", but the environment was made with render_mode=None')


def _check_arguments(render_mode: str | None, image_size: int, collision: str, success_radius: float) -> None:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
    if isinstance(image_size, bool) or not isinstance(image_size, (int, np.integer)) or image_size < MINIMUM_IMAGE_SIZE:
        raise ValueError(f"image_size must be an integer of at least {MINIMUM_IMAGE_SIZE}, got {image_size!r}")
    if collision not in get_args(Collision):
        raise ValueError(f"collision must be 'released' or 'swept', got {collision!r}")
    if not (math.isfinite(success_radius) and success_radius > 0):
        raise ValueError(f"success_radius must be a positive number of pixels, got {success_radius!r}")


def _checked_options(options: dict[str, Any]) -> dict[str, Any]:
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise ValueError(f"unknown reset option {unknown[0]!r}; the options are {', '.join(_OPTIONS)}")
    return {name: value if name == "factors" else _checked_state(name, value) for name, value in options.items()}


def _checked_mapping(what: str, value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{what} must be a mapping of factor names to values, got {value!r}")
    return value or {}


def _checked_state(name: str, value: npt.ArrayLike) -> Vector:
    state = np.array(value, dtype=np.float64)
    if state.shape != (2,):
        raise ValueError(f"reset option {name!r} must have shape (2,) (x and y in px), got shape {state.shape}")
    if not (np.isfinite(state).all() and state.min() >= 0.0 and state.max() <= WORLD_SIZE - 1.0):
        raise ValueError(f"reset option {name!r} must lie in [0, {WORLD_SIZE - 1:g}] px, got {state.tolist()}")
    return state


def _checked_action(action: npt.ArrayLike) -> Vector:
    values = np.asarray(action, dtype=np.float64)
    if values.shape != (2,):
        raise ValueError(f"the action must have shape (2,), got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"the action must be finite, got {values.tolist()}")
    return values
