"""How many threads of a processor an agent decides with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lewm_agent import LeWMAgent
from lewm_agent.planning import decider
from lewm_agent.planning.controller import Controller

FRAME, GOAL = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 99, np.uint8)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("small", "threads"), [(5_000_000, 1), (10, 2)])
def test_a_small_model_decides_with_one_and_leaves_the_others_to_the_caller(
    small: int, threads: int, tiny_agent: LeWMAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def with_threads(self: Controller, memories: list[object]) -> list[object]:
        seen.append(torch.get_num_threads())
        return search(self, memories)

    search = Controller._search
    monkeypatch.setattr(decider, "SMALL", small)
    monkeypatch.setattr(Controller, "_search", with_threads)
    tiny_agent.act(FRAME, GOAL)
    assert seen == [threads] and torch.get_num_threads() == 2
    with pytest.raises(ValueError):
        tiny_agent.controller.decide([], FRAME, GOAL.astype(np.float32))
    assert torch.get_num_threads() == 2


def test_threads_change_no_action(tiny_agent: LeWMAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = tiny_agent.act(FRAME, GOAL)
    monkeypatch.setattr(decider, "SMALL", 0)
    together = LeWMAgent("two_room", tiny_agent.config).act(FRAME, GOAL)
    np.testing.assert_array_equal(alone, together)
