"""How MuJoCo draws: which OpenGL is chosen, and what is said where there is none."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
import types
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from lewm_agent import environment
from lewm_agent.envs import mujoco_gl
from lewm_agent.envs.reacher.env import ReacherEnv


def test_chooses_egl_then_osmesa_and_keeps_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for libraries, given, chosen in (
        ({"EGL", "OSMesa"}, None, "egl"),
        ({"OSMesa"}, None, "osmesa"),
        (set(), None, None),
        ({"EGL", "OSMesa"}, "", "egl"),
        ({"EGL", "OSMesa"}, "glfw", "glfw"),
    ):
        monkeypatch.delitem(sys.modules, "mujoco", raising=False)
        monkeypatch.setattr(mujoco_gl.importlib, "import_module", types.ModuleType)
        monkeypatch.setattr(ctypes.util, "find_library", lambda name, there=libraries: name if name in there else None)
        monkeypatch.setenv("MUJOCO_GL", given or "")
        if given is None:
            monkeypatch.delenv("MUJOCO_GL")
        mujoco_gl.import_mujoco()
        assert os.environ.get("MUJOCO_GL") == chosen


def test_missing_libraries_are_told_with_the_packages_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = (
        r"cannot draw with MUJOCO_GL=egl: install EGL \(on Debian: apt-get install libegl1 libgl1-mesa-dri\) or OSMesa"
    )

    def fail(*arguments: Any) -> Any:
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setenv("MUJOCO_GL", "egl")
    env = ReacherEnv(render_mode="rgb_array")
    env.reset(seed=0)
    monkeypatch.setattr(mujoco_gl.import_mujoco(), "Renderer", fail)
    with pytest.raises(RuntimeError, match=advice):
        env.render()
    env.step(np.zeros(2))  # the simulation goes on
    monkeypatch.setattr(mujoco_gl.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match=advice):
        ReacherEnv()


class _OfOthers(gym.Env[Any, Any]):
    """What gymnasium's MuJoCo environments are known by."""

    mujoco_renderer = None


IMPORTED_FIRST = """
import mujoco
import gymnasium as gym
from lewm_agent import environment

class Ball(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return None, {}

    def render(self):
        ball = "<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>"
        model = mujoco.MjModel.from_xml_string(ball)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        with mujoco.Renderer(model, 16, 16) as renderer:
            renderer.update_scene(data)
            return renderer.render()

assert environment.adapt(Ball(), 16).render().std() > 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is nothing to choose")
def test_a_module_that_imports_mujoco_before_anything_is_chosen_draws_all_the_same() -> None:
    chosen = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    env = {name: value for name, value in os.environ.items() if name not in chosen}
    done = subprocess.run([sys.executable, "-c", IMPORTED_FIRST], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("found", ["egl", None])
def test_an_environment_of_others_gets_a_library_or_a_sentence(
    found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(mujoco_gl, "_available_backend", lambda: found)
    mujoco_gl.prepare_to_draw(gym.Env())  # there may be one of MuJoCo inside
    assert os.environ["MUJOCO_GL"] == (found or "")
    if found:
        mujoco_gl.prepare_to_draw(_OfOthers())
        assert os.environ["MUJOCO_GL"] == found
    else:
        with pytest.raises(RuntimeError, match="install EGL"):
            mujoco_gl.prepare_to_draw(_OfOthers())


def test_an_environment_of_others_drawn_by_pygame_is_silent_without_a_display() -> None:
    script = "import gymnasium as gym\nfrom lewm_agent import environment\n"
    script += "env = environment.adapt(gym.make('CartPole-v1', render_mode='rgb_array'), 32)\n"
    script += "env.reset(seed=0)\nassert env.render().std() > 0"
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "XDG_RUNTIME_DIR")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([sys.executable, "-c", script], check=True, env=env, capture_output=True, text=True)
    assert "XDG_RUNTIME_DIR" not in done.stderr


def test_environments_of_others_draw_beside_and_after_one_another() -> None:
    def made(name: str) -> gym.Env[Any, Any]:
        env = environment.make(name, 32)
        env.reset(seed=0)
        return env

    pendulum = made("InvertedPendulum-v5")
    alone = pendulum.render()
    reacher = made("Reacher-v5")
    np.testing.assert_array_equal(pendulum.render(), alone)
    other = reacher.render()
    np.testing.assert_array_equal(pendulum.render(), alone)
    np.testing.assert_array_equal(reacher.render(), other)
    reacher.close()
    np.testing.assert_array_equal(pendulum.render(), alone)
    assert np.asarray(alone).std() > 0
    pendulum.close()


@pytest.mark.parametrize(
    "draw",
    [
        "from lewm_agent.envs import make_pixel_env\nenv = make_pixel_env('reacher', image_size=64)",
        "from lewm_agent import LeWMAgent\nimport gymnasium as gym\n"
        "env = gym.make('InvertedPendulum-v5', render_mode='rgb_array', width=64, height=64)",
    ],
    ids=["ours", "of_others"],
)
def test_what_training_needs_can_be_imported_after_drawing(draw: str) -> None:
    """Triton's LLVM after Mesa's would end the process."""
    script = f"{draw}\nenv.reset(seed=0)\nassert env.render() is not None\nimport lightning_fabric, timm"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"MUJOCO_GL": "egl", **os.environ}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
