"""Probing, surprise and watching of a model of an environment that this package does not know."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import pytest

from lewm_agent import AgentConfig, LeWMAgent, cli
from lewm_agent.datasets import OfflineDataset
from lewm_agent.eval import surprise
from lewm_agent.eval.playing import recorded
from lewm_agent.eval.watching import drawing
from lewm_agent.eval.watching.trials import TrialSession, nearest_recorded
from lewm_agent.evaluation.playing import Player
from lewm_agent.training.encoding import encode_rows


class Turning(gym.Env[Any, Any]):
    """A dot that is pushed about, and says in which direction it lies."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-4, 4, (3,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2)
        return self.observed(), {"speed": 0.0}

    def observed(self) -> Any:
        return np.array([*self.place, np.arctan2(*self.place)], np.float32)

    def step(self, action: Any) -> Any:
        self.place = np.clip(self.place + 0.2 * np.asarray(action), -1, 1)
        return self.observed(), 0.0, False, False, {"speed": float(np.abs(action).sum())}

    def render(self) -> Any:
        frame = np.full((16, 16, 3), 255, np.uint8)
        x, y = ((self.place + 1) * 6).astype(int)
        frame[y : y + 4, x : x + 4] = 200, 30, 30
        return frame


gym.register("tests/Turning-v0", Turning, max_episode_steps=61)


@pytest.fixture(scope="module")
def folder(tiny_config: AgentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model and its data."""
    made = tmp_path_factory.mktemp("turning")
    agent = LeWMAgent("tests/Turning-v0", tiny_config)
    agent.collect(made / "data", "random", episodes=20, progress=False)
    agent.learn(made / "data", made / "run", workers=0, progress=False).save_pretrained(made / "model")
    return made


def looked(command: str, folder: Path, *more: str) -> dict[str, Any]:
    output, picture = folder / f"{command}.json", folder / f"{command}.png"
    arguments = [command, "--model", str(folder / "model"), "--dataset", str(folder / "data")]
    assert cli.main([*arguments, "--output", str(output), "--picture", str(picture), *more]) == 0
    assert picture.stat().st_size > 5000
    told: dict[str, Any] = json.loads(output.read_text())
    return told


def test_recorded_numbers_are_probed_for_by_name(folder: Path) -> None:
    told = looked("probe", folder, "--seeds", "1", "--angles", "observation[2]")
    assert told["env"] == "tests/Turning-v0" and told["dataset"] == str(folder / "data")
    turned = {"sin observation[2]", "cos observation[2]"}
    assert {row["quantity"] for row in told["rows"]} == {f"observation[{i}]" for i in range(3)} | turned
    agent, data = LeWMAgent.from_pretrained(folder / "model"), OfflineDataset(folder / "data")
    views = recorded.views(agent, data, 1000, ["observation"])
    assert set(views.episodes) <= set(agent.unseen_episodes(data)) and len(views.pixels) == told["frames"]
    first = data.episode(int(views.episodes[0]))
    np.testing.assert_allclose(views.quantities["observation[1]"][1], first["observation"][5, 1])
    np.testing.assert_array_equal(views.pixels[1], first["pixels"][5])


def test_recorded_episodes_are_recolored_and_jump(folder: Path) -> None:
    agent, data = LeWMAgent.from_pretrained(folder / "model"), OfflineDataset(folder / "data")
    one, other = itertools.islice(recorded.clips(agent, data, surprise.BLOCKS), 2)
    jump, colored = recorded.jumped(one, other, surprise.EVENT), recorded.recolored(one, surprise.EVENT)
    for clip in (jump, colored):
        differs = [(a != b).any() for a, b in zip(clip.frames, one.frames, strict=True)]
        assert not any(differs[: surprise.EVENT]) and differs[surprise.EVENT]
    np.testing.assert_array_equal(jump.frames[surprise.EVENT :], other.frames[surprise.EVENT :])
    np.testing.assert_array_equal(jump.actions[30:], other.actions[30:])
    np.testing.assert_array_equal(colored.actions, one.actions)
    assert colored.frames[-1].max() == round(0.75 * 255)
    told = looked("surprise", folder)
    assert told["trajectories"] == 5 and told["event"]["block"] == surprise.EVENT
    curves = told["mean_surprise"]
    assert curves["teleported"][:5] == curves["recolored"][:5] == curves["unchanged"][:5]


WATCH = ["watch", "--env", "tests/Turning-v0", "--offset", "5", "--success", "observation[0:2]:0.2", "--model"]


def test_a_gif_shows_goals_of_data_and_the_frames_that_plans_expect(folder: Path) -> None:
    gif, arguments = folder / "watch.gif", [*WATCH, str(folder / "model"), "--goals", str(folder / "data")]
    assert cli.main([*arguments, "--record", str(gif), "--episodes", "1"]) == 0
    shown = imageio.imread(gif)
    assert 2 <= len(shown) <= 10 and shown.shape[1:] == (*drawing.size(1, imagined=True)[::-1], 3)
    strip = slice(drawing.HEADER + drawing.SIDE + drawing.GAP + drawing.LINE, None)
    assert (shown[0, strip] != shown[1, strip]).mean() > 0.02


def test_nearest_frames_of_recorded_latents_are_those_frames(folder: Path) -> None:
    agent, data = LeWMAgent.from_pretrained(folder / "model"), OfflineDataset(folder / "data")
    rows = np.array([3, 40, 100])
    latents = encode_rows(agent.world_model, data, rows).double().numpy()
    np.testing.assert_array_equal(nearest_recorded(agent, data)(latents), data.read_frames(rows))


def test_a_session_judges_as_an_evaluation_does_and_goes_on_to_the_next_trial(folder: Path) -> None:
    agent = LeWMAgent.from_pretrained(folder / "model")
    suite = agent.suite(goals=folder / "data", success="observation[0:2]:0.2", episodes=3, offset=5)
    session = TrialSession(agent, suite)
    first = session.scene().goal_frame
    (trace,) = Player(suite.make, agent, suite.success, 0, suite.budget).play([0], suite.trials[:1])
    told = [bool(session.solved)]
    for _ in range(suite.budget):
        session.step()
        told.append(session.solved)
    assert len(told) == len(trace.solved(suite.success, suite.trials[0]))
    assert told[0] == trace.solved(suite.success, suite.trials[0])[0]
    assert "latents" in session.caption() and session.decodes is False
    session.click(np.zeros(2))
    session.new_goal()
    assert (session.scene().goal_frame != first).any() and "step 0" in session.caption()


def test_watching_asks_where_goals_come_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*WATCH[:3], "--model", str(folder / "model"), "--record", str(folder / "x.gif")]) == 2
    assert "say where starts and goals in tests/Turning-v0 come from" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["watch", "--env", "two_room", "--success", "state:1", "--record", str(folder / "x.gif")]) == 2
    assert "--success goes with --goals" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        ("probe", [], "say which recorded episodes of tests/Turning-v0 to look at: --dataset"),
        ("surprise", [], "say which recorded episodes of tests/Turning-v0 to look at: --dataset"),
        ("probe", ["--dataset", "DATA", "--columns", "sped"], "no column 'sped'; it has"),
        ("probe", ["--dataset", "DATA", "--angles", "observation[5]"], "no number `observation[5]`"),
        (
            "probe",
            ["--dataset", "DATA", "--columns", "observation", "--frames", "2"],
            "probing needs frames of at least 4 episodes that training has not seen, and these 2 are of",
        ),
        (
            "probe",
            ["--dataset", "DATA", "--env", "two_room"],
            "was trained on tests/Turning-v0, not on lewm",
        ),
        ("probe", ["--columns", "observation"], "--columns and --angles are of recorded episodes"),
        ("surprise", ["--dataset", "DATA", "--trajectories", "1"], "trajectories must be at least 2"),
    ],
)
def test_bad_input_is_one_sentence(
    command: str, given: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(folder / "data") if word == "DATA" else word for word in given]
    assert cli.main([command, "--model", str(folder / "model"), *given]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_without_a_model_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["surprise"]) == 2
    assert "say which model: --model, or --env" in capsys.readouterr().err
