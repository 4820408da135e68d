"""What can go wrong in a training: said before the work where it can be known, and nothing is lost where it cannot."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.models.inverse_dynamics import InverseDynamicsConfig
from lewm_agent.models.world_model import WorldModel
from lewm_agent.tools import progress
from lewm_agent.training import loop
from lewm_agent.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def with_head(tiny_config: AgentConfig) -> AgentConfig:
    head = InverseDynamicsConfig(furthest=4, width=16, depth=1, steps=3, batch_size=16)
    planner = dataclasses.replace(tiny_config.planner, proposals="refine")
    return dataclasses.replace(tiny_config, planner=planner, inverse_dynamics=head)


# --- known before the first step --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [-1, True, 1.0, "0", np.float64(2)])
def test_what_is_no_seed_is_named(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, seed: Any
) -> None:
    agent = LeWMAgent("two_room", tiny_config)
    doings: list[Callable[[], object]] = [
        lambda: LeWMAgent("two_room", tiny_config, seed=seed),
        lambda: agent.learn(tiny_dataset, tmp_path / "run", seed=seed, progress=False),
        lambda: agent.collect(tmp_path / "data", episodes=1, seed=seed, progress=False),
    ]
    for do in doings:
        with pytest.raises(ValueError, match="seed must be a whole number of at least 0, got"):
            do()
    assert not list(tmp_path.iterdir())


def test_held_out_episodes_without_success_are_named_before_the_first_step(
    with_head: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lewm_agent.training.hindsight._successful_in", lambda data, some: some[: 3 * (len(some) > 3)])
    assert with_head.inverse_dynamics is not None
    head = dataclasses.replace(with_head.inverse_dynamics, successful_only=True)
    agent = LeWMAgent("two_room", dataclasses.replace(with_head, inverse_dynamics=head))
    with pytest.raises(ValueError, match=r"none among the \d held-out episodes"):
        agent.learn(tiny_dataset, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_numpy_seeds_are_seeds(tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    agent = LeWMAgent("two_room", tiny_config, seed=np.int64(1))  # type: ignore[arg-type]
    agent.learn(tiny_dataset, tmp_path / "run", progress=False)
    assert LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path / "model")).description.origin["seed"] == 1


@pytest.mark.parametrize(("name", "value"), [("checkpoint_every", 0), ("workers", -1), ("checkpoint_every", 2.5)])
def test_other_numbers_are_named_too(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path, name: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least"):
        tiny_agent.learn(tiny_dataset, tmp_path / "run", progress=False, **{name: value})
    assert not (tmp_path / "run").exists()


def test_a_file_where_the_run_is_to_be_is_left_alone(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is to be a folder of a training, and is a file"):
        tiny_agent.learn(tiny_dataset, tmp_path / "run", progress=False)
    assert (tmp_path / "run").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoints").write_text("mine")
    with pytest.raises(NotADirectoryError, match="checkpoints is to be a folder of a training, and is a file"):
        tiny_agent.learn(tiny_dataset, tmp_path / "other", progress=False)
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("late", ["save_pretrained", "metric", "head"])
def test_what_would_fail_at_the_end_fails_at_the_beginning(
    with_head: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    places = {
        "save_pretrained": "lewm_agent.checkpoints.checkpoint.write",
        "metric": "lewm_agent.training.slow_metric.fit",
        "head": "lewm_agent.agent.fit",
    }
    steps = 0

    def after_step(self: WorldModel, progress: float) -> None:
        nonlocal steps
        steps += 1

    def broken(*arguments: object, **options: object) -> None:
        raise ValueError("cannot be done here")

    with monkeypatch.context() as patch:
        patch.setattr(WorldModel, "after_step", after_step)
        patch.setattr(places[late], broken)
        with pytest.raises(ValueError, match="cannot be done here"):
            LeWMAgent("two_room", with_head).learn(tiny_dataset, tmp_path / "run", progress=False)
    assert steps == 0
    corrected = LeWMAgent("two_room", with_head).learn(tiny_dataset, tmp_path / "run", progress=False)
    assert corrected.description.origin["finished"]
    assert not list((tmp_path / "run").rglob("*.part"))


def test_a_trial_leaves_no_trace(with_head: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    agents = []
    for name in ("tried", "untried"):
        agent = LeWMAgent("two_room", with_head)
        with pytest.MonkeyPatch.context() as patch:
            if name == "untried":
                patch.setattr("lewm_agent.training.run.Run._rehearse", lambda self: None)
            agent.learn(tiny_dataset, tmp_path / name, progress=False)
        agents.append(agent)
    one, other = (agent.world_model.state_dict() for agent in agents)
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


class Scene(gym.Env[Any, Any]):
    """Steps of nothing, whatever it is given."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str = "rgb_array", **given: Any) -> None:
        self.render_mode = render_mode
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def render(self) -> Any:
        return np.full((16, 16, 3), self.steps, np.uint8)


@pytest.fixture(scope="module", autouse=True)
def scene() -> None:
    gym.register("learn-faults/Scene-v0", entry_point=Scene, max_episode_steps=30)


UNSAVED = [np.zeros(3), {"look": np.zeros(3)}, [np.zeros(3)], {1: 2}, math.nan, Path("x"), {1, 2}, object(), b"x", 1j]


@pytest.mark.parametrize("value", UNSAVED, ids=lambda value: type(value).__name__)
def test_arguments_that_cannot_be_saved_do_not_stop_anything(
    tiny_config: AgentConfig, tmp_path: Path, value: Any
) -> None:
    env = gym.make("learn-faults/Scene-v0", render_mode="rgb_array", camera=value)
    with pytest.warns(UserWarning, match=r"argument camera.* is .* cannot be recorded as JSON"):
        agent = LeWMAgent(env, tiny_config)
    assert agent.description.environment is None
    LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path / "model"))


def test_arguments_that_can_be_are_saved(tiny_config: AgentConfig, tmp_path: Path) -> None:
    given = {"size": (1, 2), "count": np.int64(3), "share": np.float32(0.5), "on": np.bool_(1), "deep": {"a": [None]}}
    env = gym.make("learn-faults/Scene-v0", render_mode="rgb_array", **given)
    agent = LeWMAgent(env, tiny_config)
    loaded = LeWMAgent.from_pretrained(agent.save_pretrained(tmp_path / "model"))
    expected = {"size": [1, 2], "count": 3, "share": 0.5, "on": True, "deep": {"a": [None]}}
    assert loaded.description.environment_kwargs == agent.description.environment_kwargs == expected


def test_a_device_without_float64_finishes(
    with_head: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = torch.Tensor.to

    def no_float64(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if torch.float64 in (*arguments, *options.values()):
            raise TypeError("no float64 here")
        return to(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", no_float64)
    monkeypatch.setattr(torch.Tensor, "double", lambda self: no_float64(self, torch.float64))
    agent = LeWMAgent("two_room", with_head).learn(tiny_dataset, tmp_path / "run", progress=False)
    assert agent.world_model.metric is not None and agent.world_model.metric.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"training": {"learning_rate": 0.5}}, r"training.learning_rate 0.001, not 0.5"),
        ({"training": {"batch_size": 8}}, r"training.batch_size 16, not 8"),
        ({"model": {"latent_dim": 4}}, r"model.latent_dim 8, not 4"),
        ({"objective": {"sigreg_weight": 1.0}}, r"objective.sigreg_weight 0.09, not 1.0"),
        ({"training": {"epochs": 0.5}}, r"training.epochs 1.0, not 0.5, which changes"),
    ],
)
def test_the_setting_that_differs_is_named_and_the_agent_is_as_it_was(
    tiny_config: AgentConfig,
    tiny_dataset: OfflineDataset,
    trained_folder: Path,
    change: dict[str, dict[str, Any]],
    sentence: str,
) -> None:
    parts = {part: dataclasses.replace(getattr(tiny_config, part), **values) for part, values in change.items()}
    agent = LeWMAgent("two_room", dataclasses.replace(tiny_config, **parts))
    before = {name: value.clone() for name, value in agent.world_model.state_dict().items()}
    with pytest.raises(ValueError, match=f"was trained with {sentence}.*resume with that, or give another folder"):
        agent.learn(tiny_dataset, trained_folder.parent / "run", resume=True, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in agent.world_model.state_dict().items())


def test_another_environment_is_named(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, trained_folder: Path
) -> None:
    agent = LeWMAgent(gym.make("learn-faults/Scene-v0", render_mode="rgb_array"), tiny_config)
    with pytest.raises(ValueError, match="was trained with environment 'lewm/TwoRoom-v0', not 'learn-faults/Scene-v0'"):
        agent.learn(tiny_dataset, trained_folder.parent / "run", resume=True, progress=False)


# --- happens on the way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["loss", "gradient", "latents"])
def test_what_is_not_finite_is_named_before_it_reaches_the_weights(
    tiny_config: AgentConfig, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    real, count = WorldModel.loss, 0

    def loss(self: WorldModel, batch: Any) -> Any:
        nonlocal count
        count += self.training
        found = real(self, batch)
        if count < 15:
            return found
        if what == "latents":
            return dataclasses.replace(found, latents=found.latents * math.inf)
        wrong = found.total * math.nan if what == "loss" else found.total + (found.total * 1e-30).sqrt() * 1e38 * 1e30
        return dataclasses.replace(found, total=wrong)

    monkeypatch.setattr(WorldModel, "loss", loss)
    agent = LeWMAgent("two_room", tiny_config)
    with pytest.raises(loop.DivergedError, match=r"not finite at step \d+ \(.*\): lower the learn.*step-0000010 is"):
        agent.learn(tiny_dataset, tmp_path / "run", progress=False, checkpoint_every=10)
    assert all(value.isfinite().all() for value in agent.world_model.state_dict().values())
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_statistics_that_are_not_finite_are_named(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = np.full(2, np.inf, np.float32)
    monkeypatch.setattr(OfflineDataset, "action_statistics", lambda self, episodes=None: (wrong, wrong))
    with pytest.raises(ValueError, match=r"mean or standard deviation of the actions of .* is not finite"):
        tiny_agent.learn(tiny_dataset, tmp_path / "run", progress=False)
    assert not RunFolder(tmp_path / "run").has_checkpoints()


def test_training_goes_on_without_tensorboard(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.warns(UserWarning, match="nothing more is written to TensorBoard"):
        tiny_agent.learn(tiny_dataset, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") > 1


@pytest.mark.parametrize("broken", ["add_scalar", "close"])
def test_training_goes_on_when_tensorboard_breaks(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensorboard.SummaryWriter, broken, full)
    with pytest.warns(UserWarning, match="nothing more is written to TensorBoard"):
        tiny_agent.learn(tiny_dataset, tmp_path / "run", progress=False)
    assert tiny_agent.description.origin["finished"]


@pytest.mark.parametrize("file", ["metrics.jsonl", "state.pt", "model.safetensors"])
def test_a_full_disk_is_one_sentence_and_what_was_whole_stays(
    tiny_config: AgentConfig,
    tiny_dataset: OfflineDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
) -> None:
    full, run = False, RunFolder(tmp_path / "run")
    write_bytes, log = Path.write_bytes, loop.MetricsLog.write

    def no_space() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(self: Path, content: Any) -> int:
        if full and self.name.startswith(file):
            write_bytes(self, bytes(content)[:10])
            no_space()
        return write_bytes(self, content)

    def write_row(self: Any, step: int, *arguments: Any, **options: Any) -> None:
        nonlocal full
        full = step > 10
        if full and file == "metrics.jsonl":
            no_space()
        log(self, step, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        patch.setattr(loop.MetricsLog, "write", write_row)
        with pytest.raises(OSError, match=r"could not be written to .*No space left on device\); .*-0000010 is kept"):
            LeWMAgent("two_room", tiny_config).learn(tiny_dataset, run.path, progress=False, checkpoint_every=10)
    assert not list(run.path.rglob("*.part"))
    again = LeWMAgent("two_room", tiny_config).learn(tiny_dataset, run.path, resume=True, progress=False)
    assert again.description.origin["finished"]


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    tiny_agent: LeWMAgent,
    tiny_dataset: OfflineDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    tiny_agent.learn(tiny_dataset, tmp_path / "run")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("learn:")]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(line.startswith("learn: 20 of") and f"loss {rows[0]['total']:.4f}" in line for line in lines)
    assert lines[-1].startswith(f"learn: {rows[-1]['step']} of {rows[-1]['step']}, loss ")


def test_an_agent_that_has_learned_nothing_says_so_once(
    tiny_agent: LeWMAgent, tiny_dataset: OfflineDataset, tmp_path: Path
) -> None:
    frame = np.zeros((16, 16, 3), np.uint8)
    with pytest.warns(UserWarning, match="this agent has learned nothing"):
        tiny_agent.act(frame, frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_agent.act(frame, frame)
        trained = LeWMAgent("two_room", tiny_agent.config)
        warnings.simplefilter("default")
        trained.learn(tiny_dataset, tmp_path / "run", progress=False)
        warnings.simplefilter("error")
        trained.act(frame, frame)
