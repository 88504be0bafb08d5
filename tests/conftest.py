"""Eight simulated devices for every test (set before JAX starts), and the real MNIST."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest


@pytest.fixture(scope="session")
def mnist():
    from experiments.data import load

    return load("mnist")
