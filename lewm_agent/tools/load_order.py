"""Libraries that have to be loaded in an order."""

from __future__ import annotations

import contextlib
import importlib


def load_triton() -> None:
    """Load Triton's library, which parts of torch import when they are needed, if it is installed.

    It brings an LLVM of its own, and loading it after that of Mesa, with which MuJoCo draws where there is no GPU, ends
    the process. So it comes before anything is drawn.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("triton._C.libtriton")
