"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from lewm_agent.tools.freed_memory import release_freed

PAGE = 4096


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_returned_though_what_lies_above_it_is_in_use() -> None:
    pieces = [bytes(10_000) for _ in range(20_000)]
    above = pieces[-1]
    del pieces
    before = resident()
    release_freed()
    assert before - resident() > 100e6
    assert len(above) == 10_000
