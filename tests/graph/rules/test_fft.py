import jax.numpy as jnp

from tests.graph.rules.brute_force import check


def test_positions_are_transformed_and_units_leave():
    check(lambda h: jnp.abs(jnp.fft.rfft(h, axis=1)), (3, 6), whole=(1,), onnx=False)
