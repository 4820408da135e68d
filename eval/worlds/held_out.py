"""Held-out episodes, and the pairs of start and goal drawn from them.

The episodes come from a random stream that collection never draws from, so no training has seen them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lewm_agent.agents.behavior.policies import behavior_policy
from lewm_agent.datasets.rollout import episode_seed, policy_seed, rollout
from lewm_agent.envs.factors import LOOKS, Factors, Look
from lewm_agent.envs.goal_env import GoalEnv
from lewm_agent.eval.worlds import world_of
from lewm_agent.eval.worlds.protocols import Far, Pair, Protocol, States

HELD_OUT_STREAM = 1
"""Stream of episode seeds that collection, which draws from stream 0, never touches."""
LOOK_STREAM = 1
"""First stream of an evaluation's random numbers from which looks are drawn, one for each of ``LOOKS``."""
MOST_EPISODES = 100_000
"""Held-out episodes looked at, at most, before giving up on finding enough eligible pairs."""

Episode = dict[str, NDArray[Any]]


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
    recorded = held_out_episodes(environment, seed, {**(environment_kwargs or {}), **rules.recording})
    episodes = itertools.islice(recorded, MOST_EPISODES)
    if rules.pool is not None:
        return _from_pool(dict(itertools.islice(episodes, max(rules.pool, count))), count, rng, rules)
    if rules.far is None:
        drawn = _within_episodes(episodes, rng, rules)
    else:
        drawn = _between_episodes(episodes, rng, rules.far, rules.start)
    pairs = list(itertools.islice(drawn, count))
    if len(pairs) < count:
        raise ValueError(f"{MOST_EPISODES} held-out episodes of {environment} hold only {len(pairs)} eligible pairs")
    if rules.other_looks is None:
        return pairs
    return in_other_looks(pairs, environment, rules.other_looks, seed, environment_kwargs)


def in_other_looks(
    pairs: list[Pair], environment: str, what: Look, seed: int, environment_kwargs: Mapping[str, Any] | None = None
) -> list[Pair]:
    """The same pairs, each in a look of its own, as :func:`draw_pairs` draws it with that seed."""
    stream = LOOK_STREAM + LOOKS.index(what)
    looks = np.random.default_rng([seed, HELD_OUT_STREAM, stream])
    usual = cast("GoalEnv[Factors]", gym.make(environment, **(environment_kwargs or {})).unwrapped).factors
    return [replace(pair, factors=usual.other_look(looks, what)) for pair in pairs]


def _from_pool(recorded: dict[int, Episode], count: int, rng: np.random.Generator, rules: Protocol) -> list[Pair]:
    """Pairs at rows drawn uniformly from all recorded episodes."""
    pool = [(number, start) for number, episode in recorded.items() for start in _starts(episode, rules)]
    chosen = np.sort(rng.choice(len(pool), count, replace=False))
    return [_pair(pool[i][0], recorded[pool[i][0]], pool[i][1], rules) for i in chosen]


def _within_episodes(
    episodes: Iterator[tuple[int, Episode]], rng: np.random.Generator, rules: Protocol
) -> Iterator[Pair]:
    """One pair from every episode that has eligible ones."""
    for number, episode in episodes:
        windows = ((start, episode["state"][start : start + rules.offset + 1]) for start in _starts(episode, rules))
        eligible = [start for start, states in windows if rules.eligible(states)]
        if eligible:
            yield _pair(number, episode, eligible[rng.integers(len(eligible))], rules)


def _between_episodes(
    episodes: Iterator[tuple[int, Episode]], rng: np.random.Generator, far: Far, begin: Callable[[States], States]
) -> Iterator[Pair]:
    """One pair from every two episodes, 2 k and 2 k + 1, that have rows far enough apart."""
    for (number, first), (_, second) in zip(episodes, episodes, strict=False):
        rows = np.argwhere(far.apart(first["state"], second["state"]))
        if len(rows):
            start, goal = rows[rng.integers(len(rows))].tolist()
            yield Pair(number, start, begin(first["state"][start]), second["state"][goal], first["action"][:0])


def held_out_episodes(
    environment: str, seed: int, environment_kwargs: Mapping[str, Any] | None = None
) -> Iterator[tuple[int, Episode]]:
    """Endless recorded episodes, without pixels, that no collection with any seed contains."""
    recording = Recording(environment, seed, environment_kwargs)
    return ((number, recording.episode(number)) for number in itertools.count())


class Recording:
    """Held-out episodes, without pixels, that no collection with any seed contains; each is played when asked for.

    Args:
        environment: id of the environment.
        seed: of the episodes.
        environment_kwargs: of the environment they are recorded in.
    """

    def __init__(self, environment: str, seed: int, environment_kwargs: Mapping[str, Any] | None = None) -> None:
        world, self._seed = world_of(environment), seed
        kwargs = {**(environment_kwargs or {}), "terminate_on_success": world.ends_at_success}
        self._env = gym.make(environment, **kwargs)
        self._policy = behavior_policy(world.recorded_from, self._env)

    def episode(self, number: int) -> Episode:
        """The columns of an episode, which depend on its number and the seed."""
        env_seed, own_seed = (derive(self._seed, number, HELD_OUT_STREAM) for derive in (episode_seed, policy_seed))
        return rollout(self._env, self._policy, env_seed, own_seed, frame_interval=None)


def _starts(episode: Episode, rules: Protocol) -> range:
    """Rows after which the episode goes on long enough for a goal."""
    return range(len(episode["state"]) - rules.offset)


def _pair(number: int, episode: Episode, start: int, rules: Protocol) -> Pair:
    states, end = episode["state"], start + rules.offset
    return Pair(number, start, rules.start(states[start]), states[end], episode["action"][start:end])
