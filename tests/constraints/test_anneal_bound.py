import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.constraints import (
    Implicit,
    anneal_bound,
    constrained_step,
    current_multipliers,
    descent_ascent,
    dual_ascent,
    implicit_multipliers,
    nupi,
)
from sparsejax.training import init_state
from tests.reference import shard

G = {"a": np.array([0.5, -0.2, 0.0], np.float32), "b": np.float32(-3.0)}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_subtracts_the_amount_from_every_violation(jit, dtype):
    violation = jax.tree.map(lambda g: jnp.asarray(g, dtype), G)
    transform = anneal_bound(0.3)
    update = jax.jit(transform.update) if jit else transform.update
    got, state = update(violation, transform.init(violation), violation)
    assert int(state.step) == 1
    for leaf, g in zip(jax.tree.leaves(got), jax.tree.leaves(violation), strict=True):
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, np.asarray(g).astype(np.float64) - 0.3, rtol=1e-6)


def test_a_schedule_counts_updates():
    transform = anneal_bound(optax.linear_schedule(1.0, -0.5, 3))
    state, seen = transform.init(0.0), []
    for _ in range(5):
        got, state = transform.update(jnp.float32(0.0), state)
        seen.append(float(got))
    np.testing.assert_allclose(seen, [-1.0, -0.5, 0.0, 0.5, 0.5], atol=1e-6)


def test_a_traced_amount_compiles_once():
    traces = []

    @jax.jit
    def loosened(bound, g):
        traces.append(bound)
        transform = anneal_bound(bound)
        return transform.update(g, transform.init(g))[0]

    for bound in (0.1, 0.2):
        np.testing.assert_allclose(loosened(bound, jnp.float32(1.0)), 1 - bound, rtol=1e-6)
    assert len(traces) == 1
    batch = jax.vmap(loosened)(jnp.array([0.5, 0.25]), jnp.ones(2))
    np.testing.assert_allclose(batch, [0.5, 0.75])


def test_before_dual_ascent_it_moves_the_constraint():
    """Restarts, too: the multiplier is let go as soon as the slackened constraint holds."""
    for g, expected in ((0.35, 1.0 + 0.1 * (0.35 - 0.3)), (0.25, 0.0)):
        dual = optax.chain(anneal_bound(0.3), dual_ascent(0.1))
        lam = jnp.asarray(1.0)
        updates, _ = dual.update(jnp.float32(g), dual.init(lam), lam)
        np.testing.assert_allclose(optax.apply_updates(lam, updates), expected, rtol=1e-6)


def test_the_violations_of_a_model_are_shifted_and_not_its_features():
    """lambda_i = phi_i, so phi moves by g - b; features may be integers, too."""
    dual = optax.chain(anneal_bound(0.25), implicit_multipliers(optax.sgd(1.0)))
    phi = jnp.ones(2)
    for model, features in (
        (lambda phi, z: z @ phi, jnp.eye(2)),
        (lambda phi, z: phi[z], jnp.arange(2)),
    ):
        seen = Implicit(model, features, jnp.array([1.0, 2.0]))
        updates, _ = dual.update(seen, dual.init(phi), phi)
        np.testing.assert_array_equal(updates, [0.75, 1.75])


def test_a_margin_ends_inside_a_constraint():
    """min (x - 2)^2 with x <= 1 and a margin of 0.1: x ends at 0.9."""
    dual = optax.chain(anneal_bound(-0.1), nupi(0.05, 1.0))
    optimizer = descent_ascent(optax.sgd(0.05), dual)
    step = constrained_step(
        lambda x, batch, key: ((x - 2) ** 2, {}), lambda x, batch, key: x - 1, optimizer
    )
    state = init_state(jnp.float32(0.0), optimizer, jax.random.key(0))
    state, _ = jax.lax.scan(lambda s, _: (step(s, {})[0], None), state, length=2000)
    np.testing.assert_allclose(state.params, 0.9, atol=1e-4)
    np.testing.assert_allclose(current_multipliers(state.opt_state), 2.2, atol=1e-3)


def test_sharded_violations_stay_so():
    violation = shard(np.linspace(-1, 1, 64, dtype=np.float32), "a")
    transform = anneal_bound(0.25)
    got, _ = jax.jit(transform.update)(violation, transform.init(violation))
    assert got.sharding.is_equivalent_to(violation.sharding, 1)
    np.testing.assert_allclose(got, np.linspace(-1, 1, 64) - 0.25, atol=1e-6)


@pytest.mark.parametrize("bound", [np.nan, np.inf])
def test_a_bad_amount_is_named(bound):
    with pytest.raises(ValueError, match="bound must be a finite number; got"):
        anneal_bound(bound)
