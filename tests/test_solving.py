"""Playing the shipped pairs only until they are solved."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lewm_agent import LeWMAgent, PlannerConfig
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.playing.solving import play_shipped
from lewm_agent.eval.worlds.protocols import ProtocolName
from lewm_agent.evaluation.playing import Player
from lewm_agent.planning.presets import PLANNERS

WORLD = "lewm/TwoRoom-v0"
EPISODES = 4


SKILLED = PLANNERS["amortised"]
CLUMSY = dataclasses.replace(PLANNERS["small"], samples=2, elites=2, iterations=1, noise_correlation=0.0)


@pytest.mark.parametrize(
    ("planner", "solves", "name", "num_envs"),
    [(SKILLED, True, "strict", 1), (SKILLED, True, "paper", 3), (CLUMSY, False, "strict", 3)],
)
def test_a_pair_is_played_until_it_is_solved(
    planner: PlannerConfig, solves: bool, name: ProtocolName, num_envs: int
) -> None:
    agent = LeWMAgent.from_pretrained("two_room", planner=planner, device="cpu")
    suite = shipped(WORLD, name).first(EPISODES).suite(agent.description.environment_kwargs)
    whole = Player(suite.make, agent, suite.success, seed=0, budget=suite.budget).play(range(EPISODES), suite.trials)
    played = list(play_shipped(agent, WORLD, name, EPISODES, num_envs=num_envs))
    assert len(played) == EPISODES
    for (trace, solved), full, trial in zip(played, whole, suite.trials, strict=True):
        success = full.solved(suite.success, trial)[1:]
        assert solved == success.any()
        steps = int(success.argmax()) + 1 if solved else suite.budget
        np.testing.assert_array_equal(np.stack(trace.states), np.stack(full.states)[: steps + 1])
        assert trace.plans <= full.plans and trace.seconds > 0
    for (trace, solved), (_, before), full in zip(
        play_shipped(agent, WORLD, name, EPISODES, num_envs=num_envs, to_the_end=True), played, whole, strict=True
    ):
        assert solved == before
        np.testing.assert_array_equal(np.stack(trace.states), np.stack(full.states))
    assert any(solved == solves for _, solved in played)
