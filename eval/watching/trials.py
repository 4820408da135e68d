"""An agent in any environment, on trials whose goals come from data, the environment or a list."""

from __future__ import annotations

import itertools
import time

import numpy as np

from lewm_agent import LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.envs.goal_env import Vector
from lewm_agent.eval.watching.drawing import SIDE, Scene
from lewm_agent.eval.watching.session import Watched
from lewm_agent.evaluation.rollouts import Draws, NearestFrames
from lewm_agent.evaluation.suite import Suite
from lewm_agent.evaluation.trials import begin, goal_picture, step
from lewm_agent.planning.episodes import Frames
from lewm_agent.planning.imagination import imagine
from lewm_agent.tools.frames import as_rgb, resized
from lewm_agent.training.encoding import encode_rows

SHOWN = 2000
"""Recorded frames among which those nearest to imagined latents are looked up, at most."""


def nearest_recorded(agent: LeWMAgent, dataset: OfflineDataset) -> NearestFrames:
    """Shows latents of an agent as frames of a dataset of its environment: for worlds without a decoder."""
    rows = dataset.frame_rows(np.arange(dataset.num_episodes))
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), SHOWN)).round().astype(np.int64)]
    known = encode_rows(agent.world_model, dataset, rows, progress=True)
    return NearestFrames(known, lambda nearest: dataset.read_frames(rows[nearest]))


class TrialSession(Watched):
    """An agent that plays trials in turn; what watch.py shows of any environment.

    Args:
        agent: who acts.
        suite: starts, goals, and when they are reached.
        seed: of the planner's noise.
        draws: shows what plans expect to see; None: that is not shown.
    """

    mouse = "goals are those of the data, the task or the list"

    def __init__(self, agent: LeWMAgent, suite: Suite, seed: int = 0, draws: Draws | None = None) -> None:
        self.agent, self.suite, self._seed, self._draws = agent, suite, seed, draws
        self._env = suite.make()
        self.fps = float(self._env.metadata.get("render_fps") or 10)
        self.most_steps = suite.budget
        self.about = f"{len(suite.trials)} starts and goals; success: {suite.success}"
        self._trials = itertools.cycle(suite.trials)
        self._episode = 0
        self.restart()

    @property
    def over(self) -> bool:
        """Whether the goal is reached, or the environment has ended the episode."""
        return self.solved or self._situation.ended

    def restart(self) -> None:
        """Begin the next trial."""
        self._trial = next(self._trials)
        seed = int(np.random.SeedSequence([self._seed, self._episode]).generate_state(1)[0])
        self._memories = self.agent.initial_memories([seed])
        self._episode += 1
        self._situation = begin(self._env, self._trial)
        size = self.agent.config.model.image_size
        self._goal = resized(goal_picture(self._situation, self._trial), size)
        self._frame = self._seen()
        self._states: list[Vector] = []
        self._imagined = self._drawn(np.empty((0, self.agent.config.model.latent_dim)))
        self.milliseconds = 0.0
        self._judge()

    def new_goal(self) -> None:
        """Begin the next trial: the environment is not asked for other goals on the way."""
        self.restart()

    def click(self, place: Vector) -> None:
        """Do nothing: where a goal would be in the picture is not known."""

    def turn(self, angle: float) -> None:
        """Do nothing, likewise."""

    def step(self) -> None:
        """Let the agent act once; where the environment has ended the episode, begin the next trial."""
        if self._situation.ended:
            self.restart()
            return
        plans = self._memories[0].plans
        began = time.perf_counter()
        action, self._memories = self.agent.predict({"pixels": self._frame, "goal": self._goal}, self._memories)
        if self._memories[0].plans > plans:
            self.milliseconds = 1000.0 * (time.perf_counter() - began)
            if self._draws is not None:
                planner = self.agent.config.planner
                self._imagined = self._drawn(imagine(self.agent.world_model, planner, self._memories[0])[1])
        self._situation = step(self._situation, action)
        self._frame = self._seen()
        self._judge()

    def scene(self, *captions: str) -> Scene:
        """What there is to see, with further lines below it."""
        return Scene(
            frame=resized(self._frame, SIDE),
            goal_frame=resized(self._goal, SIDE),
            goal_places=np.empty((0, 2)),
            path=None,
            imagined=self._imagined,
            solved=self.solved,
            marks=(),
            captions=(self.caption(), *captions),
        )

    def caption(self) -> str:
        """Step, distances, success and time of the last plan."""
        told = self.suite.success.distance(self._situation, self._trial)
        latent = self.agent.controller.goal_distance(self._memories[0])
        parts = [
            f"step {self._situation.steps}",
            "" if told is None else f"{told:.3g} from the goal",
            "" if latent is None else f"latents {latent:.3g} apart",
            "goal reached" if self.solved else "episode over" if self._situation.ended else "not there yet",
            f"{self.milliseconds:.0f} ms for the last plan" if self.milliseconds else "no plan yet",
        ]
        return "   |   ".join(filter(None, parts))

    def _judge(self) -> None:
        self._states.append(self.suite.success.measure(self._situation, self._trial))
        self.solved = bool(self.suite.success.holds(np.stack(self._states), self._trial)[-1])

    def _seen(self) -> Frames:
        return resized(as_rgb(np.asarray(self._env.render())), self.agent.config.model.image_size)

    def _drawn(self, latents: Vector) -> Frames | None:
        return None if self._draws is None else self._draws(latents)
