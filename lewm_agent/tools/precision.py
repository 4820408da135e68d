"""How a processor computes: in which precision it multiplies matrices fast, by measurement, and with one thread."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Iterator

import torch

CLEARLY = 1.3
"""bfloat16 is chosen where it is so many times as fast: equal machines, whose measurements differ, then agree."""
_SIDE = 192
_REPEATS = 3


def chosen_precision(asked: str, device: torch.device) -> str:
    """``float32`` or ``bfloat16``: what is asked for, or, for ``auto``, what this process is clearly faster in.

    ``auto`` is bfloat16 on a CUDA GPU, and float32 on one of Apple's. An explicit bfloat16 that slows a CPU down is
    followed, with a warning.
    """
    if device.type == "cpu" and asked != "float32":
        gain = bfloat16_gain()
        if asked == "auto":
            return "bfloat16" if gain >= CLEARLY else "float32"
        if gain < 1:
            warnings.warn(
                f"bfloat16 is {1 / gain:.1f} times as slow as float32 on this processor: precision `auto` or `float32` "
                "is faster here",
                stacklevel=3,
            )
    if asked == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return asked


@functools.cache
def bfloat16_gain() -> float:
    """How many times faster this process multiplies matrices on the CPU in bfloat16 than in float32; measured once."""
    return _seconds(torch.float32) / _seconds(torch.bfloat16)


def _seconds(dtype: torch.dtype) -> float:
    """Seconds of a product of matrices, the best of a few: other work on the machine slows some of them down."""
    matrix = torch.ones(_SIDE, _SIDE, dtype=dtype)
    times = []
    for _ in range(1 + _REPEATS):
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return min(times[1:])


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A block that computes with one thread; afterwards there are as many as before."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
