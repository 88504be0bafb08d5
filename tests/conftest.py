"""Eight simulated devices for every test (set before JAX starts), and the real MNIST."""

import hashlib
import os
import platform
import tempfile
from pathlib import Path

import pytest

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one process has compiled, the others read: pytest's workers, the programs that tests start,
# and later sessions. Programs of another kind of processor are kept apart: they may not run here.
_INFO = Path("/proc/cpuinfo")
_PROCESSOR = _INFO.read_text().split("\n\n")[0] if _INFO.exists() else platform.processor()
_KIND = [line for line in _PROCESSOR.splitlines() if "MHz" not in line and "bogomips" not in line]
_KEY = hashlib.sha256("".join(_KIND).encode()).hexdigest()[:16]
_CACHE = Path(tempfile.gettempdir()) / f"sparsejax-tests-{os.getuid()}-{_KEY}"
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
