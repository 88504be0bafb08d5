"""Eight simulated devices for every test (set before JAX starts), and the real MNIST."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest

from tests import compilation

compilation.share_programs()


@pytest.fixture(scope="session")
def mnist():
    from experiments.data import load

    return load("mnist")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """A process may map only so many pieces of memory, and each compiled program takes some."""
    yield
    compilation.limit_programs()
