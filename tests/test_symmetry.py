"""Symmetries of a world: what follows from what is turned is what follows, turned."""

from __future__ import annotations

import numpy as np
import pytest

from lewm_agent.envs.push_t.env import PushTEnv
from lewm_agent.envs.push_t.simulation import advance
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.worlds import WORLDS
from lewm_agent.eval.worlds.push_t import turned_actions, turned_frames, turned_states

NUMBERS = range(8)


def test_only_push_t_has_symmetries() -> None:
    assert {name: world.symmetry.count for name, world in WORLDS.items() if world.symmetry} == {"push_t": 8}


@pytest.mark.parametrize("number", NUMBERS)
def test_a_turned_push_moves_the_turned_block(number: int) -> None:
    moved = 0.0
    for pair in shipped("push_t", "moderate").first(3).pairs:
        state = pair.state
        turned = turned_states(number, state)
        for action in pair.actions:
            moved += float(np.abs(advance(state, action) - state)[2:4].sum())
            state, turned = advance(state, action), advance(turned, turned_actions(number, action))
        expected = turned_states(number, state)
        expected[4] = turned[4] + np.angle(np.exp(1j * (expected[4] - turned[4])))
        np.testing.assert_allclose(turned, expected, atol=0.5)
    assert moved > 50.0


def test_the_eight_are_different_and_the_first_changes_nothing() -> None:
    state = shipped("push_t", "moderate").pairs[0].state
    seen = np.stack([turned_states(number, state) for number in NUMBERS])
    np.testing.assert_allclose(seen[0], state, atol=1e-9)
    assert len({tuple(row.round(3)) for row in seen[:, :4]}) == 8
    np.testing.assert_array_equal(turned_actions(0, np.array([0.3, -0.2])), [0.3, -0.2])


@pytest.mark.parametrize("number", NUMBERS)
def test_a_turned_frame_is_the_frame_of_the_turned_state(number: int) -> None:
    env = PushTEnv(render_mode="rgb_array", image_size=64, factors={"mark_visible": False})
    state = shipped("push_t", "moderate").pairs[0].state
    env.reset(options={"state": state})
    expected = turned_frames(number, np.stack([env.render()]))[0]
    unturned = np.abs(env.render().astype(float) - expected).mean()
    env.reset(options={"state": turned_states(number, state)})
    error = np.abs(env.render().astype(float) - expected).mean()
    assert error == 0.0 if number == 0 else error < unturned / 2
