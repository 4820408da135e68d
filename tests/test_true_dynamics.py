"""Plans tried in the world itself."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm_agent import LeWMAgent
from lewm_agent.envs import ENVIRONMENTS, environment_id
from lewm_agent.eval import true_dynamics
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.true_dynamics import ExactStates, TrueDynamics
from lewm_agent.eval.worlds import world_of
from lewm_agent.eval.worlds.world import make_environment, restore


@pytest.mark.parametrize("world", ["two_room", "reacher"])
def test_candidates_lead_where_the_world_goes(world: str) -> None:
    agent = LeWMAgent.from_pretrained(world, device="cpu")
    make = functools.partial(make_environment, environment_id(world), agent.description.environment_kwargs)
    pair = shipped(environment_id(world), "strict").first(1).pairs[0]
    dynamics, env, model = TrueDynamics(agent.world_model, make()), make(), agent.world_model
    dynamics.start_from(pair, pair.state)
    actions = pair.actions[:10].reshape(2, 5, -1)
    blocks = model.codec.blocks(torch.as_tensor(actions))
    restore(env, pair, pair.state)
    for action in actions.reshape(10, -1):
        env.step(action)
    with torch.inference_mode():
        latents = dynamics(torch.empty(0), torch.empty(0), blocks.expand(1, 3, 2, -1))
        expected = model.encode(torch.as_tensor(np.asarray(env.render())[None]))[0]
    assert latents.shape == (1, 3, 2, model.config.latent_dim)
    torch.testing.assert_close(latents[0, :, -1], expected.expand(3, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("world", sorted(ENVIRONMENTS))
def test_what_was_recorded_leads_exactly_to_the_goal(world: str) -> None:
    agent = LeWMAgent.from_pretrained(world, device="cpu")
    pair = shipped(environment_id(world), "paper").first(1).pairs[0]
    kwargs = agent.description.environment_kwargs | world_of(world).protocol("paper").environment_kwargs
    env = make_environment(environment_id(world), kwargs)
    exact = ExactStates(agent.world_model, env, world_of(world), "terminal")
    exact.start_from(pair, pair.state)
    recorded = agent.world_model.codec.blocks(torch.as_tensor(pair.actions.reshape(5, 5, -1)))
    idle = agent.world_model.codec.blocks(torch.zeros(5, 5, pair.actions.shape[-1]))
    plans = torch.stack([recorded, idle])[None]
    arrives, stays = exact.cost(exact(torch.empty(0), torch.empty(0), plans), torch.empty(0))[0].tolist()
    assert arrives < 0.01 < 1.0 < stays


def test_coordinates_weigh_place_turn_and_mover() -> None:
    physics = {"agent_x": 30.0, "agent_y": 0.0, "block_x": 10.0, "block_y": 0.0, "block_angle": 0.05}
    there = np.array(world_of("push_t").coordinates(physics))
    here = np.array(world_of("push_t").coordinates(dict.fromkeys(physics, 0.0)))
    expected = 10.0**2 + 0.03 * 30.0**2 + (60.0 * 0.05) ** 2
    assert ((there - here) ** 2).sum() == pytest.approx(expected, rel=1e-3)
    cube = dict.fromkeys(("cube_x", "cube_y", "cube_z", "effector_x", "effector_y", "effector_z"), 0.1)
    turned = [world_of("cube").coordinates(cube | {"cube_yaw": angle}) for angle in (0.0, np.pi / 2, 0.01)]
    np.testing.assert_allclose(turned[1], turned[0], atol=1e-9)  # a cube turned onto itself
    assert np.linalg.norm(np.subtract(turned[2], turned[0])) == pytest.approx(1.15, rel=1e-3)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "true.json"
    arguments = ["--env", "two_room", "--planner", "small", "--episodes", "1", "--output", str(output)]
    assert true_dynamics.main(arguments) == 0
    result = json.loads(output.read_text())
    for rung in true_dynamics.RUNGS:
        assert result[rung]["solved"] == [True] and result[rung]["success_rate_ci95"][0] > 0.0
    assert "exact states, true dynamics" in capsys.readouterr().out
    assert true_dynamics.main(["--env", "two_room", "--model", str(tmp_path)]) == 2
    assert true_dynamics.main(["--env", "two_room", "--planner", "gradient"]) == 2
    assert "no gradient" in capsys.readouterr().err
