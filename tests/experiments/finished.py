"""That a finished run is read back as the network that it reported on."""

import functools

import jax

from experiments.deploy.finished import finished
from experiments.deploy.forms import error


def check_read_back(folder, expected, **which):
    """The network has the test error and the density that its run wrote down."""
    network = finished(folder, **which)
    found = error(network, functools.partial(jax.jit(network.function), network.params))
    # Other programs, other last bits: a doubtful image may go either way.
    assert abs(found - expected["test_error"]) <= 0.03
    return network
