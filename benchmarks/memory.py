"""Memory of the process and of the machine, as Linux reports it."""

from __future__ import annotations

import gc
import os
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")


def free_memory() -> int:
    """Free memory of the machine in bytes."""
    gc.collect()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def reset_peak() -> int | None:
    """Reset the peak of the resident memory; return the present one in bytes, None if unknown."""
    gc.collect()
    if not _CLEAR.exists():
        return None
    _CLEAR.write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """Peak of the resident memory in bytes since `reset_peak`."""
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])
