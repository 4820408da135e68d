"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lewm_agent.tools.freed_memory import release_freed

PAGE = 4096


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


KEPT = """
import resource, sys
from lewm_agent.tools.freed_memory import keep_freed
if sys.argv[1] == "keep":
    keep_freed()
bytearray(100_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    bytearray(100_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Counts the pages that have to be fetched anew for large blocks that were had before."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_returned_though_what_lies_above_it_is_in_use() -> None:
    pieces = [bytes(10_000) for _ in range(20_000)]
    above = pieces[-1]
    del pieces
    before = resident()
    release_freed()
    assert before - resident() > 100e6
    assert len(above) == 10_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_is_used_again() -> None:
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", KEPT, mode], check=True, capture_output=True, text=True).stdout)
        for mode in ("keep", "return")
    }
    assert 10 * faults["keep"] < faults["return"]
