"""Every public function of the room under each setting of JAX that users switch on."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sparsejax import constraints
from sparsejax.constraints import GateGroup
from sparsejax.training import init_state

TARGETS = {"k": 0.3, "b": 0.4}


def activity(params):
    return {name: GateGroup(jax.nn.sigmoid(leaf.ravel()), 3, 2) for name, leaf in params.items()}


def violation(params, batch, key):
    return constraints.density_violation(activity(params), TARGETS)


def squares(params, batch, key):
    wide = [(leaf.astype(batch.dtype) ** 2).sum() for leaf in params.values()]
    return sum(wide) + batch.sum(), {"density": constraints.expected_density(activity(params))}


def duals():
    yield constraints.dual_ascent(0.1)
    yield constraints.dual_ascent(optax.constant_schedule(0.1), equality=True)
    closing = constraints.anneal_bound(optax.linear_schedule(0.5, -0.1, 3))
    yield optax.chain(closing, constraints.nupi(0.1, 1.0, 0.5))


def train(dtype, key, shard=lambda leaf: leaf):
    """The losses and multipliers of a few steps with each dual optimizer and Lagrangian."""
    start = {"k": shard(jnp.ones((8, 4), dtype)), "b": shard(jnp.zeros(8, dtype))}
    batch = jnp.ones(3, dtype if dtype != jnp.bfloat16 else jnp.float32)
    found = []
    for dual in duals():
        for form in (
            constraints.lagrangian,
            functools.partial(constraints.augmented_lagrangian, penalty=2.0),
        ):
            optimizer = constraints.descent_ascent(optax.sgd(0.1), dual, {"k": 0.5, "b": 0.5})
            step = jax.jit(constraints.constrained_step(squares, violation, optimizer, form))
            state = init_state(start, optimizer, key)
            for _ in range(2):
                state, metrics = step(state, batch)
            assert all(state.params[name].dtype == dtype for name in start)
            found.append([metrics["loss"], metrics["lagrangian"]])
            found.append(jax.tree.leaves(constraints.current_multipliers(state.opt_state)))
    probability = {"k": jnp.full((8, 1), 0.5, dtype), "b": optax.MaskedNode()}
    groups = constraints.gate_groups(start, probability)
    found.append([constraints.expected_density(groups)] * 2)
    return np.array(found, np.float64)


@functools.cache
def reference():
    return train(jnp.float32, jax.random.key(0))


def strict():
    return jax.numpy_dtype_promotion("strict")


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "dtype", "make_key"),
    [
        ([strict, lambda: jax.debug_nans(True)], "float32", jax.random.PRNGKey),
        ([strict], "bfloat16", jax.random.key),
        ([lambda: jax.enable_x64(True), strict], "float32", jax.random.PRNGKey),
        ([lambda: jax.enable_x64(True), strict], "float64", jax.random.key),
    ],
    ids=["strict debug_nans", "strict bfloat16", "x64 strict", "x64 strict float64"],
)
def test_the_numbers_do_not_depend_on_the_settings(settings, dtype, make_key):
    expected = reference()
    with contextlib.ExitStack() as stack:
        for setting in settings:
            stack.enter_context(setting())
        found = train(jnp.dtype(dtype), make_key(0))
    np.testing.assert_allclose(found, expected, rtol=0.05 if dtype == "bfloat16" else 1e-5)


def test_scalars_of_float64_stay_exact():
    """``jnp.array(0.1)`` is weakly typed, which must not make it float32."""
    with jax.enable_x64(True):
        third, tenth = jnp.array(1 / 3), jnp.array(0.1)
        for dual in (constraints.dual_ascent(0.3), constraints.nupi(0.3, 0.0)):
            updates, state = dual.update(tenth, dual.init(third), third)
            new = optax.apply_updates(third, updates)
            np.testing.assert_allclose(new, 1 / 3 + 0.3 * 0.1, rtol=1e-15)
            assert jax.tree.leaves(state)[-1].dtype != jnp.float32
        for found in (
            constraints.lagrangian(0.0, tenth, third),
            constraints.lagrangian(jnp.array(0.0), tenth, third),
        ):
            np.testing.assert_allclose(found, 0.1 / 3, rtol=1e-15)


def test_multipliers_of_bfloat16_under_strict_promotion():
    optimizer = constraints.descent_ascent(
        optax.sgd(0.1), constraints.dual_ascent(0.5), jnp.ones(2, jnp.bfloat16)
    )
    with jax.numpy_dtype_promotion("strict"):
        params = jnp.zeros(2)
        state = optimizer.init(params)
        _, state = optimizer.update(params, state, params, violation=jnp.ones(2))
    found = constraints.current_multipliers(state)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, [1.5, 1.5])


def test_on_a_mesh_of_explicit_axes():
    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Explicit,))
    cut = lambda leaf: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec("i")))  # noqa: E731
    with jax.set_mesh(mesh):
        found = train(jnp.float32, jax.random.key(0), cut)
        # The multipliers may be whole on every device, and the violations cut.
        whole = jax.device_put(jnp.ones(16), NamedSharding(mesh, PartitionSpec()))
        for dual in (constraints.dual_ascent(0.5, restarts=False), constraints.nupi(0.5, 0.0)):
            updates, _ = dual.update(cut(jnp.linspace(-1, 1, 16)), dual.init(whole), whole)
            np.testing.assert_allclose(updates, 0.5 * np.linspace(-1, 1, 16), rtol=1e-6)
    np.testing.assert_allclose(found, reference(), rtol=1e-5)
