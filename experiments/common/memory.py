"""Memory that was freed, given back to the system."""

from __future__ import annotations

import contextlib
import ctypes


def release_memory() -> None:
    """Give back what the C library keeps of the memory that was freed.

    glibc takes blocks of up to 32 MiB, such as the parameters and moments of a layer, from pools
    that it does not shrink while anything above is in use, and each thread has a pool of its own.
    After a large network was trained they hold gigabytes that the next training may not find. With
    another C library this does nothing.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
