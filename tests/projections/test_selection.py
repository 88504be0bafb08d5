"""Both forms of a selection, on one platform, against a stable sort of 10,000 small trees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.projections import _selection, project_l0_ball
from sparsejax.projections._l0_ball import _keep_largest
from sparsejax.projections._shards import Layout

CASES = 5000  # of each choice of dtypes
SHAPES = [(3, 4), (5,), (2, 3)]
AWKWARD = [0.0, -0.0, 1.0, -1.0, 2.0, -3.5, np.inf, -np.inf, 1e-40, -1e-40, 2e-45, 6e-8, 65504.0]
LAYOUTS = tuple(Layout(((),) * len(shape)) for shape in SHAPES)


def bits(leaves):
    return [np.asarray(leaf).view(f"u{leaf.dtype.itemsize}") for leaf in leaves]


@functools.cache
def cases(dtypes):
    """Trees with ties everywhere, or with few, a kappa for each, and their projections."""
    rng = np.random.default_rng(0)
    leaves = []
    for shape, dtype in zip(SHAPES, dtypes, strict=True):
        tied = rng.choice(AWKWARD, (CASES, *shape))
        random = rng.normal(size=(CASES, *shape)) * 10.0 ** rng.integers(-42, 3, (CASES, *shape))
        often = rng.random((CASES, *[1] * len(shape))) < 0.7
        leaves.append(jnp.asarray(np.where(often, tied, random).astype(np.float32), dtype))
    flat = np.concatenate([np.asarray(leaf, np.float64).reshape(CASES, -1) for leaf in leaves], 1)
    kappas = rng.integers(0, flat.shape[1] + 1, CASES)
    order = np.argsort(-np.abs(flat), axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable")
    # A zero that is kept and one that is set to zero are the same but for the sign.
    kept = (ranks < kappas[:, None]) | (flat == 0)
    splits = np.split(kept, np.cumsum([np.prod(shape) for shape in SHAPES])[:-1], axis=1)
    masks = [mask.reshape(leaf.shape) for mask, leaf in zip(splits, leaves, strict=True)]
    return leaves, jnp.asarray(kappas, jnp.int32), masks


@pytest.mark.parametrize(
    ("dtypes", "sampled_from"),  # a sample is one of keys, whatever the dtype
    [
        (("float32",) * 3, 0),
        (("float32",) * 3, 2**21),
        (("bfloat16", "float32", "bfloat16"), 2**21),
    ],
)
@pytest.mark.parametrize("form", [_selection.CPU_FORM, _selection.ACCELERATOR_FORM])
def test_all_forms_give_the_bits_of_a_sort(form, dtypes, sampled_from):
    leaves, kappas, masks = cases(dtypes)
    form = form._replace(sampled_from=sampled_from)

    @jax.jit
    @jax.vmap
    def project(leaves, kappa):
        return _keep_largest(leaves, LAYOUTS, kappa, None, (form, form))[0]

    found = project(leaves, kappas)
    for ours, given, mask in zip(bits(found), bits(leaves), masks, strict=True):
        sign = np.array(1 << (8 * given.itemsize - 1), given.dtype)
        expected = np.where(mask, given, 0)
        zero = (given & ~sign) == 0
        np.testing.assert_array_equal(
            ours & ~np.where(zero, sign, 0), expected & ~np.where(zero, sign, 0)
        )


def test_a_program_holds_the_form_of_its_platform_alone():
    """The number of operands of the counting reductions tells the forms apart."""
    traced = jax.jit(project_l0_ball).trace(jnp.zeros((8, 8)), 3)
    found = {}
    for platform in ("cpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found[platform] = {n for n in (7, 15) if f"tensor<{n}xi32>" in text}
    assert found == {"cpu": {7}, "cuda": {15}}
