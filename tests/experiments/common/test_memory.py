"""Memory that was freed goes back to the system."""

import platform
from pathlib import Path

import numpy as np
import pytest

from experiments.common import memory


def resident():
    (line,) = (x for x in Path("/proc/self/status").read_text().split("\n") if "VmRSS" in x)
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of another C library")
def test_blocks_between_others_go_back():
    large = np.ones(2**25 - 2**16, np.uint8)  # glibc puts blocks of up to this size in its pools
    del large
    blocks = [np.ones(2**20, np.uint8) for _ in range(101)]
    full = resident()
    del blocks[:-1]
    kept = full - resident()
    memory.release_memory()
    assert full - resident() > 90 * 2**20 > kept


def test_nothing_happens_with_another_c_library(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.release_memory()
