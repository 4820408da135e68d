"""SAC with hindsight learns online from success, goes on after a kill, and is measured as any other agent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.her import HerReplayBuffer

from lewm_agent import cli, environment
from lewm_agent.agents import load_agent, make_agent
from lewm_agent.agents.rivals import sac_her_agent
from lewm_agent.agents.rivals.online_run import OnlineRun
from lewm_agent.agents.rivals.sac_her import (
    SACHER,
    GoalFeatures,
    SACConfig,
    SACModel,
    Sight,
    packed,
    states_in,
    told_size,
)
from lewm_agent.agents.rivals.sac_her_agent import SACAgent, SACRun, SACStatesAgent
from lewm_agent.datasets import OfflineDataset
from lewm_agent.envs import ENVIRONMENTS
from lewm_agent.eval import success_rate
from lewm_agent.eval.worlds import world_of
from lewm_agent.training.metrics_log import read_rows
from lewm_agent.training.run_folder import RunFolder

SIDE = 36


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sac_her_agent, "RANDOM_STEPS", 40)


def two_room(steps: int = 20) -> environment.Environment:
    return environment.make("two_room", SIDE, max_episode_steps=steps)


def agent(env: Any = None, seed: int = 2, sight: Sight = "states", frozen: str | None = None) -> SACAgent:
    base = SACConfig()
    training = dataclasses.replace(base.training, batch_size=8)
    config = SACConfig(SACModel(image_size=SIDE, width=16, sight=sight), training, frozen=frozen)
    kind = SACStatesAgent if sight == "states" else SACAgent
    return kind(two_room() if env is None else env, config, device="cpu", seed=seed)


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_a_state_reaches_a_goal_where_the_environment_counts_it_as_success(name: str) -> None:
    env = gym.make(ENVIRONMENTS[name], disable_env_checker=True)
    space, found = env.action_space, []
    space.seed(0)
    for seed in range(3):
        _, info = env.reset(seed=seed)
        for goal in (info["goal_state"], info["state"]):  # the second is where it stands
            env.reset(seed=0, options={"state": info["state"], "goal_state": goal})
            told = [env.step(space.sample() * 0.1)[-1] for _ in range(4)]
            states = np.stack([one["state"] for one in told])
            held = env.unwrapped.reached(states, np.stack([goal] * 4))
            assert held.tolist() == [one["is_success"] for one in told]
            found += held.tolist()
    assert {True, False} == set(found)


@pytest.mark.parametrize("looks_at", ["states", "pixels", "frozen"])
def test_learns_saves_loads_and_acts_the_same(looks_at: str, trained_folder: Path, tmp_path: Path) -> None:
    frozen = str(trained_folder) if looks_at == "frozen" else None
    learner = agent(seed=1, sight="states" if looks_at == "states" else "pixels", frozen=frozen)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.learn_online(tmp_path / "run", 80, progress=False)
    after = learner.model.state_dict()
    changed = {name.split(".")[1] for name, value in after.items() if not value.equal(before[name])}
    assert changed == {"actor", "critic", "critic_target"}
    record = learner.description.training
    assert record is not None and record.finished and record.data == "4 episodes online, 80 environment steps"
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "episode"] == [20, 40, 60, 80]
    assert [row["updates"] for row in rows if row["split"] == "train"] == [10, 20]
    again = load_agent(learner.save_pretrained(tmp_path / "model"), device="cpu", seed=1)
    frames = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    given = {"state": np.array([60.0, 70.0]), "goal_state": np.array([150.0, 180.0])}
    given = given if looks_at == "states" else {"pixels": frames[0], "goal": frames[1]}
    taken = [one.predict(given)[0] for one in (learner, again)]
    np.testing.assert_array_equal(*taken)
    assert np.abs(taken[0]).max() > 0
    with pytest.raises(ValueError, match="does not plan"):
        again.set_planner("small")


def test_on_states_it_is_told_both_in_numbers() -> None:
    learner, goal = agent(), [150.0, 180.0]
    with pytest.warns(UserWarning, match="has learned nothing"):
        first = learner.act([60.0, 70.0], goal_state=goal)
    many = learner.predict({"state": np.array([[60.0, 70.0], [0.0, 0.0]]), "goal_state": np.array(goal)})[0]
    assert many.shape == (2, 2) and np.array_equal(many[0], first)
    with pytest.raises(ValueError, match="looks at states and not at frames: give `state` and `goal_state`, "):
        learner.act(np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE, 3), np.uint8))


@pytest.mark.parametrize("sight", ["states", "pixels"])
def test_goes_on_after_a_kill_as_if_it_had_never_stopped(
    sight: Sight, goes_on_after_a_kill: Callable[..., Any]
) -> None:
    goes_on_after_a_kill(lambda: agent(sight=sight), 140, 70, 6)


def _cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("name", ["training_state/state.pt", "model.safetensors", "config.json"])
def test_a_damaged_checkpoint_gives_way_to_an_older_one_and_nothing_seen_is_wiped(name: str, tmp_path: Path) -> None:
    learner, run = agent().learn_online(tmp_path, 120, checkpoint_every=40, progress=False), RunFolder(tmp_path)
    newest, older = run.whole()
    _cut_short(newest / name)
    again = agent().learn_online(tmp_path, 120, checkpoint_every=40, resume=True, progress=False)
    assert again.weights_sha256() == learner.weights_sha256()
    _cut_short(newest / name)
    _cut_short(older / name)
    seen = (tmp_path / "replay" / "seen.bin").read_bytes()
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole, so that the run cannot be continued"):
        agent().learn_online(tmp_path, 120, resume=True, progress=False)
    assert (tmp_path / "replay" / "seen.bin").read_bytes() == seen


def test_a_run_that_ends_before_anything_is_learned_says_so_and_goes_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing was learned in 20 environment steps"):
        agent().learn_online(tmp_path / "run", 15, progress=False)
    longer = agent().learn_online(tmp_path / "run", 60, resume=True, progress=False)
    assert longer.description.training is not None and longer.description.training.steps > 0


@pytest.mark.parametrize("sight", ["states", "pixels"])
def test_goals_in_hindsight_are_later_states_and_rewarded_by_the_environment(
    sight: Sight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[SACRun] = []
    began = SACRun._begin
    monkeypatch.setattr(SACRun, "_begin", lambda run: (runs.append(run), began(run))[1])
    agent(sight=sight).learn_online(tmp_path / "run", 60, progress=False)
    buffer = runs[0]._sac.replay_buffer
    assert isinstance(buffer, HerReplayBuffer)
    drawn = buffer.sample(200)
    rows = [drawn.next_observations[name].numpy().astype(np.uint8) for name in ("achieved_goal", "desired_goal")]
    near = np.linalg.norm(np.subtract(*(states_in(part, 2) for part in rows)), axis=1) < 16.0
    assert drawn.rewards[:, 0].tolist() == [0.0 if reached else -1.0 for reached in near]
    meant, seen = ({row.tobytes() for row in runs[0]._replay.column(name)} for name in ("goals", "seen"))
    goals = [row.tobytes() for row in rows[1]]
    assert np.mean([goal in meant for goal in goals]) == pytest.approx(0.2) and set(goals) <= meant | seen
    assert not drawn.dones.any()


def test_angles_have_sines_and_pixels_have_none() -> None:
    torch.manual_seed(0)
    model = SACHER(SACConfig(SACModel(state_dim=2, width=8)))
    drawn = np.random.default_rng(0).uniform([-3.14, 0], [3.14, 224], (500, 2))
    model.set_scale(torch.from_numpy(np.stack([packed(row, np.empty(0, np.uint8)) for row in drawn])))
    extractor = model.policy.actor.features_extractor
    assert isinstance(extractor, GoalFeatures)
    features = extractor.features(torch.tensor([[0.3, 100.0]]), torch.tensor([[-0.5, 20.0]]))[0]
    numbers, turns = features[:6].view(3, 2), features[6:].view(2, 3, 2)
    assert (turns[..., 1] == 0).all() and torch.allclose(
        turns[:, 2, 0], torch.tensor([-0.8]).sin().new_tensor([np.sin(-0.8), np.cos(-0.8)])
    )
    assert torch.allclose(numbers[2, 1], torch.tensor(-80.0 / (224 / 12**0.5)), rtol=0.1)


@pytest.mark.parametrize("sight", ["states", "pixels"])
def test_is_measured_on_the_same_pairs_as_others(sight: Sight, tmp_path: Path) -> None:
    learner = agent(environment.make("two_room", SIDE), sight=sight)
    model = learner.learn_online(tmp_path / "run", 60, progress=False).save_pretrained(tmp_path / "model")
    given = ["--env", "two_room", "--model", str(model), "--agent", learner.kind, "--episodes", "2", "--device", "cpu"]
    output = tmp_path / "result.json"
    assert success_rate.main([*given, "--protocol", "moderate", "--output", str(output)]) == 0
    assert f'"agent": "{learner.kind}"' in output.read_text()
    assert world_of("two_room").protocol("moderate").budget == 50


class Silent(gym.Wrapper[Any, Any, Any, Any]):
    def reset(self, **given: Any) -> Any:
        observation, info = super().reset(**given)
        return observation, {name: value for name, value in info.items() if name != self.metadata["hidden"]}


class Choices(gym.ActionWrapper[Any, Any, Any]):
    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(2)

    def action(self, action: Any) -> Any:
        return np.zeros(2, np.float32)


def test_refusals_are_one_sentence(tiny_dataset: OfflineDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not say whether a state reaches a goal, .* reached\(states, goals\)"):
        agent(gym.make("Pendulum-v1", render_mode="rgb_array"))
    for hidden, message in {
        "state": "does not tell its state as a vector",
        "goal_state": "nothing says this goal",
    }.items():
        silent = Silent(two_room())
        silent.metadata = {**silent.metadata, "hidden": hidden}
        with pytest.raises(ValueError, match=message):
            told_size(silent)
    with pytest.raises(ValueError, match="actions are choices"):
        agent(Choices(two_room()))
    with pytest.raises(ValueError, match=r"not from recorded episodes: learn_online"):
        make_agent("sac_her", "two_room").learn(tiny_dataset, tmp_path / "offline")
    with pytest.raises(ValueError, match="image_size must be at least 36, got 32"):
        SACModel(image_size=32, sight="pixels")
    with pytest.raises(ValueError, match="`sac_her` looks at states and takes no frozen one"):
        make_agent("sac_her", "two_room", frozen="two_room")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(OnlineRun, "train", lambda run, resume: given.append((type(run), run.steps, resume)))
    output = str(tmp_path / "out")
    arguments = [
        "learn-online",
        "two_room",
        "--agent",
        "sac_her",
        "--output",
        output,
        "--steps",
        "70",
        "--device",
        "cpu",
    ]
    assert cli.main(arguments) == 0
    assert given == [(SACRun, 70, False)] and load_agent(Path(output) / "model").kind == "sac_her"
