"""MuJoCo without a display: which OpenGL library it draws with, and what to install when there is none."""

from __future__ import annotations

import atexit
import ctypes.util
import importlib
import os
import sys
import weakref
from types import ModuleType
from typing import Any

import gymnasium as gym

from lewm_agent.envs.goal_env import GoalEnv
from lewm_agent.tools.load_order import load_triton

_LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}  # value of MUJOCO_GL -> library it needs; the first one found is used
_ADVICE = (
    "MuJoCo cannot draw with MUJOCO_GL={backend}: install EGL (on Debian: apt-get install libegl1 libgl1-mesa-dri) or "
    "OSMesa (apt-get install libosmesa6); if one is installed, set MUJOCO_GL=egl or MUJOCO_GL=osmesa before mujoco is "
    "first imported"
)


_RENDERERS: weakref.WeakSet[Any] = weakref.WeakSet()


def import_mujoco() -> ModuleType:
    """Import MuJoCo, on Linux with ``MUJOCO_GL`` set to ``egl``, or to ``osmesa`` where EGL is missing.

    MuJoCo reads the variable when it is imported, and unset it looks for a display. A value set by the user is
    kept. Where neither library is found the variable stays unset: simulation works, drawing needs a display.

    Raises:
        RuntimeError: if ``MUJOCO_GL`` names a library that is not there; the message says what to install.
    """
    if "mujoco" not in sys.modules:
        load_triton()
        _choose_backend()
    try:
        return importlib.import_module("mujoco")
    except (AttributeError, OSError) as error:  # how PyOpenGL fails without its library
        raise RuntimeError(_advice()) from error


def prepare_to_make() -> None:
    """Have MuJoCo draw without a display, before an environment of others imports it, or after."""
    if not _has_display():
        _choose_backend()


def prepare_to_draw(env: gym.Env[Any, Any]) -> None:
    """Have an environment of others draw without a display, one of MuJoCo as ours do.

    Where MuJoCo finds nothing to draw with, its first frame fails and the next one aborts the process. SDL, with which
    pygame draws, looks for a display and complains in its own words unless ``SDL_VIDEODRIVER`` says that there is none.

    Raises:
        RuntimeError: there is neither a display nor a library to draw with; the message says what to install.
    """
    if _has_display():
        return
    if not isinstance(env.unwrapped, GoalEnv):  # ours draw without SDL's display
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    _choose_backend()  # for whoever draws with it: Gymnasium-Robotics' mazes have another environment inside
    if hasattr(env.unwrapped, "mujoco_renderer") and not os.environ.get("MUJOCO_GL"):
        raise RuntimeError(_advice())


def make_renderer(model: Any, height: int, width: int) -> Any:
    """Make a ``mujoco.Renderer`` for frames of (height, width, 3); close it when done, or leave it to Python's end.

    Raises:
        RuntimeError: if there is no OpenGL to draw with; the message says what to install.
    """
    mujoco = import_mujoco()
    try:
        renderer = mujoco.Renderer(model, height, width)
    except Exception as error:  # every library fails with exceptions of its own kind
        raise RuntimeError(_advice()) from error
    _RENDERERS.add(renderer)
    # mujoco and dm_control end OpenGL at exit, whichever was imported last first; renderers must close before either.
    atexit.unregister(_close_renderers)
    atexit.register(_close_renderers)
    return renderer


def _close_renderers() -> None:
    for renderer in list(_RENDERERS):
        renderer.close()


def _has_display() -> bool:
    """Whether there is one; elsewhere than on Linux none is asked for."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _choose_backend() -> None:
    if sys.platform == "linux" and not os.environ.get("MUJOCO_GL"):
        backend = _available_backend()
        if backend is not None:
            os.environ["MUJOCO_GL"] = backend
            _choose_again()


def _choose_again() -> None:
    """Have MuJoCo read the variable anew, if a module of the user's has imported it already."""
    for name in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):  # newer releases; older ones
        if name in sys.modules:
            importlib.reload(sys.modules[name])


def _available_backend() -> str | None:
    return next((backend for backend, library in _LIBRARIES.items() if ctypes.util.find_library(library)), None)


def _advice() -> str:
    return _ADVICE.format(backend=os.environ.get("MUJOCO_GL") or "(unset)")
