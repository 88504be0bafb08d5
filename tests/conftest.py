"""Eight simulated devices for every test (set before JAX starts), and the real MNIST."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one process has compiled, the others read: pytest's workers, the programs that tests start,
# and later sessions on this machine.
_CACHE = Path(tempfile.gettempdir()) / f"sparsejax-tests-{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402  after what it reads


@pytest.fixture(scope="session")
def mnist():
    from experiments.data import load

    return load("mnist")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """A process may map only so many pieces of memory, and each compiled program takes some."""
    yield
    jax.clear_caches()
