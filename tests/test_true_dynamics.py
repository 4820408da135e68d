"""Plans tried in the world itself."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm_agent import LeWMAgent
from lewm_agent.envs import environment_id
from lewm_agent.eval import true_dynamics
from lewm_agent.eval.pairs import shipped
from lewm_agent.eval.true_dynamics import TrueDynamics
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


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "true.json"
    arguments = ["--env", "two_room", "--planner", "small", "--episodes", "1", "--output", str(output)]
    assert true_dynamics.main(arguments) == 0
    result = json.loads(output.read_text())
    assert result["true_dynamics"]["solved"] == [True] and result["imagination"]["solved"] == [True]
    assert "true dynamics" in capsys.readouterr().out
    assert true_dynamics.main(["--env", "two_room", "--model", str(tmp_path)]) == 2
    assert true_dynamics.main(["--env", "two_room", "--planner", "gradient"]) == 2
    assert "no gradient" in capsys.readouterr().err
