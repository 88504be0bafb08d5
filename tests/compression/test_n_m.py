import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.compression import n_m
from sparsejax.projections import project_n_m


def test_the_c_step_is_the_projection_and_n_may_be_traced():
    weights = {"kernel": jax.random.normal(jax.random.key(0), (8, 3)), "bias": optax.MaskedNode()}

    @jax.jit
    def project(n):
        step = n_m(n, 4)
        return step.project(weights, 0.5, step.init(weights))[0]["kernel"]

    np.testing.assert_array_equal(project(2), project_n_m(weights["kernel"], 2, 4))
    assert jnp.count_nonzero(project(1)) == 6


def test_learning_compression_ends_in_it():
    target = jax.random.normal(jax.random.key(0), (8, 3))
    params = {"kernel": jnp.zeros((8, 3))}
    chain = optax.chain(
        sparsejax.learning_compression(n_m(2, 4), lambda n: 0.1 * 2.0**n, 5), optax.sgd(0.1)
    )
    state = chain.init(params)

    @jax.jit
    def step(params, state):
        gradient = jax.grad(lambda p: ((p["kernel"] - target) ** 2).sum())(params)
        updates, state = chain.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(20):
        params, state = step(params, state)
    kernel = sparsejax.compressed_params(state, params)["kernel"]
    assert (jnp.count_nonzero(kernel.reshape(2, 4, 3), axis=1) <= 2).all()


def test_weights_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="multiple of m; got axis -2 and m 4"):
        n_m(2, 4).init({"kernel": jnp.ones((6, 4))})
    with pytest.raises(ValueError, match="n must be an integer from 0 to 4; got 5"):
        n_m(5, 4)
