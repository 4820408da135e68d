"""What several test files share: a tiny agent, a tiny dataset of a real environment, an episode of the cube task."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from lewm_agent import AgentConfig, LeWMAgent, ModelConfig, ObjectiveConfig, PlannerConfig, TrainingConfig, presets
from lewm_agent.agents.behavior.cube_expert import CubeExpert
from lewm_agent.agents.rivals.online_run import Replay
from lewm_agent.datasets import OfflineDataset
from lewm_agent.envs.cube.env import CubeEnv
from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.planning.presets import PLANNERS
from lewm_agent.training.metrics_log import read_rows

# A background shell has Ctrl-C ignored, and so have the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

MODEL = ModelConfig(
    image_size=16,
    patch_size=8,
    encoder_width=16,
    encoder_depth=1,
    encoder_heads=2,
    latent_dim=8,
    projector_width=32,
    predictor_width=16,
    predictor_depth=1,
    predictor_heads=2,
    predictor_head_dim=8,
    predictor_mlp_width=32,
)


@pytest.fixture(scope="session")
def tiny_config() -> AgentConfig:
    """A model of a few thousand parameters that trains in seconds."""
    return AgentConfig(
        model=MODEL,
        objective=ObjectiveConfig(sigreg_projections=16),
        training=TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-3, held_out_fraction=0.25),
        planner=PlannerConfig(
            samples=8, elites=2, iterations=2, execute=2, history=3, clip_actions=True, warm_start=True, cost="best"
        ),
    )


@pytest.fixture(scope="session")
def tiny_dataset(tiny_config: AgentConfig, tmp_path_factory: pytest.TempPathFactory) -> OfflineDataset:
    """Twelve expert episodes at 16 px."""
    agent = LeWMAgent("two_room", tiny_config)
    return agent.collect(tmp_path_factory.mktemp("data") / "expert", episodes=12, progress=False)


@pytest.fixture
def tiny_agent(tiny_config: AgentConfig) -> LeWMAgent:
    """Untrained, on Two-Room at 16 px."""
    return LeWMAgent("two_room", tiny_config)


@pytest.fixture(scope="session")
def trained_folder(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A saved agent after a short training."""
    folder = tmp_path_factory.mktemp("trained")
    agent = LeWMAgent("two_room", tiny_config).learn(tiny_dataset, folder / "run", workers=0, progress=False)
    return agent.save_pretrained(folder / "model")


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets that train a step or two and plan with eight candidates, for what documentation shows."""
    few = {"samples": 8, "elites": 2, "iterations": 1}
    monkeypatch.setitem(PLANNERS, "small", dataclasses.replace(PLANNERS["small"], **few))
    for name in ("small", "two_terms"):
        usual = presets.PRESETS[name]
        training = dataclasses.replace(usual.training, epochs=0.1, batch_size=16)
        planner = dataclasses.replace(usual.planner, **few)
        head = usual.inverse_dynamics and InverseDynamicsConfig(steps=10)
        shorter = dataclasses.replace(usual, training=training, planner=planner, inverse_dynamics=head)
        monkeypatch.setitem(presets.PRESETS, name, shorter)


CubeExpertOf = Callable[..., CubeExpert]


@pytest.fixture(scope="session")
def cube_expert_of() -> CubeExpertOf:
    """Makes experts that follow one of the two oracles."""

    def make(oracle: str, env: Any, **kwargs: Any) -> CubeExpert:
        expert = CubeExpert(env, **kwargs)
        seed = 0
        while expert.oracle != oracle:
            seed += 1
            expert.reset(seed)
        return expert

    return make


@pytest.fixture(scope="session")
def recorded_cube(cube_expert_of: CubeExpertOf) -> dict[str, np.ndarray]:
    """Ninety steps in which the expert grasps, lifts and places the cube."""
    env = CubeEnv()
    _, info = env.reset(seed=1)
    expert = cube_expert_of("plan", env, burst_episodes=0.0)
    states, actions = [info["state"]], []
    for _ in range(90):
        actions.append(expert(None, info))
        info = env.step(actions[-1])[4]
        states.append(info["state"])
    return {"states": np.array(states), "actions": np.array(actions), "goal": info["goal_state"]}


@pytest.fixture
def goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], Any], int, int, int], None]:
    """Checks that online learning, killed after an episode and continued, ends as if it had never stopped."""

    class Killed(BaseException):
        pass

    def check(agent: Callable[[], Any], steps: int, every: int, episodes: int) -> None:
        """For agents with seed 2; the run that went on is ``tmp_path / "run"``."""
        whole = agent().learn_online(tmp_path / "whole", steps, checkpoint_every=every, progress=False)
        add = Replay.add

        def killed(self: Replay, *given: Any) -> None:
            add(self, *given)
            if self.episodes == episodes:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Replay, "add", killed)
            with pytest.raises(Killed):
                agent().learn_online(tmp_path / "run", steps, checkpoint_every=every, progress=False)
        with pytest.raises(FileExistsError, match="already holds a training run"):
            agent().learn_online(tmp_path / "run", steps, progress=False)
        again = agent().learn_online(tmp_path / "run", steps, checkpoint_every=every, resume=True, progress=False)
        assert again.weights_sha256() == whole.weights_sha256()
        logs = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("run", "whole")]
        for row in (*logs[0], *logs[1]):
            row.pop("seconds", None)
        assert logs[0] == logs[1]
        with pytest.raises(ValueError, match="was trained with seed 2, not 3; resume with that"):
            agent().learn_online(tmp_path / "run", steps, resume=True, seed=3, progress=False)

    return check
