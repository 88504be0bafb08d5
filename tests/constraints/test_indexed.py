"""Constraints of which a batch shows some, and those with the gradient of a surrogate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.constraints import (
    Indexed,
    constrained_step,
    current_multipliers,
    descent_ascent,
    dual_ascent,
    indexed,
    nupi,
    with_surrogate,
)
from sparsejax.constraints._shown_terms import shown_terms
from sparsejax.training import init_state


@pytest.mark.parametrize(
    "dual",
    [
        dual_ascent(0.1),
        dual_ascent(0.1, restarts=False),
        nupi(0.1, 0.5, 0.5, initial_average="zero"),
    ],
)
def test_each_multiplier_is_updated_when_it_is_shown(dual):
    """As if each had an optimizer of its own that sees its batches only."""
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.uniform(size=6), jnp.float32)
    together = indexed(dual)
    state, multipliers = together.init(start), start
    alone = [(m, dual.init(m)) for m in start]
    for _ in range(12):
        chosen = rng.permutation(6)[:3]
        values = jnp.asarray(rng.normal(size=3), jnp.float32)
        updates, state = jax.jit(together.update)(Indexed(chosen, values), state, multipliers)
        multipliers = optax.apply_updates(multipliers, updates)
        for i, g in zip(chosen, values, strict=True):
            m, own = alone[i]
            updates, own = dual.update(g, own, m)
            alone[i] = optax.apply_updates(m, updates), own
    np.testing.assert_allclose(multipliers, jnp.stack([m for m, _ in alone]), rtol=1e-5, atol=1e-6)


def test_trees_with_both_kinds_and_repeated_constraints():
    dual = indexed(dual_ascent(1.0, restarts=False))
    multipliers = {"all": jnp.ones(2), "some": jnp.zeros(3)}
    violation = {
        "all": jnp.asarray([1.0, -3.0]),
        "some": Indexed(jnp.asarray([2, 0, 2]), jnp.asarray([1.0, 0.5, 2.0])),
    }
    updates, _ = dual.update(violation, dual.init(multipliers), multipliers)
    new = optax.apply_updates(multipliers, updates)
    np.testing.assert_array_equal(new["all"], [2, 0])
    np.testing.assert_array_equal(new["some"], [0.5, 0, 1.5])


def test_one_constraint_for_each_example():
    """min sum (x - t)^2 / 2  s.t.  x_i <= c_i : the multiplier of i is max(0, t_i - c_i)."""
    rng = np.random.default_rng(1)
    target, bound = rng.normal(size=(2, 8))
    with jax.enable_x64(True):
        optimizer = descent_ascent(
            optax.sgd(0.2), indexed(dual_ascent(0.2, restarts=False)), jnp.zeros(8)
        )
        batches = jnp.asarray(np.stack([rng.permutation(8)[:4] for _ in range(4000)]))

        def loss(x, rows, key):
            return ((x - jnp.asarray(target))[rows] ** 2).sum() / 2, {}

        def constraint(x, rows, key):
            return Indexed(rows, (x - jnp.asarray(bound))[rows])

        step = constrained_step(loss, constraint, optimizer)
        state = init_state(jnp.zeros(8), optimizer, jax.random.key(0))
        state, metrics = jax.jit(lambda s: jax.lax.scan(step, s, batches))(state)
        np.testing.assert_allclose(state.params, np.minimum(target, bound), atol=1e-7)
        wanted = np.maximum(0, target - bound)
        np.testing.assert_allclose(current_multipliers(state.opt_state), wanted, atol=1e-7)
        assert metrics["violation"].shape == (4000,)


def test_values_of_the_violation_and_gradients_of_the_surrogate():
    """An error rate that a hinge stands in for: the multiplier grows by the rate."""
    x = jnp.asarray([0.5, -1.0, 2.0])

    def both(x):
        return with_surrogate((x < 0).mean(), jax.nn.relu(1 - x).mean())

    value, slope = jax.jit(jax.value_and_grad(both))(x)
    assert value == (x < 0).mean()
    np.testing.assert_allclose(slope, [-1 / 3, -1 / 3, 0])
    with pytest.raises(ValueError, match="violation must have the structure of the multipliers"):
        with_surrogate({"a": x}, x)


def test_a_count_has_the_gradient_of_its_surrogate():
    def both(x):
        return with_surrogate((x > 0).sum() - 1, jax.nn.sigmoid(x).sum() - 1)

    x = jnp.array([1.0, -2.0, 3.0])
    value, slope = jax.value_and_grad(both)(x)
    assert value == 1
    np.testing.assert_allclose(slope, jax.nn.sigmoid(x) * jax.nn.sigmoid(-x), rtol=1e-6)
    with pytest.raises(TypeError, match="surrogate must be floating point; got int32"):
        with_surrogate(jnp.ones(2), jnp.ones(2, jnp.int32))


def test_indices_and_values_must_fit_the_multipliers():
    dual = indexed(dual_ascent(0.1))
    state = dual.init(jnp.zeros(3))
    with pytest.raises(ValueError, match="indices must be below 3.*got 1 to 3"):
        dual.update(Indexed(jnp.array([1, 3]), jnp.ones(2)), state, jnp.zeros(3))
    with pytest.raises(ValueError, match="one index and one value for each violation"):
        dual.update(Indexed(jnp.array([1, 2]), jnp.ones(1)), state, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"for multipliers of shape \(\)"):
        dual.update(Indexed(jnp.array([1]), jnp.ones(1)), dual.init(0.0), jnp.asarray(0.0))
    with pytest.raises(ValueError, match="indices must be below 3"):
        shown_terms(Indexed(jnp.array([5]), jnp.ones(1)), jnp.zeros(3))
