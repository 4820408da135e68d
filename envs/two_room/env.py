"""The two-room navigation environment of the LeWM paper, redrawn in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from lewm_agent.envs.goal_env import Frame, GoalEnv, Observation, Vector
from lewm_agent.envs.two_room.geometry import (
    BORDER,
    WORLD_SIZE,
    Geometry,
    move_released,
    move_swept,
    nearest_clear,
)
from lewm_agent.envs.two_room.scene import TwoRoomFactors, draw_frame

Collision = Literal["released", "swept"]

SPEED = 5.0
SUCCESS_RADIUS = 16.0
SAMPLING_RANGE = (BORDER, WORLD_SIZE - BORDER - 1.0)

_MOVES: dict[str, Callable[[Vector, Vector, Geometry], Vector]] = {"released": move_released, "swept": move_swept}


class TwoRoomEnv(GoalEnv[TwoRoomFactors]):
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
      axis; and light, camera and clutter (`lewm_agent.envs.factors.Factors`).
    * `drawn_looks`: whether every reset that is given no `factors` draws other colors, for training data.

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
    distance_scale = WORLD_SIZE

    def __init__(
        self,
        render_mode: str | None = None,
        image_size: int = 224,
        collision: Collision = "released",
        success_radius: float = SUCCESS_RADIUS,
        terminate_on_success: bool = True,
        factors: TwoRoomFactors | Mapping[str, Any] | None = None,
        drawn_looks: bool = False,
    ) -> None:
        """Create the environment; see the class for the arguments.

        Raises:
            ValueError: if an argument is outside its range.
        """
        super().__init__(render_mode, image_size, terminate_on_success, TwoRoomFactors.from_given(factors), drawn_looks)
        if collision not in get_args(Collision):
            raise ValueError(f"collision must be 'released' or 'swept', got {collision!r}")
        if not (math.isfinite(success_radius) and success_radius > 0):
            raise ValueError(f"success_radius must be a positive number of pixels, got {success_radius!r}")
        self.collision = collision
        self.success_radius = float(success_radius)
        self.observation_space = spaces.Box(0.0, WORLD_SIZE, (4,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._velocity = np.zeros(2)

    @property
    def geometry(self) -> Geometry:
        """Wall, door and agent radius in force, for controllers and for the `..._is_clear` functions."""
        return self._factors.geometry

    def _sample(self) -> tuple[Vector, Vector]:
        return self._sample_start(), self._sample_position()

    def _sample_position(self) -> Vector:
        return self.np_random.uniform(*SAMPLING_RANGE, size=2)

    def _sample_start(self) -> Vector:
        band_start, band_end = self.geometry.wall_band
        start = self._sample_position()
        while band_start <= start[self.geometry.across] <= band_end:
            start = self._sample_position()
        return nearest_clear(start, self.geometry) if self.collision == "swept" else start

    def _checked_state(self, name: str, value: npt.ArrayLike) -> Vector:
        state = np.array(value, dtype=np.float64)
        if state.shape != (2,):
            raise ValueError(f"reset option {name!r} must have shape (2,) (x and y in px), got shape {state.shape}")
        if not (np.isfinite(state).all() and state.min() >= 0.0 and state.max() <= WORLD_SIZE - 1.0):
            raise ValueError(f"reset option {name!r} must lie in [0, {WORLD_SIZE - 1:g}] px, got {state.tolist()}")
        return state

    def _restore(self, state: Vector) -> None:
        self._velocity = np.zeros(2)

    def _advance(self, state: Vector, action: Vector) -> Vector:
        position = _MOVES[self.collision](state, state + SPEED * action, self.geometry)
        self._velocity = position - state
        return position

    def _observation(self) -> Observation:
        return np.concatenate([self._current_state(), self._goal]).astype(np.float32)

    def reached(self, states: npt.ArrayLike, goals: npt.ArrayLike) -> Any:
        """See the base class."""
        return np.linalg.norm(np.subtract(states, goals, dtype=np.float64), axis=-1) < self.success_radius

    def _outcome(self, state: Vector) -> dict[str, Any]:
        distance = math.dist(state, self._goal)
        (x, y), (velocity_x, velocity_y) = state.tolist(), self._velocity.tolist()
        return {
            "is_success": bool(self.reached(state, self._goal)),
            "distance": distance,
            "physics": {"agent_x": x, "agent_y": y, "velocity_x": velocity_x, "velocity_y": velocity_y},
        }

    def _draw(self, state: Vector) -> Frame:
        return draw_frame(state, self._factors, self.image_size)
