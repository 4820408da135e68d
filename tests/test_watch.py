"""Watching an agent: goals by mouse in every world, places read from latents, the window and the GIF."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import pygame
import pytest

from lewm_agent import AgentConfig, LeWMAgent
from lewm_agent.envs import ENVIRONMENTS
from lewm_agent.envs.cube.env import cube_positions, with_cube_at
from lewm_agent.envs.push_t.simulation import is_free
from lewm_agent.envs.reacher.env import fingertip_position
from lewm_agent.envs.two_room.geometry import Geometry, disk_is_clear
from lewm_agent.eval import watch
from lewm_agent.eval.watching import drawing as watch_drawing
from lewm_agent.eval.watching import session as watch_session
from lewm_agent.eval.watching.frame_decoder import FrameDecoder
from lewm_agent.eval.worlds import WORLDS
from lewm_agent.eval.worlds.world import Task, View
from lewm_agent.planning.imagination import imagine

CLICKS = [np.array(place) for place in itertools.product((0.02, 0.3, 0.52, 0.98), (0.01, 0.4, 0.7, 0.99))]


def make(name: str, size: int = 16) -> Any:
    return gym.make(ENVIRONMENTS[name], render_mode="rgb_array", image_size=size).unwrapped


def view_and_state(name: str) -> tuple[View, Any]:
    env = make(name)
    return WORLDS[name].view(env), env.reset(seed=0)[1]["state"]


def some_tasks(name: str, count: int = 4) -> list[Task]:
    infos = [make(name).reset(seed=seed)[1] for seed in range(count)]
    return [Task(info["state"], info["goal_state"]) for info in infos]


def session_of(name: str, config: AgentConfig) -> watch_session.Session:
    """An untrained agent in its view."""
    return watch_session.Session(LeWMAgent(name, config, device="cpu"), tasks=some_tasks(name))


@pytest.fixture
def window(tiny_config: AgentConfig, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = watch.Window(session_of("two_room", tiny_config))
    yield window
    window.close()


def press(key: int) -> None:
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))


# --- worlds ----------------------------------------------------------------------------------------------------------


def test_two_room_click_is_a_place_clear_of_walls() -> None:
    view, state = view_and_state("two_room")
    goals = [view.goal_at(place, state, state) for place in CLICKS]
    assert all(disk_is_clear(goal, Geometry()) for goal in goals)
    free = np.array([0.25, 0.6])
    np.testing.assert_allclose(view.places(view.goal_at(free, state, state))[0], free)


def test_push_t_click_moves_the_block_and_keeps_it_legal() -> None:
    view, state = view_and_state("push_t")
    for place, angle in itertools.product(CLICKS, (0.0, 1.0, 4.0)):
        goal = view.turned(view.goal_at(place, state, state), angle)
        assert is_free(goal)
        assert math.isclose(math.remainder(goal[4] - state[4] - angle, math.tau), 0.0, abs_tol=1e-9)
    middle = np.array([0.5, 0.5])
    goal = view.goal_at(middle, state, state)
    np.testing.assert_allclose(view.places(goal)[1], middle)
    np.testing.assert_allclose(view.places(view.turned(goal, 2.0))[1], middle)


def test_push_t_agent_stays_unless_the_block_is_there() -> None:
    view, state = view_and_state("push_t")
    state[:2] = 100.0, 100.0
    np.testing.assert_array_equal(view.goal_at(np.array([0.7, 0.7]), state, state)[:2], state[:2])
    assert (view.goal_at(np.array([0.2, 0.2]), state, state)[:2] != state[:2]).any()


def test_reacher_click_is_reached_by_the_nearer_solution() -> None:
    view, _ = view_and_state("reacher")
    state = np.array([0.4, 1.0, 0.0, 0.0])
    place = view.places(np.array([0.5, 0.9, 0.0, 0.0]))[0]
    np.testing.assert_allclose(view.goal_at(place, state, state), [0.5, 0.9, 0.0, 0.0], atol=1e-9)
    other = np.array([0.4, -1.0, 0.0, 0.0])
    goal = view.goal_at(place, other, other)
    assert goal[1] < 0.0
    np.testing.assert_allclose(view.places(goal)[0], place, atol=1e-9)


@pytest.mark.parametrize("place", CLICKS)
def test_reacher_click_out_of_reach_is_the_nearest_reachable(place: Any) -> None:
    view, state = view_and_state("reacher")
    x, y = fingertip_position(view.goal_at(place, state, state))
    right, down = place - 0.5
    assert abs(x * -down - y * right) < 1e-9 and math.hypot(x, y) <= 0.24 + 1e-9


def test_cube_click_puts_the_cube_where_the_camera_shows_it() -> None:
    view, state = view_and_state("cube")
    goal = view.goal_at(np.array([0.6, 0.6]), state, state)
    np.testing.assert_allclose(view.places(goal)[1], [0.6, 0.6], atol=1e-3)
    for place in CLICKS:
        x, y, z = cube_positions(view.goal_at(place, state, state))[0]
        assert 0.3 <= x <= 0.55 and -0.3 <= y <= 0.3 and z == 0.02


def colored(frame: Any, channel: int) -> Any:
    """Mean place of the pixels that one channel dominates."""
    others = np.delete(frame.astype(int), channel, axis=2).max(axis=2)
    rows, columns = np.nonzero(frame[..., channel] > others + 100)
    return (np.array([columns.mean(), rows.mean()]) + 0.5) / len(frame)


@pytest.mark.parametrize(("name", "mark", "tolerance"), [("two_room", 0, 0.005), ("reacher", 0, 0.01)])
def test_places_are_where_things_are_drawn(name: str, mark: int, tolerance: float) -> None:
    env = make(name, 128)
    view = WORLDS[name].view(env)
    for seed in range(3):
        state = env.reset(seed=seed)[1]["state"]
        np.testing.assert_allclose(view.places(state)[mark], colored(env.render(), 0), atol=tolerance)


def test_the_cube_is_drawn_where_its_place_is() -> None:
    env = make("cube", 96)
    view, state = WORLDS["cube"].view(env), env.reset(seed=3)[1]["state"]
    for x, y in ((0.3, -0.3), (0.55, 0.3), (0.42, 0.2)):
        moved = with_cube_at(state, (x, y, 0.02))
        env.reset(options={"state": moved})
        np.testing.assert_allclose(view.places(moved)[1], colored(env.render(), 0), atol=0.03)


# --- reading places from latents -------------------------------------------------------------------------------------


def test_readout_finds_places_of_states_it_has_not_seen() -> None:
    generator = np.random.default_rng(0)
    states = generator.uniform(size=(300, 2))
    latents = np.tanh(states @ generator.normal(size=(2, 8)))
    readout = watch_session.Readout(latents[:250], states[:250, None])
    errors = np.linalg.norm(readout(latents[250:])[:, 0] - states[250:], axis=1)
    assert np.median(errors) < 0.01
    assert readout.error == pytest.approx(np.median(errors), rel=1.0)


def test_the_real_path_is_the_one_taken(tiny_config: AgentConfig) -> None:
    planner = dataclasses.replace(tiny_config.planner, cost="terminal")
    session = session_of("two_room", dataclasses.replace(tiny_config, planner=planner))
    session.step()
    path = session.path
    assert path is not None and len(path.real) == len(path.imagined) == planner.horizon
    for block in range(planner.execute):
        assert session.path is path
        for _ in range(session.agent.config.model.frame_skip - (block == 0)):
            session.step()
        np.testing.assert_allclose(path.real[block], session.view.places(session.info["state"]), atol=1e-6)
    session.step()
    assert session.path is not path


def test_imagined_latents_are_those_that_the_planner_compares(tiny_agent: LeWMAgent) -> None:
    env = make("two_room")
    env.reset(seed=0)
    _, (memory,) = tiny_agent.predict({"pixels": env.render(), "goal": env.goal_frame()})
    actions, latents = imagine(tiny_agent.world_model, tiny_agent.config.planner, memory)
    distances = ((latents - memory.goal_latent.double().numpy()) ** 2).sum(axis=1)  # type: ignore[union-attr]
    assert len(actions) == len(latents) == distances.argmin() + 1
    np.testing.assert_allclose(actions[0, 1], memory.queue[0], atol=1e-6)


def test_with_a_decoder_the_plan_is_also_shown_as_frames(tiny_agent: LeWMAgent) -> None:
    size = tiny_agent.config.model.image_size
    decoder = FrameDecoder.of(tiny_agent.world_model).eval()
    session = watch_session.Session(tiny_agent, tasks=some_tasks("two_room"), decoder=decoder)
    before = session.scene()
    session.step()
    after = session.scene()
    assert before.imagined is not None and len(before.imagined) == 0
    assert after.imagined is not None and session.path is not None
    assert after.imagined.shape == (len(session.path.imagined), size, size, 3)
    assert watch_drawing.draw(after).get_size() == watch_drawing.size(1, imagined=True)


# --- every world -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_a_session_acts_and_follows_a_click(name: str, tiny_config: AgentConfig) -> None:
    session = session_of(name, tiny_config)
    start, goal = session.info["state"], session.info["goal_state"]
    session.step()
    bare = watch_drawing.draw(session.scene())
    assert (session.info["state"] != start).any()
    assert session.path is not None and len(session.path.start) == len(session.view.marks)
    assert session.path.imagined.shape == session.path.real.shape
    before = session.info["state"]
    session.click(np.array([0.55, 0.65]))
    assert (session.info["goal_state"] != goal).any()
    np.testing.assert_array_equal(session.info["state"], before)
    assert session.path is None and session.steps == 0
    assert (watch_drawing.pixels(watch_drawing.draw(session.scene())) != watch_drawing.pixels(bare)).any()


# --- window and GIF --------------------------------------------------------------------------------------------------


def test_window_draws_the_path_over_the_frame(window: Any) -> None:
    assert window.tick()
    shown = watch_drawing.pixels(pygame.display.get_surface())
    start = window.session.path.imagined[0, 0]
    x, y = np.add(np.rint(start * watch_drawing.SIDE).astype(int), (watch_drawing.GAP, watch_drawing.HEADER))
    assert tuple(shown[y, x]) == watch_drawing.MARKS[0]


@pytest.mark.parametrize("panel", [0, 1])
def test_window_click_and_drag_set_the_goal(window: Any, panel: int) -> None:
    left = (watch_drawing.GAP, 2 * watch_drawing.GAP + watch_drawing.SIDE)[panel]
    press_at, drag_to = ((left + x, watch_drawing.HEADER + y) for x, y in ((80, 250), (110, 200)))
    pygame.event.post(pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=press_at))
    window.tick()
    np.testing.assert_allclose(window.session.info["goal_state"], np.array([80.5, 250.5]) / 336 * 224)
    pygame.event.post(pygame.event.Event(pygame.MOUSEMOTION, buttons=(1, 0, 0), pos=drag_to, rel=(0, 0)))
    window.tick()
    goal = window.session.info["goal_state"]
    np.testing.assert_allclose(goal, np.array([110.5, 200.5]) / 336 * 224)
    pygame.event.post(pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=(2, 2)))
    window.tick()
    np.testing.assert_array_equal(window.session.info["goal_state"], goal)


def test_window_keys(window: Any) -> None:
    session = window.session
    window.tick()
    goal, state = session.info["goal_state"], session.info["state"]
    press(pygame.K_SPACE)
    press(pygame.K_n)
    assert window.tick() and window.paused
    assert (session.info["goal_state"] != goal).any()
    np.testing.assert_array_equal(session.info["state"], state)
    press(pygame.K_r)
    window.tick()
    assert np.linalg.norm(session.info["state"] - state) > 10.0 and session.steps == 0
    for key in (pygame.K_q, pygame.K_ESCAPE):
        press(key)
        assert not window.tick()


def test_window_wheel_and_arrows_turn_the_block(tiny_config: AgentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = watch.Window(session_of("push_t", tiny_config))
    window.session.click(np.array([0.5, 0.5]))
    angle = window.session.info["goal_state"][4]
    pygame.event.post(pygame.event.Event(pygame.MOUSEWHEEL, y=2))
    press(pygame.K_LEFT)
    window.tick()
    window.close()
    turned = math.remainder(window.session.info["goal_state"][4] - angle, math.tau)
    assert turned == pytest.approx(watch.TURN)


def test_command_opens_a_window(trained_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(watch.Window, "tick", lambda self: press(pygame.K_q) or self._answer(pygame.event.get()))
    assert watch.main(["--env", "two_room", "--model", str(trained_folder), "--device", "cpu"]) == 0


def test_without_a_display_a_gif_is_recorded(
    trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(watch_session, "MOST_STEPS", 4)
    monkeypatch.chdir(tmp_path)
    arguments = ["--env", "two_room", "--model", str(trained_folder), "--device", "cpu"]
    assert watch.main([*arguments, "--episodes", "1"]) == 0
    assert "watch-two_room.gif" in capsys.readouterr().out
    assert watch.main([*arguments, "--episodes", "1", "--record", "made/other.gif", "--seed", "1"]) == 0
    first, other = imageio.imread("watch-two_room.gif"), imageio.imread("made/other.gif")
    assert first.shape == other.shape == (4, *watch_drawing.size(1)[::-1], 3)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env", "two_rom"], "did you mean `two_room`"),
        (["--env", "CartPole-v1"], "CartPole-v1"),
        (["--env", "two_room", "--record", "out.mp4"], "must be a file that ends in .gif"),
        (["--env", "two_room", "--record", "file/out.gif"], "cannot be written"),
        (["--env", "two_room", "--record", "out.gif", "--episodes", "0"], "episodes must be at least 1"),
        (["--env", "two_room", "--record", "out.gif", "--model", "nosuch"], "no model `nosuch`"),
        (["--env", "push_t", "--record", "out.gif", "--model", "two_room"], "was trained on lewm/TwoRoom-v0"),
    ],
)
def test_bad_input_is_one_sentence(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert watch.main(options) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error:") and error.count("\n") == 1
    assert not Path("out.gif").exists()
