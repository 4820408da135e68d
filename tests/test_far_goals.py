"""What is fitted for far goals: blocks to go, latents on the way, recorded ways; kept with the model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lewm_agent import AgentConfig, CheckpointError, LeWMAgent, cli
from lewm_agent.agents.rivals.dino_wm import DinoWMConfig
from lewm_agent.config import configured
from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.far_goals import NOISE, Bank, FarGoals, FarGoalsConfig
from lewm_agent.planning.recorded_ways import RecordedWays
from lewm_agent.training import far_goals
from lewm_agent.training.encoding import Latents

SETTINGS = FarGoalsConfig(fit_steps=120, reach=12, stride=2, bank_megabytes=0.01)


@pytest.fixture(scope="module")
def config(tiny_config: AgentConfig) -> AgentConfig:
    planner = dataclasses.replace(tiny_config.planner, metric="steps")
    return dataclasses.replace(tiny_config, planner=planner, far_goals=SETTINGS)


@pytest.fixture(scope="module")
def learned(config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("far")
    agent = LeWMAgent("two_room", config).learn(tiny_dataset, folder / "run", progress=False)
    return agent.save_pretrained(folder / "model")


def test_learn_fits_it_and_the_model_keeps_it(learned: Path, tiny_dataset: OfflineDataset) -> None:
    agent = LeWMAgent.from_pretrained(learned)
    far = agent.model.far_goals
    assert far is not None and far.bank is not None and agent.config.far_goals == SETTINGS
    assert far.steps.reach == 12 and int(far.stride) == 2 and far.bank.latents.dtype == torch.float16
    assert agent.about().traits["far goals"].startswith("blocks to go up to 12, held-out error ")
    frames = tiny_dataset.read_frames(np.array([0, 20]))
    assert agent.action_space.contains(agent.act(*frames))
    distance = agent.controller.goal_distance(agent._memory[0])
    with torch.inference_mode():
        here, goal = agent.model.encode(torch.as_tensor(frames))
        assert distance == pytest.approx(float(far.steps(here, goal)), rel=1e-5)


def test_blocks_to_go_grow_with_the_blocks_between(learned: Path, tiny_dataset: OfflineDataset) -> None:
    agent = LeWMAgent.from_pretrained(learned)
    far, paths = agent.model.far_goals, far_goals.Paths(Latents(agent.model, tiny_dataset), np.arange(12))
    assert far is not None
    with torch.inference_mode():
        told = []
        for blocks in (0, 2, 5):
            frames = np.flatnonzero(paths.after >= blocks)
            told.append(float(far.steps(paths.latents[frames], paths.latents[frames + blocks]).mean()))
    assert told[0] < told[1] < told[2] <= 12


def test_learns_from_frames_and_from_what_is_imagined_of_them(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset
) -> None:
    latents = Latents(tiny_agent.model.eval(), tiny_dataset)
    paths = far_goals.Paths(latents, np.array([1, 3, 4]))
    examples = far_goals.Examples(paths, latents, 4)
    found, frames, left = examples.draw(40, np.random.default_rng(0))
    assert (left < 4).all() and (left <= paths.after[frames]).all()
    torch.testing.assert_close(found[20:], paths.latents[frames[20:]])
    start = int(np.flatnonzero(paths.after >= 3)[0])
    with torch.inference_mode():
        nothing = paths.blocks.new_zeros(1, 0, paths.blocks.shape[1])
        imagined = latents.world_model.rollout(
            paths.latents[None, start : start + 1], nothing, paths.blocks[None, None, start : start + 3]
        )[0, 0]
    at = {int(frame): row for row, frame in enumerate(examples._meant[:3])}
    torch.testing.assert_close(examples._imagined[at[start + 3]], imagined[2])
    others = examples.elsewhere(frames, np.random.default_rng(0))
    assert (paths.episode[others] != paths.episode[frames]).all()


def test_the_same_seed_fits_the_same_and_leaves_random_numbers_alone(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset
) -> None:
    fits = []
    for seed in (0, 0, 1):
        torch.manual_seed(5)
        agent = tiny_agent.learn_far_goals(
            tiny_dataset, settings=dataclasses.replace(SETTINGS, fit_steps=2), seed=seed, progress=False
        )
        fits.append({name: value.clone() for name, value in agent.model.far_goals.state_dict().items()})  # type: ignore[union-attr]
        assert torch.initial_seed() == 5
    assert all(torch.equal(value, fits[1][name]) for name, value in fits[0].items())
    assert any(not torch.equal(value, fits[2][name]) for name, value in fits[0].items())


def test_the_command_fits_it_to_a_model_that_has_none(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = str(tiny_agent.save_pretrained(tmp_path / "model")), str(tmp_path / "output")
    arguments = ["far-goals", model, str(tiny_dataset.path), output, "--fit-steps", "3", "--bank-megabytes", "0.005"]
    assert cli.main(arguments) == 0
    assert cli.main(["info", output]) == 0
    assert "latents of recorded ways" in capsys.readouterr().out
    agent = LeWMAgent.from_pretrained(output)
    weights = agent.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in tiny_agent.model.state_dict().items())
    bank = agent.model.far_goals.bank  # type: ignore[union-attr]
    assert bank is not None and 2 * (bank.latents.numel() + bank.blocks.numel()) <= 5000
    assert int(bank.lengths.sum()) == len(bank.latents)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"far_goals.fit_steps": -1}, "fit_steps must not be negative"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"reach": 5}, r"reach \(5\) must be greater than stride \(5\)"),
        ({"bank_megabytes": 17.0}, "bank_megabytes must be from 0 to 16"),
        ({"metric": "steps"}, r"need what is fitted for far goals: learn with far_goals.fit_steps, or"),
        ({"waypoints": "drawn"}, r"need what is fitted for far goals"),
        ({"waypoints": "recorded", "fit_steps": 1}, "needs far_goals.bank_megabytes"),
        ({"waypoints": "somewhere"}, "planner.waypoints"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(
    tiny_config: AgentConfig, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        configured(tiny_config, settings)


def test_what_was_not_fitted_is_one_sentence(tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset) -> None:
    frames = tiny_dataset.read_frames(np.array([0, 20]))
    unfinished = LeWMAgent("two_room", tiny_agent.config, fit_steps=1, metric="steps")
    with pytest.raises(ValueError, match="is fitted when training ends"):
        unfinished.act(*frames)
    with pytest.raises(ValueError, match="fit_steps must be at least 1"):
        tiny_agent.learn_far_goals(tiny_dataset, settings=FarGoalsConfig())
    steps = dataclasses.replace(tiny_agent.config.planner, metric="steps")
    with pytest.raises(ValueError, match="which DINO-WM's are not"):
        DinoWMConfig(planner=steps)


def test_a_damaged_part_is_noticed() -> None:
    weights = {f"far_goals.{name}": value for name, value in FarGoals(4, 8, 3, Bank(6, 2, 4, 5)).state_dict().items()}
    whole = FarGoals.fitting(weights, 4)
    assert whole is not None and whole.steps.reach == 8 and whole.bank is not None
    whole.load_state_dict({name.removeprefix("far_goals."): value for name, value in weights.items()})
    assert FarGoals.fitting({"metric": torch.zeros(4)}, 4) is None
    with pytest.raises(ValueError, match="bank of recorded ways is damaged"):
        RecordedWays(whole.bank, None)


def test_a_model_with_a_part_missing_is_refused(learned: Path, tmp_path: Path) -> None:
    agent = LeWMAgent.from_pretrained(learned)
    del agent.model.far_goals.steps.near  # type: ignore[union-attr]
    saved = agent.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="tensors missing"):
        LeWMAgent.from_pretrained(saved)


def test_several_latents_are_drawn_and_without_noise_the_mean() -> None:
    torch.manual_seed(0)
    subgoals = FarGoals(4, 8, 3).subgoals
    here, goal, left = torch.randn(2, 4), torch.randn(2, 4), torch.tensor([3.0, 100.0])
    several = subgoals(here, goal, left, torch.randn(2, 5, NOISE))
    assert several.shape == (2, 5, 4) and (several.std(1) > 1e-4).all()
    mean = subgoals(here, goal, left, torch.zeros(2, 2, NOISE))
    torch.testing.assert_close(mean[:, 0], mean[:, 1])
