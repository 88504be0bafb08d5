"""Eight simulated devices for every test (set before JAX starts), and the real MNIST."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

_MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="session")
def mnist():
    from experiments.data import load

    return load("mnist")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """A process may map only so many pieces of memory, and each compiled program takes some."""
    yield
    if _MAPS.exists() and _MAPS.read_text().count("\n") > 30_000:
        jax.clear_caches()
