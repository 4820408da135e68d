"""What all environments have in common: states that can be set, goals, factors of variation, and their checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from lewm_agent.envs.factors import Factors, checked_mapping
from lewm_agent.envs.lens import in_light, through_camera

Frame = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float64]
Observation = npt.NDArray[np.float32]
Action = npt.NDArray[np.float32]
FactorsT = TypeVar("FactorsT", bound=Factors)

MINIMUM_IMAGE_SIZE = 16
"""Least height and width of a frame, px."""

_OPTIONS = ("state", "goal_state", "factors")


class GoalEnv(gym.Env[Observation, Action], ABC, Generic[FactorsT]):
    """Base of the environments: reach a goal state, which is seen only in a picture of its own.

    A subclass sets ``metadata``, the two spaces (actions are a ``Box(-1, 1)``) and ``distance_scale``, and has the
    world's part in its underscored methods: what is sampled, how it moves, what is observed and how it looks. States
    are float64 vectors.
    """

    distance_scale: float = 1.0
    """Distance from the goal at which the reward is -1, in the unit of ``info["distance"]``."""
    has_camera: bool = False
    """Whether drawing moves a camera; of others the picture is moved, and its edge goes on beyond it."""

    def __init__(
        self,
        render_mode: str | None,
        image_size: int,
        terminate_on_success: bool,
        factors: FactorsT,
        drawn_looks: bool,
    ) -> None:
        """Keep what every environment is made with.

        Args:
            render_mode: ``None`` or ``"rgb_array"``.
            image_size: height and width of frames in pixels, at least 16.
            terminate_on_success: whether reaching the goal ends the episode.
            factors: the factors of variation that hold after every reset.
            drawn_looks: whether a reset that is given no factors draws another look
                (:meth:`~lewm_agent.envs.factors.Factors.other_look`).

        Raises:
            ValueError: if an argument is outside its range.
        """
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        if not is_integer(image_size) or image_size < MINIMUM_IMAGE_SIZE:
            raise ValueError(f"image_size must be an integer of at least {MINIMUM_IMAGE_SIZE}, got {image_size!r}")
        if not isinstance(terminate_on_success, bool):
            raise ValueError(f"terminate_on_success must be True or False, got {terminate_on_success!r}")
        if not isinstance(drawn_looks, bool):
            raise ValueError(f"drawn_looks must be True or False, got {drawn_looks!r}")
        self.render_mode = render_mode
        self.image_size = int(image_size)
        self.terminate_on_success = terminate_on_success
        self.drawn_looks = drawn_looks
        self._factors = self._initial_factors = factors
        self._state: Vector | None = None
        self._goal: Vector = np.empty(0)

    @property
    def factors(self) -> FactorsT:
        """The factors of variation in force."""
        return self._factors

    def set_factors(self, **changes: Any) -> None:
        """Change factors of variation from the next frame and step on, until the next reset.

        Raises:
            ValueError: for an unknown factor or a value outside its range.
        """
        self._factors = self._factors.changed(changes)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode at a sampled or given state; see "Starting State" in the class.

        Raises:
            ValueError: if an option is unknown, or its value has the wrong shape, is not finite, or is not a state.
        """
        super().reset(seed=seed)
        given = self._checked_options(options or {})
        changes = given.pop("factors", None)
        self._factors = self._initial_factors.changed(checked_mapping("reset option 'factors'", changes))
        start, goal = self._sample()  # also where both are given, so that what is drawn later does not depend on it
        if self.drawn_looks and changes is None:
            self.set_factors(**self._factors.other_look(self.np_random))
        self._goal = given.get("goal_state", goal)
        self._state = given.get("state", start)
        self._restore(self._state)
        return self._observation(), self._info()

    def step(self, action: npt.ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply an action, in the units of "Action Space" in the class; values outside [-1, 1] are clipped.

        Raises:
            ValueError: if the action has another shape or is not finite.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        state = self._current_state()
        self._state = self._advance(state, np.clip(self._checked_action(action), -1.0, 1.0))
        info = self._info()
        terminated = info["is_success"] and self.terminate_on_success
        return self._observation(), -info["distance"] / self.distance_scale, terminated, False, info

    def render(self) -> Frame:
        """Return the current frame, (image_size, image_size, 3) uint8.

        Raises:
            RuntimeError: if the environment is drawn with OpenGL and there is no such library.
            ValueError: if the environment was made without ``render_mode="rgb_array"``.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        self._require_render_mode()
        return self._picture(self._current_state())

    def goal_frame(self) -> Frame:
        """Return the frame of the goal state, (image_size, image_size, 3) uint8.

        Raises:
            RuntimeError: if the environment is drawn with OpenGL and there is no such library.
            ValueError: if the environment was made without ``render_mode="rgb_array"``.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        self._require_render_mode()
        self._current_state()
        return self._picture(self._goal)

    @abstractmethod
    def reached(self, states: npt.ArrayLike, goals: npt.ArrayLike) -> Any:
        """Whether states (..., S) count as success with goals (..., S): (...) bool, as ``is_success`` has it."""

    @abstractmethod
    def _sample(self) -> tuple[Vector, Vector]:
        """Draw a start and a goal state from ``np_random``."""

    @abstractmethod
    def _checked_state(self, name: str, value: npt.ArrayLike) -> Vector:
        """Return the value of the reset option ``name`` as a state of its own, or raise ``ValueError``."""

    @abstractmethod
    def _restore(self, state: Vector) -> None:
        """Prepare whatever is simulated besides the state itself to go on from ``state``."""

    @abstractmethod
    def _advance(self, state: Vector, action: Vector) -> Vector:
        """Return the state that follows ``state``, the current one, after an action in [-1, 1]."""

    @abstractmethod
    def _observation(self) -> Observation:
        """Observe the current state and the goal."""

    @abstractmethod
    def _outcome(self, state: Vector) -> dict[str, Any]:
        """Return what ``info`` tells of a state: ``is_success``, ``distance``, ``physics``, and more if need be."""

    @abstractmethod
    def _draw(self, state: Vector) -> Frame:
        """Draw a state, with all factors but light, and camera unless ``has_camera``."""

    def _picture(self, state: Vector) -> Frame:
        frame = self._draw(state)
        if not self.has_camera:
            frame = through_camera(frame, self._factors.camera)
        return in_light(frame, self._factors.brightness, self._factors.light_slope)

    def _info(self) -> dict[str, Any]:
        state = self._current_state()
        return {"state": state.copy(), "goal_state": self._goal.copy(), **self._outcome(state)}

    def _current_state(self) -> Vector:
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() first: the environment has no state yet")
        return self._state

    def _require_render_mode(self) -> None:
        if self.render_mode is None:
            raise ValueError('frames need render_mode="rgb_array", but the environment was made with render_mode=None')

    def _checked_options(self, options: dict[str, Any]) -> dict[str, Any]:
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            raise ValueError(f"unknown reset option {unknown[0]!r}; the options are {', '.join(_OPTIONS)}")
        return {
            name: value if name == "factors" else self._checked_state(name, value) for name, value in options.items()
        }

    def _checked_action(self, action: npt.ArrayLike) -> Vector:
        values = np.asarray(action, dtype=np.float64)
        if values.shape != self.action_space.shape:
            raise ValueError(f"the action must have shape {self.action_space.shape}, got shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"the action must be finite, got {values.tolist()}")
        return values


def is_integer(value: Any) -> bool:
    """Whether a value is an integer, Python's or numpy's; ``True`` and ``False`` are not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
