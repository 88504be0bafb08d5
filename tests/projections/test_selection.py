"""Both forms of a selection, on one platform, against a stable sort of 10,000 small trees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sparsejax.projections import _selection, project_l0_ball
from sparsejax.projections._l0_ball import _keep_largest
from sparsejax.projections._shards import Layout
from tests.reference import equations

CASES = 5000  # of each choice of dtypes
SHAPES = [(3, 4), (5,), (2, 3)]
AWKWARD = [0.0, -0.0, 1.0, -1.0, 2.0, -3.5, np.inf, -np.inf, 1e-40, -1e-40, 2e-45, 6e-8, 65504.0]
LAYOUTS = tuple(Layout(((),) * len(shape)) for shape in SHAPES)


def bits(leaves):
    return [np.asarray(leaf).view(f"u{leaf.dtype.itemsize}") for leaf in leaves]


@functools.cache
def cases(dtypes, shapes=tuple(SHAPES)):
    """Trees with ties everywhere, or with few, a kappa for each, and their projections."""
    rng = np.random.default_rng(0)
    leaves = []
    for shape, dtype in zip(shapes, dtypes, strict=True):
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
    splits = np.split(kept, np.cumsum([np.prod(shape) for shape in shapes])[:-1], axis=1)
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

    assert_bits(project(leaves, kappas), leaves, masks)


def assert_bits(found, leaves, masks):
    for ours, given, mask in zip(bits(found), bits(leaves), masks, strict=True):
        sign = np.array(1 << (8 * given.itemsize - 1), given.dtype)
        expected = np.where(mask, given, 0)
        zero = (given & ~sign) == 0
        np.testing.assert_array_equal(
            ours & ~np.where(zero, sign, 0), expected & ~np.where(zero, sign, 0)
        )


ALIKE = ((2, 3), (5,), (2, 3), (5,), (2, 3), (2, 3), (2, 3))


def on_one_shard(function):
    """A function inside shard_map, where the compiler cuts nothing up."""
    mesh = Mesh(np.array(jax.devices()), ("i",))
    return jax.shard_map(function, mesh=mesh, in_specs=P("i"), out_specs=P("i"))


@pytest.mark.parametrize("dtypes", [("float32",) * 7, ("float32", "bfloat16") * 3 + ("float32",)])
def test_leaves_counted_together_give_the_bits_of_a_sort(dtypes):
    leaves, kappas, masks = cases(dtypes, ALIKE)
    layouts = tuple(Layout(((),) * len(shape)) for shape in ALIKE)
    form = _selection.CPU_FORM._replace(together=2)  # then one leaf is alone

    @jax.jit
    @on_one_shard
    @jax.vmap
    def project(leaves, kappa):
        return _keep_largest(leaves, layouts, kappa, None, (form, form))[0]

    assert_bits(project(leaves, kappas), leaves, masks)


def test_ties_are_cut_in_one_of_the_leaves():
    leaf, layouts = jnp.asarray([3.0, -1.0, 0.0, 1.0]), [Layout(((),))]
    for kappa, following in enumerate((0, 0, 2, 0, 0)):
        found = _selection.select([leaf], layouts, jnp.int32(kappa))
        assert (found.partial, found.following) == (0, following)


def test_leaves_of_one_shape_take_few_reductions():
    """A compiler's time is that of the reductions; three loops count the leaves."""
    leaves = [jax.ShapeDtypeStruct((8 * 6, 11), jnp.float32)] * 40
    forms = (_selection.CPU_FORM,) * 2

    @on_one_shard
    def project(leaves):
        return _keep_largest(leaves, (Layout(((), ())),) * 40, jnp.int32(3), None, forms)[0]

    names = [
        equation.primitive.name for equation in equations(jax.make_jaxpr(project)(leaves).jaxpr)
    ]
    assert names.count("reduce") == 3 * 3  # groups of at most 16


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_leaves_counted_together_are_not_copied(dtype):
    leaves = [jax.ShapeDtypeStruct((8 * 300, 200), dtype)] * 18
    project = jax.jit(on_one_shard(lambda leaves: project_l0_ball(leaves, 3)))
    planned = project.lower(leaves).compile().memory_analysis()
    assert planned.temp_size_in_bytes < 0.02 * planned.argument_size_in_bytes


def test_a_program_holds_the_form_of_its_platform_alone():
    """The number of operands of the counting reductions tells the forms apart."""
    traced = jax.jit(project_l0_ball).trace(jnp.zeros((8, 8)), 3)
    found = {}
    for platform in ("cpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found[platform] = {n for n in (7, 15) if f"tensor<{n}xi32>" in text}
    assert found == {"cpu": {7}, "cuda": {15}}
