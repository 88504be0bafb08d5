"""A part of MNIST, on which an epoch takes a fraction of a second."""

import pytest

from tests.experiments.smoke import part


@pytest.fixture(scope="session")
def small_mnist(mnist):
    return part(mnist)
