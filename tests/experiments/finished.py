"""That a finished run is read back as the network that it reported on."""

import jax
import numpy as np

from experiments.deploy.finished import finished


def check_read_back(folder, expected, **which):
    """The network has the test error and the density that its run wrote down."""
    network = finished(folder, **which)
    images, labels = network.dataset.test
    logits = jax.jit(network.function)
    wrong = 0
    for start in range(0, len(labels), 1000):
        piece = slice(start, start + 1000)
        found = logits(network.params, network.prepare(images[piece]))
        wrong += (np.asarray(found).argmax(-1) != labels[piece]).sum()
    # Other programs, other last bits: a doubtful image may go either way.
    assert abs(100 * wrong / len(labels) - expected["test_error"]) <= 0.03
    return network
