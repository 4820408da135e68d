"""An agent in its world, and what it imagines: the session that watch.py shows."""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch

from lewm_agent import LeWMAgent
from lewm_agent.envs.goal_env import GoalEnv, Vector
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.watching.drawing import SIDE, Path, Scene
from lewm_agent.eval.watching.frame_decoder import FrameDecoder
from lewm_agent.eval.worlds import world_of
from lewm_agent.eval.worlds.world import Task, World
from lewm_agent.planning.episodes import Actions, EpisodeMemory, Frames
from lewm_agent.planning.imagination import array, imagine

RIDGE = 1e-3
"""Of the kernel regression, whose kernel is 1 at distance 0."""
ENCODED_AT_ONCE = 64
MOST_STEPS = 60
"""Environment steps of a recorded episode, unless it is solved before."""


class Watched(ABC):
    """What watch.py shows: an agent on its way to a goal, and what a spectator may ask of it.

    Attributes:
        mouse: what the mouse does, for the spectator.
        fps: pictures a second.
        most_steps: environment steps of a recorded episode.
        about: a sentence on what is shown.
    """

    mouse: str
    fps: float
    most_steps: int
    about: str
    _imagined: Frames | None
    """What plans expect to see; None where nothing shows that."""

    @property
    def decodes(self) -> bool:
        """Whether scenes have imagined frames."""
        return self._imagined is not None

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether there is nothing more to see of the episode."""

    @abstractmethod
    def step(self) -> None:
        """Let the agent act once."""

    @abstractmethod
    def scene(self, *captions: str) -> Scene:
        """What there is to see, with further lines below it."""

    @abstractmethod
    def restart(self) -> None:
        """Begin elsewhere."""

    @abstractmethod
    def new_goal(self) -> None:
        """Take another goal."""

    @abstractmethod
    def click(self, place: Vector) -> None:
        """Take the goal that a click at a place (2,) of the picture means."""

    @abstractmethod
    def turn(self, angle: float) -> None:
        """Turn the goal, rad."""


class Readout:
    """Kernel ridge regression from latents to places.

    The kernel is Gaussian, as wide as the median distance between the known latents.

    Args:
        latents: (N, D), of known states.
        places: (N, K, 2), in their pictures.

    Attributes:
        error: median distance between place and reading of a known state that was left out, in sides of the picture.
    """

    def __init__(self, latents: Vector, places: Vector) -> None:
        self._known, self._shape = latents, places.shape[1:]
        self._scale = float(np.median(_squared_distances(latents, latents)))
        inverse = np.linalg.inv(self._kernel(latents) + RIDGE * np.eye(len(latents)))
        self._mean = places.mean(axis=0)
        self._weights: Vector = inverse @ (places - self._mean).reshape(len(places), -1)
        left_out = (self._weights / np.diag(inverse)[:, None]).reshape(places.shape)
        self.error = float(np.median(np.linalg.norm(left_out, axis=-1)))

    def __call__(self, latents: Vector) -> Vector:
        """Places (P, K, 2) of latents (P, D)."""
        return self._mean + (self._kernel(latents) @ self._weights).reshape(-1, *self._shape)

    def _kernel(self, latents: Vector) -> Vector:
        return np.exp(-_squared_distances(latents, self._known) / self._scale)


def _squared_distances(a: Vector, b: Vector) -> Vector:
    squares: Vector = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return squares.clip(min=0.0)


class Session(Watched):
    """An agent in its world, and the path of its last plan.

    Args:
        agent: of an environment that evaluation has a record of.
        seed: of starts, goals and the planner's noise.
        tasks: starts and goals, taken in turn; also the known states. By default those of the world.
        decoder: draws what plans expect to see.

    Raises:
        ValueError: the model's environment has no id, or there are no tasks for it.
    """

    info: dict[str, Any]
    path: Path | None
    _goal_frame: Frames

    def __init__(
        self,
        agent: LeWMAgent,
        seed: int = 0,
        tasks: Sequence[Task] | None = None,
        decoder: FrameDecoder | None = None,
    ) -> None:
        self.agent, self._seed, self._decoder = agent, seed, decoder
        world = world_of(_trained_in(agent))
        self.env = _make(agent, world, agent.config.model.image_size)
        self._copy = _make(agent, world, SIDE)
        self.view = world.view(self.env)
        tasks = tasks or self.view.tasks(seed) or held_out_tasks(world, seed)
        self.mouse, self.most_steps = self.view.mouse, MOST_STEPS
        self.fps = float(self.env.metadata["render_fps"])
        self.readout = self._fit(tasks)
        self.about = f"places are read from latents to {self.readout.error:.1%} of the picture"
        self._tasks = itertools.cycle(tasks)
        self._episode = 0
        self.milliseconds, self.steps = 0.0, 0
        self.restart()

    @property
    def over(self) -> bool:
        """Whether the goal is reached."""
        return bool(self.info["is_success"])

    def restart(self) -> None:
        """Begin the next task."""
        task = next(self._tasks)
        seed = int(np.random.SeedSequence([self._seed, self._episode]).generate_state(1)[0])
        self._memories = self.agent.initial_memories([seed])
        self._episode += 1
        self._begin(task.state, task.goal_state)

    def new_goal(self) -> None:
        """Go on from here to the goal of the next task."""
        self.set_goal(next(self._tasks).goal_state)

    def click(self, place: Vector) -> None:
        """Set the goal that a click at a place (2,) of the picture means."""
        self.set_goal(self.view.goal_at(place, self.info["state"], self.info["goal_state"]))

    def turn(self, angle: float) -> None:
        """Turn the goal, rad, where the world has something to turn."""
        self.set_goal(self.view.turned(self.info["goal_state"], angle))

    def set_goal(self, goal_state: Vector) -> None:
        """Go on from here to another goal (S,)."""
        if not np.array_equal(goal_state, self.info["goal_state"]):
            self._begin(self.info["state"], goal_state)

    def step(self) -> None:
        """Let the agent act once."""
        plans = self._memories[0].plans
        observation = {"pixels": self.env.render(), "goal": self._goal_frame}
        began = time.perf_counter()
        action, self._memories = self.agent.predict(observation, self._memories)
        if self._memories[0].plans > plans:
            self.milliseconds = 1000.0 * (time.perf_counter() - began)
            self.path = self._path(self._memories[0])
        self.info = self.env.step(action)[-1]
        self.steps += 1

    def scene(self, *captions: str) -> Scene:
        """What there is to see, with further lines below it."""
        return Scene(
            frame=self._picture(self.info["state"]),
            goal_frame=self._goal_picture,
            goal_places=self.view.places(self.info["goal_state"]),
            path=self.path,
            imagined=self._imagined,
            solved=self.info["is_success"],
            marks=self.view.marks,
            captions=(self.caption(), *captions),
        )

    def caption(self) -> str:
        """Step, distance, success and time of the last plan."""
        distance = f"{self.info['distance']:.3g} {self.view.unit} from the goal"
        planned = f"{self.milliseconds:.0f} ms for the last plan" if self.milliseconds else "no plan yet"
        reached = "goal reached" if self.info["is_success"] else "not there yet"
        return f"step {self.steps}   |   {distance}   |   {reached}   |   {planned}"

    def _begin(self, state: Vector, goal_state: Vector) -> None:
        _, self.info = self.env.reset(options={"state": state, "goal_state": goal_state})
        self._goal_frame = self.env.goal_frame()
        self._goal_picture = self._picture(goal_state)
        self.path = None
        self._imagined = self._decoded(np.empty((0, self.agent.config.model.latent_dim)))
        self.milliseconds, self.steps = 0.0, 0

    def _decoded(self, latents: Vector) -> Frames | None:
        """Frames of latents (P, D), where there is a decoder."""
        return None if self._decoder is None else self._decoder.drawn(latents)

    def _picture(self, state: Vector) -> Frames:
        self._copy.reset(options={"state": state})
        return self._copy.render()

    def _fit(self, tasks: Sequence[Task]) -> Readout:
        """Draw, encode and locate the starts and goals of all tasks."""
        states = [state for task in tasks for state in (task.state, task.goal_state)]
        frames = []
        for state in states:
            self.env.reset(options={"state": state})
            frames.append(self.env.render())
        return Readout(self._encode(np.stack(frames)), self.view.places(np.stack(states)))

    @torch.inference_mode()
    def _encode(self, frames: Frames) -> Vector:
        chunks = torch.as_tensor(frames).to(self.agent.device).split(ENCODED_AT_ONCE)
        return array(torch.cat([self.agent.world_model.encode(chunk) for chunk in chunks]))

    def _path(self, memory: EpisodeMemory) -> Path:
        """Where the plan leads that ``memory`` has just begun to execute: imagined, and in the simulator."""
        actions, latents = imagine(self.agent.world_model, self.agent.config.planner, memory)
        self._imagined = self._decoded(latents)
        states = self._really(actions)
        places = self.view.places
        return Path(places(self.info["state"]), self.readout(latents), places(states))

    def _really(self, actions: Actions) -> Vector:
        """States (P, S) after each block when actions (P, frame_skip, action_dim) follow the present state."""
        self._copy.reset(options={"state": self.info["state"]})
        return np.stack([[self._copy.step(action)[-1]["state"] for action in block][-1] for block in actions])


def held_out_tasks(world: World, seed: int) -> list[Task]:
    """Held-out pairs of protocol ``moderate``, on which success is measured: goals 25 steps away.

    Args:
        world: whose pairs ship with the package.
        seed: of their order.
    """
    pairs = shipped(world.name, "moderate").pairs
    return [Task(pairs[i].state, pairs[i].goal_state) for i in np.random.default_rng(seed).permutation(len(pairs))]


def _trained_in(agent: LeWMAgent) -> str:
    if agent.description.environment is None:
        raise ValueError("this agent was trained on an unregistered environment, which cannot be made by name")
    return agent.description.environment


def _make(agent: LeWMAgent, world: World, image_size: int) -> GoalEnv[Any]:
    """The environment that the agent was trained in, which goes on after a success and never runs out of time."""
    fixed = {"render_mode": "rgb_array", "terminate_on_success": False, "image_size": image_size}
    kwargs = {**agent.description.environment_kwargs, **fixed}
    return cast(GoalEnv[Any], gym.make(world.environment, disable_env_checker=True, **kwargs).unwrapped)
