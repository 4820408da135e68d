"""Errors whose sentence was not true once: each names what is wrong, and advice that can be followed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lewm_agent import PlannerConfig
from lewm_agent.planning import ICEM, Mixture
from lewm_agent.planning.episodes import begin_episodes


@pytest.mark.parametrize("elites", [2, 4, 7])
def test_a_mixture_counts_the_elites_of_each_component(elites: int) -> None:
    with pytest.raises(ValueError, match=rf"elites \({elites}\) must be at least 2 for each of the 4 .*: 8 in all"):
        PlannerConfig(search=Mixture(), samples=64, elites=elites)


@pytest.mark.parametrize(
    "settings",
    [
        PlannerConfig(search=Mixture(), samples=8, elites=8),
        PlannerConfig(search=Mixture(components=4), samples=9, elites=9),
        PlannerConfig(search=ICEM(), samples=4, elites=2),
    ],
)
def test_what_the_settings_allow_can_be_searched_with(settings: PlannerConfig) -> None:
    start = torch.zeros(1, 1, 2, 1)
    found = settings.search.plan(lambda a: a.square().sum((-1, -2)), start, [torch.Generator()], settings.sampling())
    assert found.actions.isfinite().all()
    with pytest.raises(ValueError, match="elites"):
        dataclasses.replace(settings, elites=settings.elites + 1, samples=settings.elites + 1, search=ICEM())


@pytest.mark.parametrize("starts", [np.zeros(2, bool), np.zeros((3, 1), bool)])
def test_episode_starts_are_one_for_each_environment(starts: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> None:
    state = begin_episodes(0, None, None, 3)
    with pytest.raises(ValueError, match="one value for each of the 3 environments"):
        begin_episodes(0, state, starts, 3)
