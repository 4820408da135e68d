"""Evaluation protocols: which pairs of start and goal count, and when a pair is solved.

``paper`` is the released evaluation (stable-worldmodel ``scripts/plan/eval_wm.py``); ``moderate`` and ``strict`` follow
the definitions of the independent audit CLEAR-LeWM. In all three the goal is the state 25 steps after the start in the
same recorded episode, and the agent has 50 environment steps. ``varied`` is ``moderate`` in other colors; in ``far``
start and goal come from two episodes, farther apart, and the agent has 150 steps. Episodes come from a random stream
that collection never draws from, so no training has seen them. The rules in words:
``docs/reference/protocols.md``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lewm_agent.agents.behavior.policies import behavior_policy
from lewm_agent.datasets.rollout import episode_seed, policy_seed, rollout
from lewm_agent.envs import environment_id
from lewm_agent.envs.factors import Factors
from lewm_agent.envs.goal_env import GoalEnv
from lewm_agent.eval.worlds import cube as cube_rules
from lewm_agent.eval.worlds import push_t as push_t_rules
from lewm_agent.eval.worlds import reacher as reacher_rules
from lewm_agent.eval.worlds import two_room as two_room_rules
from lewm_agent.tools.checks import named

ProtocolName = Literal["paper", "moderate", "strict", "varied", "far"]
PROTOCOL_NAMES: tuple[str, ...] = get_args(ProtocolName)
"""In the order in which results are shown."""
GOAL_OFFSET = 25
"""Environment steps from start to goal in the recorded episode."""
BUDGET = 50
"""Environment steps the agent has, except in ``far``."""
FAR_BUDGET = 150
"""Environment steps the agent has in ``far``, where goals are 2 to 4 times as far away."""
HELD_OUT_STREAM = 1
"""Stream of episode seeds that collection, which draws from stream 0, never touches."""
LOOK_STREAM = 1
"""Stream of an evaluation's random numbers from which looks are drawn, apart from the choice of rows."""
MOST_EPISODES = 100_000
"""Held-out episodes looked at, at most, before giving up on finding enough eligible pairs."""

States = NDArray[np.float64]
Episode = dict[str, NDArray[Any]]
Apart = Callable[[States, States], NDArray[np.bool_]]
"""From states of one episode (T, S) and of the next (U, S): which of them make a pair, (T, U)."""


@dataclass(frozen=True)
class Pair:
    """A start and a goal from recorded episodes.

    Attributes:
        episode: number of the held-out episode that the start is from.
        start: row of the start in it.
        state: where the agent begins (S,): the recorded state, as the protocol alters it.
        goal_state: the recorded state 25 steps later (S,), or in ``far`` some state of the next episode.
        actions: the 25 actions (25, A) recorded between them; none, (0, A), in ``far``.
        factors: of variation that both are drawn with, for ``reset(options={"factors": ...})``; none but in ``varied``.
    """

    episode: int
    start: int
    state: States
    goal_state: States
    actions: NDArray[np.float32]
    factors: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """Rules of one evaluation.

    Attributes:
        eligible: whether recorded states (26, S) make a pair.
        success: from visited states (T, S) and goal (S,), whether the pair counts as solved at each of the T times.
        start: from a recorded state (S,) to the one the agent begins in, such as the same without motion.
        pool: draw rows uniformly from this many held-out episodes; None: at most one pair from an episode.
        environment_kwargs: what the environment is made with, beyond what the agent was trained with.
        budget: environment steps the agent has.
        apart: which recorded states of one episode (T, S) and of the next (U, S) make a pair, (T, U); None: both are
            from one episode, as ``eligible`` says.
        other_looks: whether each pair is drawn in other colors.
    """

    eligible: Callable[[States], bool]
    success: Callable[[States, States], NDArray[np.bool_]]
    start: Callable[[States], States] = np.copy
    pool: int | None = None
    environment_kwargs: dict[str, Any] = field(default_factory=dict)
    budget: int = BUDGET
    apart: Apart | None = None
    other_looks: bool = False


def _always(states: States) -> bool:
    return True


RECORDED_FROM: dict[str, tuple[str, bool]] = {
    "lewm/Cube-v0": ("expert", False),
    "lewm/PushT-v0": ("expert", True),
    "lewm/Reacher-v0": ("random", False),
    "lewm/TwoRoom-v0": ("expert", True),
}
"""Whose episodes pairs are drawn from, and whether they end at the first success: the behavior of the released data."""

STARTS: dict[str, dict[str, Callable[[States], bool]]] = {
    "lewm/Cube-v0": {
        "starts_at_the_cube": cube_rules.gripper_at_cube,
        "starts_away_from_the_cube": lambda state: not cube_rules.gripper_at_cube(state),
    },
}
"""Kinds of starts (S,) that are also reported apart."""

_PUBLISHED: dict[str, dict[str, Protocol]] = {
    "lewm/Cube-v0": {
        "paper": Protocol(_always, cube_rules.cubes_at_goal, pool=200),
        "moderate": Protocol(cube_rules.cubes_start_apart, cube_rules.cubes_at_goal, start=cube_rules.at_rest),
        "strict": Protocol(cube_rules.cubes_start_unmatched, cube_rules.cubes_stay_at_goal, start=cube_rules.at_rest),
    },
    "lewm/PushT-v0": {
        "paper": Protocol(_always, push_t_rules.near_goal, pool=200),
        "moderate": Protocol(push_t_rules.unsolved_start, push_t_rules.near_goal, start=push_t_rules.at_rest),
        "strict": Protocol(
            push_t_rules.block_unsolved_start, push_t_rules.block_stays_at_goal, start=push_t_rules.at_rest
        ),
    },
    "lewm/Reacher-v0": {
        "paper": Protocol(
            _always,
            functools.partial(reacher_rules.joints_at_goal, wrap_shoulder=False),
            pool=1000,
            environment_kwargs={"wrap_shoulder": False},
        ),
        "moderate": Protocol(
            reacher_rules.joints_start_apart,
            functools.partial(reacher_rules.joints_at_goal, wrap_shoulder=True),
            start=reacher_rules.at_rest,
        ),
        "strict": Protocol(
            reacher_rules.fingertip_starts_apart, reacher_rules.fingertip_stays_at_goal, start=reacher_rules.at_rest
        ),
    },
    "lewm/TwoRoom-v0": {
        "paper": Protocol(_always, two_room_rules.near_goal, pool=1000, environment_kwargs={"collision": "released"}),
        "moderate": Protocol(
            functools.partial(two_room_rules.clean_crossing, radius=two_room_rules.PAPER_RADIUS),
            two_room_rules.near_goal,
            environment_kwargs={"collision": "swept"},
        ),
        "strict": Protocol(
            functools.partial(two_room_rules.clean_crossing, radius=two_room_rules.STRICT_RADIUS),
            two_room_rules.legal_arrival,
            environment_kwargs={"collision": "swept"},
        ),
    },
}

_FAR_APART: dict[str, Apart] = {
    "lewm/Cube-v0": cube_rules.cubes_far_apart,
    "lewm/PushT-v0": push_t_rules.far_apart,
    "lewm/Reacher-v0": reacher_rules.joints_far_apart,
    "lewm/TwoRoom-v0": two_room_rules.rooms_far_apart,
}

PROTOCOLS: dict[str, dict[str, Protocol]] = {
    environment: {
        **rules,
        "varied": replace(rules["moderate"], other_looks=True),
        "far": replace(rules["moderate"], apart=_FAR_APART[environment], budget=FAR_BUDGET),
    }
    for environment, rules in _PUBLISHED.items()
}
"""Rules by Gymnasium id and by name."""


def protocol(environment: str, name: str) -> Protocol:
    """The rules called ``name`` for an environment. Raises ``ValueError`` for unknown names."""
    rules: dict[str, Protocol] = named(environment_id(environment), PROTOCOLS, "protocols for environment")
    chosen: Protocol = named(name, rules, "protocol")
    return chosen


def draw_pairs(
    environment: str, rules: Protocol, count: int, seed: int, environment_kwargs: Mapping[str, Any] | None = None
) -> list[Pair]:
    """Draw pairs from held-out episodes.

    Args:
        environment: id of the environment.
        rules: which pairs count.
        count: how many, at least 1.
        seed: of the held-out episodes and of the choice among their rows.
        environment_kwargs: of the environment the episodes are recorded in, such as the number of cubes.

    Raises:
        ValueError: ``count`` is less than 1, or so many eligible pairs cannot be found.
    """
    if count < 1:
        raise ValueError(f"episodes must be at least 1, got {count}")
    rng = np.random.default_rng([seed, HELD_OUT_STREAM])
    episodes = itertools.islice(held_out_episodes(environment, seed, environment_kwargs), MOST_EPISODES)
    if rules.pool is not None:
        return _from_pool(dict(itertools.islice(episodes, max(rules.pool, count))), count, rng, rules)
    if rules.apart is None:
        drawn = _within_episodes(episodes, rng, rules)
    else:
        drawn = _between_episodes(episodes, rng, rules.apart, rules.start)
    pairs = list(itertools.islice(drawn, count))
    if len(pairs) < count:
        raise ValueError(f"{MOST_EPISODES} held-out episodes of {environment} hold only {len(pairs)} eligible pairs")
    if not rules.other_looks:
        return pairs
    looks = np.random.default_rng([seed, HELD_OUT_STREAM, LOOK_STREAM])
    usual = cast("GoalEnv[Factors]", gym.make(environment, **(environment_kwargs or {})).unwrapped).factors
    return [replace(pair, factors=usual.other_look(looks)) for pair in pairs]


def _from_pool(recorded: dict[int, Episode], count: int, rng: np.random.Generator, rules: Protocol) -> list[Pair]:
    """Pairs at rows drawn uniformly from all recorded episodes."""
    pool = [(number, start) for number, episode in recorded.items() for start in _starts(episode)]
    chosen = np.sort(rng.choice(len(pool), count, replace=False))
    return [_pair(pool[i][0], recorded[pool[i][0]], pool[i][1], rules) for i in chosen]


def _within_episodes(
    episodes: Iterator[tuple[int, Episode]], rng: np.random.Generator, rules: Protocol
) -> Iterator[Pair]:
    """One pair from every episode that has eligible ones."""
    for number, episode in episodes:
        windows = ((start, episode["state"][start : start + GOAL_OFFSET + 1]) for start in _starts(episode))
        eligible = [start for start, states in windows if rules.eligible(states)]
        if eligible:
            yield _pair(number, episode, eligible[rng.integers(len(eligible))], rules)


def _between_episodes(
    episodes: Iterator[tuple[int, Episode]], rng: np.random.Generator, apart: Apart, begin: Callable[[States], States]
) -> Iterator[Pair]:
    """One pair from every two episodes, 2 k and 2 k + 1, that have rows which are ``apart``."""
    for (number, first), (_, second) in zip(episodes, episodes, strict=False):
        rows = np.argwhere(apart(first["state"], second["state"]))
        if len(rows):
            start, goal = rows[rng.integers(len(rows))].tolist()
            yield Pair(number, start, begin(first["state"][start]), second["state"][goal], first["action"][:0])


def held_out_episodes(
    environment: str, seed: int, environment_kwargs: Mapping[str, Any] | None = None
) -> Iterator[tuple[int, Episode]]:
    """Endless recorded episodes, without pixels, that no collection with any seed contains."""
    behavior, ends_at_success = RECORDED_FROM[environment]
    env = gym.make(environment, **{**(environment_kwargs or {}), "terminate_on_success": ends_at_success})
    policy = behavior_policy(behavior, env)
    number = 0
    while True:
        env_seed, own_seed = (derive(seed, number, HELD_OUT_STREAM) for derive in (episode_seed, policy_seed))
        yield number, rollout(env, policy, env_seed, own_seed, frame_interval=None)
        number += 1


def _starts(episode: Episode) -> range:
    """Rows after which the episode goes on long enough for a goal."""
    return range(len(episode["state"]) - GOAL_OFFSET)


def _pair(number: int, episode: Episode, start: int, rules: Protocol) -> Pair:
    states, end = episode["state"], start + GOAL_OFFSET
    return Pair(number, start, rules.start(states[start]), states[end], episode["action"][start:end])
