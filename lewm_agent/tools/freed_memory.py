"""Memory that is free, but that the C library keeps: for good, or not."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
_LARGEST = 2**31 - 1


def keep_freed() -> None:
    """From now on keep what the process frees, for what it asks for next; where the C library is not glibc, nothing.

    Otherwise tensors of 32 MB and more go back to the system one by one, and every page of the next is fetched and
    zeroed anew: a quarter of a training step with large batches, a tenth of a plan (``docs/findings/speed.md``).
    :func:`release_freed` still returns all that is free.
    """
    if sys.platform == "linux":
        choose = getattr(ctypes.CDLL(None), "mallopt", None)
        if choose is not None:
            choose(_MMAP_THRESHOLD, _LARGEST)
            choose(_TRIM_THRESHOLD, _LARGEST)


def release_freed() -> None:
    """Return to the system what the process has freed; does nothing where the C library is not glibc.

    glibc 2.36 (Debian 12) at times does not reuse the aligned blocks that torch frees (its bug 14581, it seems): in a
    third of the runs, turning a dataset into latents grew by 15 MB per batch of 256 frames of 64 px. A call takes up
    to 50 ms.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
