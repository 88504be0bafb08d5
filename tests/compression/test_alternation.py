"""Learning-compression with every C step, on a quadratic loss, against the loop written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import compression

RATE, STEPS, L_STEPS = 0.05, 4, 3
C_STEPS = {
    "l0_ball": lambda: compression.l0_ball(8),
    "quantize": lambda: compression.quantize(2),
    "quantize, per leaf, Lloyd": lambda: compression.quantize(3, per_leaf=True, exact=False),
    "codebook": lambda: compression.quantize([-1.0, 0.0, 0.5]),
    "binary": lambda: compression.binary(scaled=True),
    "ternary": lambda: compression.ternary(scaled=True),
    "low_rank": lambda: compression.low_rank(2),
    "rank_selection": lambda: compression.rank_selection(0.002),
    "additive": lambda: compression.additive([compression.quantize(2), compression.l0_ball(3)]),
    "partition": lambda: compression.partition(
        {"x": compression.low_rank(1), "y": compression.quantize(2)}, {"a": "x", "b": "y"}
    ),
}


def mu(n):
    return 0.5 * 1.3**n


@pytest.mark.parametrize("name", C_STEPS)
def test_it_is_the_alternation_written_out_in_float64(name):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        target = {"a": rng.normal(size=(6, 5)), "b": rng.normal(size=(5, 4))}
        start = jax.tree.map(lambda t: t + 0.3 * np.sin(7 * t), target)

        def gradient(w):
            return {name: 2 * (w[name] - target[name]) for name in w}

        everything = lambda path, leaf: True  # noqa: E731
        optimizer = optax.chain(
            sparsejax.learning_compression(C_STEPS[name](), mu, STEPS, where=everything),
            optax.sgd(RATE),
        )
        params = jax.tree.map(jnp.asarray, start)
        state = optimizer.init(params)

        @jax.jit
        def step(params, state):
            updates, state = optimizer.update(gradient(params), state, params)
            return optax.apply_updates(params, updates), state

        c_step = C_STEPS[name]()
        jitted = jax.jit(c_step.project)

        def project(w, mu, state):
            theta, state = jitted(w, mu, state)
            return jax.tree.map(np.asarray, theta), state

        w = start
        theta, inner = project(w, mu(0), c_step.init(params))
        multipliers = jax.tree.map(np.zeros_like, w)
        for n in range(L_STEPS):
            for number in range(STEPS):
                if number == STEPS - 1:  # the last update of an L step runs the C step first
                    shifted = jax.tree.map(lambda w, lam, n=n: w - lam / mu(n), w, multipliers)
                    theta, inner = project(shifted, mu(n), inner)
                    multipliers = jax.tree.map(
                        lambda lam, w, t, n=n: lam - mu(n) * (w - t), multipliers, w, theta
                    )
                weight = mu(n + 1) if number == STEPS - 1 else mu(n)
                w = jax.tree.map(
                    lambda w, g, t, lam, m=weight: w - RATE * (g + m * (w - t) - lam),
                    w, gradient(w), theta, multipliers,
                )  # fmt: skip
                params, state = step(params, state)
        for leaf in w:
            np.testing.assert_allclose(params[leaf], w[leaf], rtol=1e-4, atol=1e-5)
            found = sparsejax.compressed_params(state, params)[leaf]
            np.testing.assert_allclose(found, theta[leaf], rtol=1e-4, atol=1e-5)
