"""What holds for gates of any distribution and grouping, against sampling and against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax import gates

COUNT = 4000


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    temperature=st.floats(0.1, 3),
    low=st.floats(-2, -0.01),
    high=st.floats(1.01, 3),
    log_alpha=st.floats(-6, 6),
)
def test_closed_forms_of_hard_concrete_gates_agree_with_samples(temperature, low, high, log_alpha):
    some = gates.hard_concrete(temperature, (low, high))
    phi = {"w": jnp.full(COUNT, log_alpha, jnp.float32)}
    z = np.asarray(some.sample(phi, jax.random.key(0))["w"])
    active = float(some.active_probability(phi)["w"][0])
    median = float(some.median(phi)["w"][0])
    error = 5 * 0.5 / np.sqrt(COUNT)  # five standard deviations of a fraction near one half
    assert abs((z > 0).mean() - active) < error
    assert ((z >= 0) & (z <= 1)).all()
    assert min((z <= median).mean(), (z >= median).mean()) > 0.5 - error
    assert bool(some.binarize(phi)["w"][0]) == (median > 0)
    if abs(active - 0.5) > 1e-5:
        assert (median > 0) == (active > 0.5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    beta=st.floats(0.1, 200),
    initial=st.floats(-2, 2),
    scaled=st.booleans(),
    # XLA takes subnormal numbers for zero on a CPU.
    values=st.lists(st.floats(-2, 2, width=32, allow_subnormal=False), min_size=8, max_size=8),
)
def test_sigmoid_gates_are_ordered_and_bounded(beta, initial, scaled, values):
    some = gates.sigmoid(initial, beta=beta, scaled=scaled)
    phi = {"w": jnp.asarray(sorted(values), jnp.float32)}
    divisor = 1 / (1 + np.exp(-np.float64(initial))) if scaled else 1
    active = np.asarray(some.active_probability(phi)["w"])
    assert ((active >= 0) & (active <= 1)).all()
    assert (np.diff(active) >= 0).all()
    opened = np.asarray(some.binarize(phi)["w"])
    np.testing.assert_array_equal(opened, np.sort(np.float32(values)) > 0)
    np.testing.assert_array_equal(opened | (active <= 0.5), True)
    np.testing.assert_array_equal(~opened | (active >= 0.5), True)
    np.testing.assert_allclose(some.sample(phi)["w"], active / divisor, rtol=1e-5)
    np.testing.assert_allclose(some.median(phi)["w"], opened / divisor, rtol=1e-5)


GATE_OF = {
    "per_weight": lambda index: index,
    "per_input": lambda index: index[-2],
    "per_output": lambda index: index[-1],
}


@pytest.mark.parametrize("grouping", GATE_OF)
@pytest.mark.parametrize(("shape", "stacked"), [((3, 4), 0), ((2, 5, 3, 4), 0), ((2, 3, 4), 1)])
@pytest.mark.parametrize("make", [gates.hard_concrete, gates.sigmoid])
def test_gates_multiply_what_a_loop_over_the_weights_says(make, shape, stacked, grouping):
    rng = np.random.default_rng(len(shape))
    layers = shape[:stacked]
    params = {
        "kernel": jnp.asarray(rng.normal(size=shape), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=(*layers, shape[-1])), jnp.float32),
    }
    some = make(grouping=getattr(gates, grouping), stacked_axes=stacked)
    phi = some.init(jax.random.key(0), params)
    z = jax.tree.map(
        lambda p: jnp.asarray(rng.uniform(size=p.shape), p.dtype), some.active_probability(phi)
    )
    gate_of, gate = GATE_OF[grouping], np.asarray(z["kernel"], np.float64)
    kept_axes = {"per_weight": range(stacked, len(shape)), "per_input": [len(shape) - 2]}
    kept = [*range(stacked), *kept_axes.get(grouping, [len(shape) - 1])]
    assert gate.shape == tuple(n if axis in kept else 1 for axis, n in enumerate(shape))
    gate = gate.reshape([shape[axis] for axis in kept])
    expected = {name: np.array(leaf, np.float64) for name, leaf in params.items()}
    for index in np.ndindex(*shape):
        own = gate_of(index[stacked:])
        expected["kernel"][index] *= gate[(*index[:stacked], *np.atleast_1d(own))]
    if grouping == "per_output":
        for index in np.ndindex(*expected["bias"].shape):
            expected["bias"][index] *= gate[index]
    found = gates.apply(params, z)
    for name in params:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
