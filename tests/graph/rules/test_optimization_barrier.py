import numpy as np
from jax import lax

from tests.graph.rules.brute_force import check

VECTOR = np.asarray([0.5, 0.0, -2.0, 1.0], np.float32)


def test_of_several_operands():
    def operation(h):
        h, double, known = lax.optimization_barrier((h, 2 * h[..., ::-1], VECTOR))
        return h * known + double

    check(operation, (3, 4), complete=False)
