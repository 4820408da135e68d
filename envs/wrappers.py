"""Wrappers that turn a goal-reaching environment into one that is seen through pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs, seeding
from gymnasium.wrappers import AddRenderObservation

from lewm_agent.envs.registration import environment_id
from lewm_agent.tools.frames import as_rgb, resized


class AddGoalFrame(gym.ObservationWrapper[dict[str, Any], Any, Any], RecordConstructorArgs):
    """Adds the picture of the goal to an image observation.

    The observation (H, W, 3) uint8 becomes ``Dict(pixels, goal)`` with two such images. The goal comes from
    ``env.unwrapped.goal_frame()``. It is drawn once per episode: factors of variation that change later do not change
    it.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wrap an environment whose observation is its frame, such as one wrapped by ``AddRenderObservation``.

        Raises:
            TypeError: if the environment has no ``goal_frame`` method.
            ValueError: if the render mode is not ``"rgb_array"`` or the observation is not an image.
        """
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        if not callable(getattr(env.unwrapped, "goal_frame", None)):
            raise TypeError(f"AddGoalFrame needs an environment with a goal_frame() method; {env.unwrapped} has none")
        if env.render_mode != "rgb_array":
            raise ValueError(f"AddGoalFrame needs render_mode='rgb_array', got render_mode={env.render_mode!r}")
        if not _is_image_space(env.observation_space):
            raise ValueError(
                "AddGoalFrame needs image observations, Box(0, 255, (H, W, 3), uint8); wrap the environment in "
                f"AddRenderObservation first (got {env.observation_space})"
            )
        self._image_space = env.observation_space
        self._goal: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        self.observation_space = spaces.Dict({"pixels": self._image_space, "goal": self._image_space})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset the environment and draw the new goal."""
        self._goal = None
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Any) -> dict[str, Any]:
        """Return ``{"pixels": observation, "goal": goal frame}``.

        Raises:
            ValueError: if the goal frame is not of the observation's shape and dtype.
        """
        if self._goal is None:
            self._goal = self._draw_goal()
        return {"pixels": observation, "goal": self._goal.copy()}

    def _draw_goal(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        goal = np.asarray(self.env.unwrapped.goal_frame())  # type: ignore[attr-defined]
        if (goal.shape, goal.dtype) != (self._image_space.shape, self._image_space.dtype):
            raise ValueError(
                f"the goal frame is {goal.dtype} of shape {goal.shape}, but the observed frame is "
                f"{self._image_space.dtype} of shape {self._image_space.shape}"
            )
        return goal


MAX_CHOICES = 10_000
"""Components of a one-hot vector, at most."""


class OneHotActions(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Lets vectors stand for the choices of a discrete action space: the largest component is the choice."""

    one_hot_actions = True

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wrap an environment whose action space is ``Discrete(n)``, counted from 0."""
        RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)
        if not isinstance(env.action_space, spaces.Discrete) or env.action_space.start != 0:
            raise ValueError(f"OneHotActions needs a Discrete(n) action space, got {env.action_space}")
        if env.action_space.n > MAX_CHOICES:
            raise ValueError(f"{env.action_space} are too many choices; there can be {MAX_CHOICES}")
        self._choices = env.action_space
        self.action_space = spaces.Box(0.0, 1.0, (int(env.action_space.n),), np.float32)

    def action(self, action: Any) -> Any:
        """The choice (an integer) that a vector (n,) stands for."""
        return int(np.argmax(action))

    def vector(self, choice: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The one-hot vector (n,) of a choice. Raises ``ValueError`` if the environment does not offer it."""
        number = np.asarray(choice)
        if number.size != 1 or number.dtype.kind not in "iu" or not 0 <= number.item() < self._choices.n:
            raise ValueError(f"{choice!r} is none of the choices of {self._choices}")
        vector = np.zeros(int(self._choices.n), np.float32)
        vector[number.item()] = 1.0
        return vector


class OwnContext(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Lets each of several environments with Gymnasium's MuJoCo renderer draw what it shows.

    Of these only the one that was made last has its OpenGL context at hand, so that another draws with foreign
    textures, and all black once that one is closed.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wrap any environment; others draw as they do."""
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        own = env.unwrapped
        parts = [own, *vars(own).values()]  # Gymnasium-Robotics' mazes have another environment inside
        self._renderers = [part.mujoco_renderer for part in parts if hasattr(part, "mujoco_renderer")]

    def render(self) -> Any:
        """The frame."""
        for renderer in self._renderers:
            if renderer is not None and renderer.viewer is not None:
                renderer.viewer.make_context_current()
        return self.env.render()


class OwnRandomness(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Lets all that an environment draws follow the seed of its reset.

    Some draw from NumPy's global generator (OGBench's mazes), or from spaces that nobody has seeded (its arms). Here
    the former is a stream of the episode's own, and the latter are seeded from it; nobody else's numbers change.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wrap any environment."""
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._stream = np.random.RandomState(0).get_state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; a seed begins its stream anew."""
        if seed is not None:
            self._stream = np.random.RandomState(seed).get_state()
        with self._drawing():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """Step the environment."""
        with self._drawing():
            return self.env.step(action)

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        outside, unseeded = np.random.get_state(), seeding.np_random
        np.random.set_state(self._stream)
        seeding.np_random = lambda seed=None: unseeded(int(np.random.randint(2**31)) if seed is None else seed)
        try:
            yield
        finally:
            seeding.np_random = unseeded
            self._stream = np.random.get_state()
            np.random.set_state(outside)


class ResizedRender(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Makes the rendered frames (image_size, image_size, 3)."""

    def __init__(self, env: gym.Env[Any, Any], image_size: int) -> None:
        """Wrap an environment with ``render_mode="rgb_array"``."""
        RecordConstructorArgs.__init__(self, image_size=image_size)
        gym.Wrapper.__init__(self, env)
        self._image_size = image_size

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        """Frames, also where an environment that draws them does not say so."""
        return "rgb_array"

    def render(self) -> Any:
        """The frame as RGB, averaged down or stretched to the size."""
        return resized(as_rgb(np.asarray(self.env.render())), self._image_size)


def make_pixel_env(name: str, image_size: int = 64, **kwargs: Any) -> gym.Env[dict[str, Any], Any]:
    """Make an environment whose observation is ``Dict(pixels, goal)``, both (image_size, image_size, 3) uint8.

    Args:
        name: short name (a key of ``ENVIRONMENTS``) or Gymnasium id.
        image_size: height and width of the frames, px.
        **kwargs: further arguments of ``gymnasium.make`` and of the environment.

    Raises:
        ValueError: if there is no such environment, or it refuses an argument.
    """
    env = gym.make(environment_id(name), render_mode="rgb_array", image_size=image_size, **kwargs)
    return AddGoalFrame(AddRenderObservation(env, render_only=True))


def _is_image_space(space: gym.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3
