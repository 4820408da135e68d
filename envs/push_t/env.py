"""The Push-T environment of diffusion policy, DINO-WM and the LeWM paper, on a simulation of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from lewm_agent.envs.goal_env import Frame, GoalEnv, Observation
from lewm_agent.envs.push_t.scene import PushTFactors, draw_frame
from lewm_agent.envs.push_t.simulation import (
    AGENT_RADIUS,
    RELEASED_STATE_SIZE,
    STATE_SIZE,
    WORLD_SIZE,
    State,
    advance,
    distance_to_block,
    is_free,
)

BlockGoal = Literal["random", "mark"]

SUCCESS_RADIUS = 20.0
SUCCESS_ANGLE = math.pi / 9
AGENT_RANGE = (50.0, 450.0)
BLOCK_RANGE = (100.0, 400.0)


class PushTEnv(GoalEnv[PushTFactors]):
    """Push a T-shaped block with a disk until both are where they should be.

    ## Description

    The agent, a disk of radius 15 px, pushes a T-shaped block (120 x 120 px, 30 px thick) over a floor with walls. Both
    are to come to a goal pose, which is never drawn: a picture of it is given by `goal_frame()`. The green T on the
    floor always stays where it is and, unless `block_goal="mark"`, is no goal. Dynamics, sampling and success test are
    those of stable-worldmodel 0.1.1, `envs/pusht/env.py`. All lengths are pixels (px) of a 512 x 512 world with x to
    the right and y downwards; `image_size` only changes how large it is drawn. Angles run from x to y. The position of
    the block is the middle of the top edge of the T's bar.

    ## Action Space

    `Box(-1, 1, (2,), float32)`. For 0.1 s the agent heads for a target relative to where it is when the action begins
    (proportional-derivative control, 100 / s^2 and 20 / s); values outside the range are clipped. The walls do not stop
    the agent.

    | Num | Action                       | Min | Max |
    |-----|------------------------------|-----|-----|
    | 0   | target to the right (100 px) | -1  | 1   |
    | 1   | target downwards (100 px)    | -1  | 1   |

    ## Observation Space

    `Box(-inf, inf, (12,), float32)`. For pixels, wrap the environment (`lewm_agent.envs.make_pixel_env`).

    | Num    | Observation                                   | Unit |
    |--------|-----------------------------------------------|------|
    | 0, 1   | agent x, y                                    | px   |
    | 2, 3   | block x, y                                    | px   |
    | 4      | angle of the block, in [0, 2 pi)              | rad  |
    | 5, 6   | velocity of the agent along x, y              | px/s |
    | 7 - 11 | agent x, y, block x, y and angle, at the goal | px, rad |

    `info` holds `state` and `goal_state` (float64, shape (10,): the numbers 0 to 6 above, then the block's velocity
    along x, y in px/s and its angular velocity in rad/s), `is_success` (bool), `distance` (float, px: the norm of the
    four differences of agent x, y and block x, y from the goal), `angle_error` (float, rad, 0 to pi, of the block) and
    `physics`:

    | Quantity                             | Meaning                                         | Unit  |
    |--------------------------------------|-------------------------------------------------|-------|
    | agent_x, agent_y                     | position of the agent                           | px    |
    | agent_velocity_x, agent_velocity_y   | velocity of the agent                           | px/s  |
    | block_x, block_y                     | position of the block                           | px    |
    | block_angle                          | angle of the block, in [0, 2 pi)                | rad   |
    | block_velocity_x, block_velocity_y   | velocity of the block's center of gravity       | px/s  |
    | block_angular_velocity               | angular velocity of the block                   | rad/s |

    ## Rewards

    Minus the distance divided by 512.

    ## Starting State

    Start and goal alike: agent uniform in [50, 450] px on each axis, block in [100, 400] px and at any angle, both at
    rest. Unlike in the released environment, they are drawn again while the block reaches into a wall or the agent into
    the block. With `block_goal="mark"` the block's goal is the green T.

    `reset(options={"state": s, "goal_state": g, "factors": {...}})` sets any of them. A state may be the ten numbers of
    `info["state"]`, or the first seven of them, as published data have it; the block then rests.

    The ten numbers are the whole state: the same state and the same actions give the same trajectory, bit for bit,
    wherever in an episode the state was taken. The residual 25 steps after a state that was restored in mid-episode is
    therefore 0 px, in contact and out of it.

    To this end the world is built anew with every action. In the released environment pymunk's memory of contacts lives
    on, and cannot be restored. Measured there with weak random pushing, the ten numbers restored in mid-episode lead
    the block within 25 steps more than 1 px away from the original in 16 % of the cases in contact (median 0.04 px,
    worst 226 px) and in 4 % of those out of contact. What forgetting changes: in a step with contact the block ends
    0.01 px from where it would have in the released environment (median; 90 %: 0.2 px, 99 %: 8 px, where the agent
    squeezes it against a wall).

    ## Episode End

    The episode terminates when after a step (not at reset) the distance is less than `success_radius` and the block's
    angle less than `success_angle` from the goal's, unless `terminate_on_success=False`. Through `gymnasium.make` it is
    truncated after 200 steps.

    ## Arguments

    * `render_mode`: `None` or `"rgb_array"`.
    * `image_size`: height and width of frames in pixels, at least 16.
    * `block_goal`: `"random"`, or `"mark"` for the pose of the green T, as in gym-pusht and in the data of DINO-WM.
    * `success_radius`: distance in px below which the goal counts as reached.
    * `success_angle`: angle in rad, at most pi, below which the block counts as turned right. The difference of angles
      is taken around the circle.
    * `terminate_on_success`: whether reaching the goal ends the episode.
    * `factors`: a `PushTFactors`, or a mapping with some of its fields: colors of agent, block, background and mark,
      pose of the mark, and whether it is visible; and light, camera and clutter (`lewm_agent.envs.factors.Factors`).
    * `drawn_looks`: whether every reset that is given no `factors` draws other colors, for training data.

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("lewm_agent.envs:lewm/PushT-v0", render_mode="rgb_array", image_size=64)
    >>> env.reset(seed=0)[0].shape, env.render().shape
    ((12,), (64, 64, 3))

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
        block_goal: BlockGoal = "random",
        success_radius: float = SUCCESS_RADIUS,
        success_angle: float = SUCCESS_ANGLE,
        terminate_on_success: bool = True,
        factors: PushTFactors | Mapping[str, Any] | None = None,
        drawn_looks: bool = False,
    ) -> None:
        """Create the environment; see the class for the arguments.

        Raises:
            ValueError: if an argument is outside its range.
        """
        super().__init__(render_mode, image_size, terminate_on_success, PushTFactors.from_given(factors), drawn_looks)
        if block_goal not in get_args(BlockGoal):
            raise ValueError(f"block_goal must be 'random' or 'mark', got {block_goal!r}")
        if not (math.isfinite(success_radius) and success_radius > 0):
            raise ValueError(f"success_radius must be a positive number of pixels, got {success_radius!r}")
        if not 0.0 < success_angle <= math.pi:
            raise ValueError(f"success_angle must be an angle above 0 and at most pi, in rad, got {success_angle!r}")
        self.block_goal = block_goal
        self.success_radius = float(success_radius)
        self.success_angle = float(success_angle)
        self.observation_space = spaces.Box(-np.inf, np.inf, (12,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _sample(self) -> tuple[State, State]:
        return self._sample_state(), self._sample_goal()

    def _sample_state(self) -> State:
        state = np.zeros(STATE_SIZE)
        while True:
            state[:2] = self.np_random.uniform(*AGENT_RANGE, size=2)
            state[2:4] = self.np_random.uniform(*BLOCK_RANGE, size=2)
            state[4] = self.np_random.uniform(0.0, math.tau)
            if is_free(state):
                return state

    def _sample_goal(self) -> State:
        goal = self._sample_state()
        if self.block_goal == "mark":
            goal[2:5] = self._factors.mark_pose
            goal[4] %= math.tau
            while distance_to_block(goal[:2], goal[2:5]) < AGENT_RADIUS:
                goal[:2] = self.np_random.uniform(*AGENT_RANGE, size=2)
        return goal

    def _checked_state(self, name: str, value: npt.ArrayLike) -> State:
        given = np.asarray(value, dtype=np.float64)
        if given.shape not in ((RELEASED_STATE_SIZE,), (STATE_SIZE,)):
            raise ValueError(
                f"reset option {name!r} must have shape ({STATE_SIZE},), or ({RELEASED_STATE_SIZE},) for a block at "
                f"rest, got shape {given.shape}"
            )
        if not np.isfinite(given).all():
            raise ValueError(f"reset option {name!r} must be finite, got {given.tolist()}")
        state = np.zeros(STATE_SIZE)
        state[: len(given)] = given
        state[4] %= math.tau
        return state

    def _restore(self, state: State) -> None:
        """Prepare nothing: the world is built anew with every action."""

    def _advance(self, state: State, action: State) -> State:
        return advance(state, action)

    def _observation(self) -> Observation:
        return np.concatenate([self._current_state()[:RELEASED_STATE_SIZE], self._goal[:5]]).astype(np.float32)

    def reached(self, states: npt.ArrayLike, goals: npt.ArrayLike) -> Any:
        """See the base class."""
        apart = np.subtract(states, goals, dtype=np.float64)
        turned = np.abs((apart[..., 4] + math.pi) % math.tau - math.pi)
        near = np.linalg.norm(apart[..., :4], axis=-1) < self.success_radius
        return near & (turned < self.success_angle)

    def _outcome(self, state: State) -> dict[str, Any]:
        distance = float(np.linalg.norm(state[:4] - self._goal[:4]))
        angle_error = abs(math.remainder(float(state[4] - self._goal[4]), math.tau))
        return {
            "is_success": bool(self.reached(state, self._goal)),
            "distance": distance,
            "angle_error": angle_error,
            "physics": dict(zip(_QUANTITIES, state.tolist(), strict=True)),
        }

    def _draw(self, state: State) -> Frame:
        return draw_frame(state, self._factors, self.image_size)


_QUANTITIES = (
    "agent_x",
    "agent_y",
    "block_x",
    "block_y",
    "block_angle",
    "agent_velocity_x",
    "agent_velocity_y",
    "block_velocity_x",
    "block_velocity_y",
    "block_angular_velocity",
)
