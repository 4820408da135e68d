"""Evaluation protocols: which pairs of start and goal count, and when a pair is solved.

``paper`` is the released evaluation (stable-worldmodel ``scripts/plan/eval_wm.py``); ``moderate`` and ``strict`` follow
the definitions of the independent audit CLEAR-LeWM. In all three the goal is the state 25 steps after the start in the
same recorded episode, and the agent has 50 environment steps. ``moderate-75`` is ``moderate`` with goals 75 steps after
their starts and twice as many for the agent; ``varied`` is ``moderate`` in other colors,
or another light, by another camera, or with clutter (``varied-light``); in ``far`` start and goal come
from two episodes, farther apart, and the agent has 150 steps. ``docs/reference/protocols.md`` tells the rules in words;
those of each world are in its record.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from lewm_agent.envs.factors import LOOKS, Look
from lewm_agent.eval.options import ProtocolName as ProtocolName
from lewm_agent.evaluation.success import Success
from lewm_agent.evaluation.trials import Situation, Trial
from lewm_agent.tools.checks import named

PROTOCOL_NAMES: tuple[str, ...] = get_args(ProtocolName)
"""In the order in which results are shown."""
GOAL_OFFSET = 25
"""Environment steps from start to goal in the recorded episode, where nothing else is asked for."""
OFFSETS = (GOAL_OFFSET, 50, 75, 100, 150)
"""For which lists of ``moderate`` pairs ship."""
MOST_OFFSET = 150
"""Of any list: the recorded ways of Two-Room and Push-T are seldom longer."""
BUDGET = 2 * GOAL_OFFSET
"""Environment steps the agent has, except with other offsets and in ``far``."""
FAR_BUDGET = 150
"""Environment steps the agent has in ``far``, where goals are 2 to 4 times as far away."""
FARTHER = (2.0, 4.0)
"""Least and greatest separation in ``far``, in medians of the shipped ``moderate`` pairs of the same world."""

States = NDArray[np.float64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Pair:
    """A start and a goal from recorded episodes.

    Attributes:
        episode: number of the held-out episode that the start is from.
        start: row of the start in it.
        state: where the agent begins (S,): the recorded state, as the protocol alters it.
        goal_state: the recorded state ``offset`` steps later (S,), or in ``far`` some state of the next episode.
        actions: the actions (offset, A) recorded between them; none, (0, A), in ``far``.
        factors: of variation that both are drawn with, for ``reset(options={"factors": ...})``; none but in ``varied``.
    """

    episode: int
    start: int
    state: States
    goal_state: States
    actions: NDArray[np.float32]
    factors: dict[str, Any] = field(default_factory=dict)

    @property
    def trial(self) -> Trial:
        """What is played of it."""
        about = {
            "episode": self.episode,
            "start_row": self.start,
            "state": self.state.tolist(),
            "goal_state": self.goal_state.tolist(),
            "factors": self.factors,
        }
        return Trial(
            options={"state": self.state, "goal_state": self.goal_state, "factors": self.factors},
            wanted={"state": self.goal_state},
            recorded=self.actions,
            about=about,
        )


@dataclass(frozen=True)
class Far:
    """Which starts and goals of two episodes are 2 to 4 times as far apart as ``moderate`` pairs.

    Attributes:
        separation: from states of one episode (T, S) and of the next (U, S) to how far apart they are (T, U), in the
            world's unit; infinite where they make no pair whatever their distance.
        moderate: median separation over the 200 shipped ``moderate`` pairs.
    """

    separation: Callable[[States, States], States]
    moderate: float

    def apart(self, starts: States, goals: States) -> Booleans:
        """Which of the states (T, S) of one episode and (U, S) of the next make a pair, (T, U)."""
        separations = self.separation(starts, goals)
        least, greatest = FARTHER
        return (separations >= least * self.moderate) & (separations <= greatest * self.moderate)


@dataclass(frozen=True)
class RuleSays(Success):
    """The rule of a protocol says it, from the states of the whole episode so far."""

    rule: Callable[[States, States], Booleans]

    def __str__(self) -> str:
        return "the protocol's rule"

    def measure(self, situation: Situation, trial: Trial) -> States:
        """The state (S,)."""
        return np.array(situation.info["state"])

    def holds(self, kept: States, trial: Trial) -> Booleans:
        """Where the rule does, for the goal's state."""
        return self.rule(kept, trial.wanted["state"])


def any_window(states: States) -> bool:
    """Every recorded window (offset + 1, S) makes a pair."""
    return True


@dataclass(frozen=True)
class Protocol:
    """Rules of one evaluation.

    Attributes:
        success: from visited states (T, S) and goal (S,), whether the pair counts as solved at each of the T times.
        eligible: whether recorded states (offset + 1, S) make a pair.
        start: from a recorded state (S,) to the one the agent begins in, such as the same without motion.
        pool: draw rows uniformly from this many held-out episodes; None: at most one pair from an episode.
        environment_kwargs: what the environment is made with, beyond what the agent was trained with.
        offset: recorded environment steps from start to goal.
        budget: environment steps the agent has.
        recording: arguments of the environment in which episodes are recorded, beyond those asked for.
        far: pairs are of two episodes, as far apart as this says; None: of one episode, as ``eligible`` says.
        other_looks: in what each pair looks different, such as its colors; None for as usual.
    """

    success: Callable[[States, States], Booleans]
    eligible: Callable[[States], bool] = any_window
    start: Callable[[States], States] = np.copy
    pool: int | None = None
    environment_kwargs: dict[str, Any] = field(default_factory=dict)
    offset: int = GOAL_OFFSET
    budget: int = BUDGET
    recording: dict[str, Any] = field(default_factory=dict)
    far: Far | None = None
    other_looks: Look | None = None

    def at(self, offset: int, time_limit: int) -> Self:
        """The same rules for goals so many steps after their starts, with twice as many steps for the agent.

        Args:
            offset: recorded environment steps from start to goal.
            time_limit: steps after which an episode is cut off that is recorded in the environment of the pairs.
        """
        recording = {**self.environment_kwargs, "max_episode_steps": time_limit}
        return replace(self, offset=offset, budget=2 * offset, recording=recording)


def at_offset(protocol: str, offset: int) -> str:
    """Name of a protocol with goals so many steps after their starts: ``moderate-75``; without a number for 25.

    Raises ``ValueError`` for a protocol whose goals are as far as they are, or an offset outside its range.
    """
    if offset == GOAL_OFFSET:
        return protocol
    if protocol != "moderate":
        raise ValueError(f"the offset of protocol `{protocol}` cannot be chosen; give --protocol moderate")
    if not 1 <= offset <= MOST_OFFSET:
        raise ValueError(f"offset must be from 1 to {MOST_OFFSET}, got {offset}")
    return f"{protocol}-{offset}"


def in_looks(protocol: str, looks: str) -> str:
    """Name of a protocol whose pairs differ in some look: ``varied-light``; ``varied`` alone for colors.

    Raises ``ValueError`` for an unknown look, or a protocol whose pairs look as usual.
    """
    named(looks, dict.fromkeys(LOOKS), "look")
    if looks == "colors":
        return protocol
    if protocol != "varied":
        raise ValueError(f"pairs of protocol `{protocol}` look as usual; give --protocol varied")
    return f"{protocol}-{looks}"


def kind_and_offset(name: str) -> tuple[str, int]:
    """``moderate-75`` to ``moderate`` and 75; any other name is a kind with the usual offset.

    A look belongs to no kind: ``varied-light`` is of kind ``varied``.
    """
    found = re.fullmatch(r"(moderate)-([1-9]\d*)", name)
    if found:
        return found[1], int(found[2])
    return ("varied" if name == f"varied-{looks_in(name)}" else name), GOAL_OFFSET


def looks_in(name: str) -> Look:
    """In what pairs of ``varied`` differ: ``varied-light`` to light, ``varied`` to colors."""
    return next((look for look in LOOKS if name == f"varied-{look}"), "colors")
