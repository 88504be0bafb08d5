import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.compression import blocks, units
from sparsejax.projections import project_blocks, project_units


def live(kernel):
    return int(jnp.any(kernel != 0, axis=0).sum())


def test_the_c_steps_are_the_projections_and_their_budgets_may_be_traced():
    weights = {"a": jax.random.normal(jax.random.key(0), (6, 8)), "bias": optax.MaskedNode()}
    for budget, build, project in (
        (
            12,
            lambda b: units(b, cost="parameters"),
            lambda w, b: project_units(w, b, cost="parameters"),
        ),
        (3, lambda b: blocks(b, (2, 4)), lambda w, b: project_blocks(w, b, (2, 4))),
    ):

        @jax.jit
        def project_to(budget, build=build):
            return build(budget).project(weights, 0.5, build(budget).init(weights))[0]["a"]

        np.testing.assert_array_equal(project_to(budget), project(weights["a"], budget))
        assert not jnp.any(project_to(0))


@pytest.mark.parametrize("kind", ["units", "blocks"])
def test_learning_compression_ends_in_the_structure(kind):
    keys = jax.random.split(jax.random.key(0))
    target = {"a": jax.random.normal(keys[0], (4, 6)), "b": jax.random.normal(keys[1], (6, 4))}
    # The cost tree is that of the parameters, biases included.
    step = units(30, cost={"a": 4, "b": 6, "bias": 1}) if kind == "units" else blocks(4, (2, 2))
    params = jax.tree.map(jnp.zeros_like, {**target, "bias": jnp.ones(4)})
    chain = optax.chain(
        sparsejax.learning_compression(step, lambda n: 0.1 * 2.0**n, 5), optax.sgd(0.1)
    )
    state = chain.init(params)

    @jax.jit
    def descend(params, state):
        loss = lambda p: sum(((p[name] - target[name]) ** 2).sum() for name in target)  # noqa: E731
        updates, state = chain.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(20):
        params, state = descend(params, state)
    theta = sparsejax.compressed_params(state, params)
    if kind == "units":
        assert 0 < 4 * live(theta["a"]) + 6 * live(theta["b"]) <= 30
    else:
        tiles = [theta[name].reshape(-1, 2, theta[name].shape[1] // 2, 2) for name in target]
        assert sum(int(jnp.any(tile != 0, axis=(1, 3)).sum()) for tile in tiles) == 4


def test_what_does_not_fit_the_weights_is_named():
    weights = {"a": jnp.ones((6, 8))}
    with pytest.raises(ValueError, match="budget must be an integer from 0 to 8; got 9"):
        units(9).init(weights)
    with pytest.raises(ValueError, match="budget must be an integer >= 0; got -1"):
        units(-1)
    with pytest.raises(ValueError, match="got axis 2"):
        units(1, axis=2).init(weights)
    with pytest.raises(ValueError, match="kappa must be an integer from 0 to 6; got 7"):
        blocks(7, (2, 4)).init(weights)
    with pytest.raises(ValueError, match=r"block must be a pair .*got \(0, 4\)"):
        blocks(1, (0, 4)).init(weights)
    with pytest.raises(ValueError, match="it has NaN in 48 of the 48 entries"):
        blocks(1, (2, 4)).init({"a": jnp.full((6, 8), jnp.nan)})
