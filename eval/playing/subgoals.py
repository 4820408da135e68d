"""Subgoals from an oracle: the pictures of states that a known way to the goal comes through.

They say what subgoals can bring on a world, whoever chooses them: an agent is handed the picture of a real state some
steps on in place of its goal. The way is that of the recorded episode, or of the world's expert from the present state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lewm_agent.agents.registry import Agent
from lewm_agent.environment import Environment
from lewm_agent.eval.worlds.protocols import Pair, Protocol, States
from lewm_agent.eval.worlds.world import World, restore
from lewm_agent.planning.episodes import EpisodeMemory, Frames
from lewm_agent.tools.frames import resized

PATIENCE = 2
"""A subgoal is overdue after so many times the steps that the known way takes to it."""
NEAR = 0.5
"""A subgoal is reached by a latent so much as far from its own as that of the frame one block before it on the way."""


class Way(ABC):
    """A way to the goal that is known to lead there, or most of it."""

    @abstractmethod
    def next_leg(self, state: States) -> States:
        """States (n + 1, S) of the way to the next subgoal, which is the last of them.

        Args:
            state: the present one (S,).
        """


class RecordedWay(Way):
    """The way of the recorded episode, at its own pace.

    Args:
        states: from start to goal (offset + 1, S).
        ahead: environment steps from one subgoal to the next.
    """

    def __init__(self, states: States, ahead: int) -> None:
        self._states, self._ahead, self._end = states, ahead, 0

    def next_leg(self, state: States) -> States:
        """See the base class; the present state does not matter."""
        begin = self._end
        self._end = min(begin + self._ahead, len(self._states) - 1)
        return self._states[min(begin, self._end - 1) : self._end + 1]


class ExpertWay(Way):
    """What the world's expert would do from the present state.

    Args:
        world: whose expert.
        env: in which it plays; not the one that is acted in.
        rules: say when the expert has arrived, and stops.
        pair: start and goal.
        ahead: environment steps to the subgoal.
    """

    def __init__(self, world: World, env: Environment, rules: Protocol, pair: Pair, ahead: int) -> None:
        self._expert, self._env, self._rules, self._pair, self._ahead = world.expert(env), env, rules, pair, ahead

    def next_leg(self, state: States) -> States:
        """See the base class."""
        _, info = restore(self._env, self._pair, state)
        self._expert.reset(0)
        states = [state]
        for _ in range(self._ahead):
            info = self._env.step(self._expert(None, info))[-1]
            states.append(np.array(info["state"]))
            if self._rules.success(np.stack(states), self._pair.goal_state)[-1]:
                return np.stack([*states[:-1], self._pair.goal_state])
        return np.stack(states)


class Guide:
    """Hands an agent one subgoal after the other; each is kept until it is reached or overdue.

    Args:
        agent: who is guided.
        env: in which subgoals are drawn; not the one that is acted in.
        pair: start and goal.
        way: where subgoals come from.
    """

    def __init__(self, agent: Agent, env: Environment, pair: Pair, way: Way) -> None:
        self._agent, self._env, self._pair, self._way = agent, env, pair, way
        self._target, self._latent = np.empty(0, np.uint8), torch.empty(0)
        self._near, self._deadline = 0.0, 0  # a first subgoal is due

    def aimed(self, memory: EpisodeMemory, frame: Frames, states: list[States]) -> tuple[EpisodeMemory, Frames]:
        """What the agent remembers as its goal from here on, and the picture of it (H, W, 3).

        Args:
            memory: of the agent, before a plan is made.
            frame: the present one (H, W, 3).
            states: visited until now, the present one last.
        """
        step = len(states) - 1
        if step >= self._deadline or self._is_reached(frame):
            self._take(self._way.next_leg(states[-1]), step)
        return replace(memory, goal=self._target, goal_latent=self._latent, arrival=0), self._target

    def _is_reached(self, frame: Frames) -> bool:
        return bool((self._encoded(frame[None])[0] - self._latent).norm() <= self._near)

    def _take(self, leg: States, step: int) -> None:
        """Aim at the end of a leg from this step on."""
        length = len(leg) - 1
        block_before = leg[-1 - min(self._agent.config.model.frame_skip, length)]
        pictures = np.stack([self._picture(state) for state in (leg[-1], block_before)])
        self._target, (self._latent, before) = pictures[0], self._encoded(pictures)
        self._near = NEAR * float((before - self._latent).norm())
        self._deadline = step + PATIENCE * length

    def _picture(self, state: States) -> Frames:
        """Of a state, as goals are drawn."""
        restore(self._env, replace(self._pair, goal_state=state), state)
        drawn = np.asarray(self._env.unwrapped.goal_frame())  # type: ignore[attr-defined]
        return resized(drawn, self._agent.config.model.image_size)

    @torch.inference_mode()
    def _encoded(self, frames: Frames) -> Tensor:
        return self._agent.model.encode(torch.as_tensor(frames).to(self._agent.device))
