"""Training a behavior policy: the same seed gives the same one, also through an interruption, and it collects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3 import SAC

from lewm_agent import cli, environment
from lewm_agent.agents.behavior import train_policy
from lewm_agent.agents.behavior.policies import behavior_policy
from lewm_agent.agents.behavior.stable_baselines import load_model
from lewm_agent.agents.behavior.train_policy import count_successes, train_sac
from lewm_agent.datasets import OfflineDataset

STEPS, EVERY = 140, 60
"""Stable-Baselines3 starts to learn after step 100, so the third stretch begins with a network that has learned."""


def reacher(**kwargs: Any) -> environment.Environment:
    return environment.make("reacher", 64, **kwargs)


def train(output: Path, **kwargs: Any) -> SAC:
    return train_sac(reacher(), output, STEPS, checkpoint_every=EVERY, progress=False, **kwargs)


def actions(path: Path) -> NDArray[Any]:
    """What the saved model does at 32 states, without noise."""
    states = np.random.default_rng(0).uniform(-1, 1, (32, 7)).astype(np.float32)
    return np.asarray(load_model(path).predict(states, deterministic=True)[0])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("policy") / "runs" / "sac.zip"
    train(output)
    return output


def interrupted(output: Path, monkeypatch: pytest.MonkeyPatch, after: int, **kwargs: Any) -> None:
    """Train, but stop without any clearing up while the stretch after step ``after`` is learned or saved."""
    save = train_policy._save

    class Killed(BaseException):
        pass

    def killed_while_saving(model: SAC, path: Path, include: list[str] | None = None) -> None:
        if model.num_timesteps > after:
            path.with_name(f"{path.name}.part").write_bytes(b"half a model")
            raise Killed
        save(model, path, include)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train_policy, "_save", killed_while_saving)
        train(output, **kwargs)


def test_same_seed_same_policy_also_after_a_kill(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names(trained.parent) == {"sac.zip"}
    output = tmp_path / "sac.zip"
    interrupted(output, monkeypatch, after=2 * EVERY)
    assert names(tmp_path) == {"sac.checkpoint.zip", "sac.checkpoint.zip.part"}
    assert load_model(tmp_path / "sac.checkpoint.zip").num_timesteps == 2 * EVERY
    with pytest.raises(FileExistsError, match=r"sac\.checkpoint\.zip is of an unfinished training; continue it with"):
        train(output)
    with pytest.raises(ValueError, match=r"seed 0, checkpoint_every 60; asked for is .* seed 1, checkpoint_every"):
        train(output, resume=True, seed=1)
    with pytest.raises(ValueError, match="is at step 120 already, asked for are 110 steps"):
        train_sac(reacher(), output, 110, checkpoint_every=EVERY, resume=True)
    assert train(output, resume=True).num_timesteps == STEPS
    assert names(tmp_path) == {"sac.zip"}
    np.testing.assert_array_equal(actions(output), actions(trained))


def test_another_seed_gives_another_policy(trained: Path, tmp_path: Path) -> None:
    train(tmp_path / "sac.zip", seed=1)
    assert not np.allclose(actions(tmp_path / "sac.zip"), actions(trained))


def test_an_output_is_replaced_only_on_request_and_by_a_whole_one(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "sac.zip"
    output.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"sac\.zip exists; give another output, or overwrite it"):
        train(output)
    interrupted(output, monkeypatch, after=EVERY, overwrite=True, seed=1)
    assert output.read_bytes() == b"precious"
    train(output, overwrite=True)  # discards the checkpoint of seed 1
    np.testing.assert_array_equal(actions(output), actions(trained))


def test_the_command_trains_and_its_policy_collects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, data = tmp_path / "sac.zip", tmp_path / "data"
    command = ["train-policy", "two_room", "--output", str(output), "--steps", "120", "--evaluation-episodes", "2"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed[:2]] == ["deterministic", "stochastic"]
    told = re.compile(r"\w+: goal reached in [012] of 2 episodes, \d+\.0 % \[\d+\.\d, \d+\.\d\]")
    assert all(told.fullmatch(line) for line in printed[:2])
    to_collect = ["--env", "two_room", "--path", str(data), "--policy", str(output), "--episodes", "2"]
    assert cli.main(["collect", *to_collect]) == 0
    assert OfflineDataset(data).num_episodes == 2


def test_success_is_counted_at_any_step_and_repeatably(trained: Path) -> None:
    class Nearby(gym.Wrapper[Any, Any, Any, Any]):
        """Succeeds in step 3 alone of every other episode."""

        episodes = 0

        def reset(self, **kwargs: Any) -> Any:
            self.steps, self.episodes = 0, self.episodes + 1
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            self.steps += 1
            *outcome, info = super().step(action)
            return *outcome, {**info, "is_success": self.steps == 3 and self.episodes % 2 == 0}

    model = SAC.load(trained, device="cpu")
    env = gym.wrappers.TimeLimit(reacher(terminate_on_success=False), 5)
    assert count_successes(model, Nearby(env), 4, progress=False) == {"deterministic": 2, "stochastic": 2}


def test_the_saved_model_fits_the_environment_with_other_arguments(trained: Path) -> None:
    env = reacher(terminate_on_success=False)
    observation, info = env.reset(seed=0)
    assert env.action_space.contains(behavior_policy(trained, env)(observation, info))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reachr"], "no environment `reachr`; did you mean `reacher`?"),
        (["reacher", "--steps", "0"], "steps must be at least 1, got 0"),
        (["reacher", "--evaluation-episodes", "0"], "evaluation_episodes must be at least 1, got 0"),
        (["reacher", "--output", "policy.pt"], "the policy's file must end in .zip, got policy.pt"),
        (["reacher", "--environment-kwargs", "{"], "--environment-kwargs must be a JSON object"),
        (["CartPole-v1"], "does not tell is_success"),
        (["Pendulum-v1"], "does not tell is_success"),
    ],
)
def test_refusals_are_one_sentence(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train-policy", "--output", "policy.zip", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_refused(tmp_path: Path) -> None:
    class Pixels(gym.ObservationWrapper[Any, Any, Any]):
        observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)

        def observation(self, observation: Any) -> Any:
            return np.zeros((8, 8, 3), np.uint8)

    with pytest.raises(ValueError, match="the observation space must be a one-dimensional Box"):
        train_sac(Pixels(reacher()), tmp_path / "sac.zip")
