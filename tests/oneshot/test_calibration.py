"""Kernels read as matrices, and the table of a calibration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.oneshot import Calibration, KernelInputs, KernelLayout

SHAPE = (2, 3, 4, 5)
LAYOUTS = [
    KernelLayout(SHAPE, order[:i], order[i:j], order[j:])
    for order in itertools.permutations(range(4))
    for i, j in itertools.combinations_with_replacement(range(5), 2)
]


@pytest.mark.parametrize("array", [np.arange(120.0).reshape(SHAPE), jnp.arange(120).reshape(SHAPE)])
def test_matrices_and_back(array):
    for layout in LAYOUTS if isinstance(array, np.ndarray) else LAYOUTS[::37]:
        matrices = layout.matrices(array)
        assert type(matrices) is type(array) or isinstance(matrices, jax.Array)
        assert matrices.shape == (layout.batch, layout.outputs, layout.inputs)
        np.testing.assert_array_equal(layout.kernel(matrices), array)


def test_a_matrix_times_its_inputs_is_the_contraction():
    kernel = np.random.default_rng(0).normal(size=SHAPE)
    x = np.random.default_rng(1).normal(size=(2, 5, 3))
    matrices = KernelLayout(SHAPE, (0,), (2,), (3, 1)).matrices(kernel)
    expected = np.einsum("ehoi,eih->eo", kernel, x)
    np.testing.assert_allclose(np.einsum("eok,ek->eo", matrices, x.reshape(2, 15)), expected)


def test_axes_are_kept_apart():
    layout = KernelLayout((7, 5), (), (1,), (0,))
    kernel = np.arange(35).reshape(7, 5)
    np.testing.assert_array_equal(layout.matrices(kernel)[0], kernel.T)
    assert (layout.batch, layout.outputs, layout.inputs) == (1, 5, 7)
    assert hash(layout) == hash(KernelLayout((7, 5), (), (1,), (0,)))


def calibration():
    gram = KernelInputs(jnp.eye(3)[None], jnp.array([8.0]))
    layers = KernelInputs(jnp.ones((2, 3, 3)), jnp.array([8.0, 10.0]))
    layouts = {
        "first/kernel": KernelLayout((3, 4), (), (1,), (0,)),
        "layers/kernel": KernelLayout((2, 3, 5), (0,), (2,), (1,)),
    }
    inputs = {"first/kernel": gram, "layers/kernel": layers}
    return Calibration(inputs, layouts, {"embedding": "only gather reads it"})


def test_a_calibration_is_a_pytree_of_its_arrays():
    one = calibration()
    assert len(jax.tree.leaves(one)) == 4
    twice = jax.jit(lambda c: jax.tree.map(lambda x: 2 * x, c))(one)
    assert twice.layouts == one.layouts
    assert twice.skipped == one.skipped
    np.testing.assert_array_equal(twice.inputs["first/kernel"].gram, 2 * jnp.eye(3)[None])


def test_the_table():
    assert str(calibration()).splitlines() == [
        "kernel         matrices  outputs  inputs   rows",
        "first/kernel          1        4       3      8",
        "layers/kernel         2        5       3  8, 10",
        "embedding: skipped, since only gather reads it",
    ]
