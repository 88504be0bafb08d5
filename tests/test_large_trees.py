"""Trees of more than 2^31 - 1 weights: counted right or refused by name, without computing them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax import (
    _words,
    compression,
    inspection,
    learning_compression,
    projections,
    prune_when_accurate,
    tickets,
    transforms,
)
from sparsejax.inspection import _report
from sparsejax.oneshot._patterns import Pattern
from sparsejax.projections import _sums, project_l0_ball
from sparsejax.projections._shards import Layout
from sparsejax.projections._ternary import _coarse
from tests.reference import as_float64, top_kappa

everything = lambda path, leaf: True  # noqa: E731
LARGE = {"a": jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)}  # 2^31 entries in one leaf
MANY = [jax.ShapeDtypeStruct((2**15, 2**15), jnp.float32)] * 3  # 3 * 2^30 entries
SIZE = 3 * 2**30


def pair(number):
    return jnp.asarray([number >> 32, number & 0xFFFFFFFF], jnp.uint32)


def number(count):
    count = np.asarray(count, np.int64)
    return int(count) if not count.shape else int(count[0] << 32 | count[1])


@pytest.fixture
def two_words(monkeypatch):
    """Count in two words what fits in one."""
    monkeypatch.setattr(_words, "_ONE_WORD", 0)


@pytest.mark.parametrize("kind", ["normal", "tied"])
def test_a_search_with_two_words_gives_the_same_bits(kind, two_words):
    leaves = [jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(30, 4), (50,)])]
    if kind == "tied":
        leaves = [jnp.round(2 * leaf) for leaf in leaves]
    project = jax.jit(lambda tree, kappa: project_l0_ball(tree, kappa, everything))
    for kappa in (0, 1, 60, 119, 170):
        for given in (kappa, pair(kappa)):
            np.testing.assert_array_equal(
                as_float64(project(leaves, given)), top_kappa(leaves, kappa)
            )


def test_eight_billion_sharded_weights_compile_without_a_gather():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    sharding = NamedSharding(mesh, PartitionSpec("a", "b"))
    leaf = jax.ShapeDtypeStruct((2**15, 2**15), jnp.bfloat16, sharding=sharding)
    tree = [leaf] * 8
    project = jax.jit(lambda tree: project_l0_ball(tree, 5_000_000_000, everything))
    compiled = project.lower(tree).compile()
    text = compiled.as_text()
    assert "all-reduce" in text
    assert not any(op in text for op in ("all-gather", "all-to-all", "collective-permute"))
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 0.01 * memory.argument_size_in_bytes
    assert [out.shape for out in jax.eval_shape(project, tree)] == [leaf.shape] * 8


def _as_mask(tree):
    return jax.tree.map(lambda leaf: leaf != 0, tree)


NEEDS_SMALL_LEAVES = {
    "l0_ball": lambda tree: project_l0_ball(tree, 5, everything),
    "top_k_mask": lambda tree: projections.top_k_mask(tree, 5, where=everything),
    "binary": lambda tree: projections.project_binary(tree, everything, scaled=True),
    "ternary": lambda tree: projections.project_ternary(tree, everything, scaled=True),
    "k_means": lambda tree: projections.project_k_means(tree, 2, everything, exact=False),
    "project_sparsity": lambda tree: transforms.project_sparsity(tree, 0.5, where=everything),
    "num_nonzero": lambda tree: tickets.num_nonzero(_as_mask(tree)),
}


@pytest.mark.parametrize("name", NEEDS_SMALL_LEAVES)
def test_a_leaf_that_is_too_large_is_named(name):
    with pytest.raises(ValueError, match=r"at most 2147483647 entries; \['a'\] has 2147483648. Sp"):
        jax.eval_shape(NEEDS_SMALL_LEAVES[name], LARGE)


ANY_LEAVES = {
    "units": lambda tree: projections.project_units(tree, 5),
    "blocks": lambda tree: projections.project_blocks(tree, 5, (4, 4)),
    "n_m": lambda tree: projections.project_n_m(tree, 2, 4),
    "soft": lambda tree: projections.soft_threshold(tree, 0.1),
    "codebook": lambda tree: projections.project_codebook(tree, jnp.arange(3.0)),
    "binary": lambda tree: projections.project_binary(tree, everything),
}


@pytest.mark.parametrize("name", ANY_LEAVES)
def test_projections_that_count_no_entries_take_any_leaf(name):
    found = jax.eval_shape(ANY_LEAVES[name], {"kernel": LARGE["a"]})
    assert found["kernel"].shape == LARGE["a"].shape


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda t: projections.project_l1_ball(t, 1.0, everything),
         f"tree must have at most 2147483647 chosen entries; it has {SIZE}"),
        (lambda t: projections.project_k_means(t, 2, everything),
         f"at most 1073741824 chosen entries for exact=True.*it has {SIZE}. Pass exact=False"),
        (lambda t: projections.project_blocks(t, 5, (1, 1), everything),
         f"cost of all groups must be at most 2147483647; it is {SIZE}"),
        (lambda t: transforms.project_sparsity(t, jnp.max(t[0]), where=everything),
         f"sparsity must be known for more than 2147483647 .* got a traced one for {SIZE}"),
    ],
)  # fmt: skip
def test_what_counts_in_one_word_refuses_more(refused, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(refused, MANY)


def test_matrices_that_are_too_large_are_named():
    Pattern("row").check("kernel", 2**16, 2**15)
    with pytest.raises(ValueError, match="at most 2147483647 weights .* kernel has 65536 outputs"):
        Pattern("global").check("kernel", 2**16, 2**15)


def test_sums_do_not_stop_growing():
    leaf = jnp.ones(2**18).at[0].set(2**24)  # to which a float32 adds no ones
    found = projections.project_binary([leaf], everything, scaled=True)[0][0]
    np.testing.assert_allclose(found, 2**6 + 1, rtol=1e-4)
    equal = jnp.full(2**18, 2.0**-6 * (1 + 2**-7))  # the least magnitude of its bucket
    counts, totals = _coarse([equal], [Layout(((),))])
    assert counts.max() == 2**18
    assert totals.max() == 2**12 * (1 + 2**-7)


def test_counts_in_floating_point_give_the_same_values(monkeypatch):
    tree = [jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(33, 7), (41,)])]

    def values(tree):
        ternary = projections.project_ternary(tree, everything, scaled=True)
        means = [
            projections.project_k_means(tree, k, everything, exact=False, with_codebook=True)[1]
            for k in (3, 9)
        ]
        return [*ternary, *means]

    exact = values(tree)
    monkeypatch.setattr(_sums, "_INT32", 100)
    for found, wanted in zip(values([leaf.T for leaf in tree]), exact, strict=True):
        np.testing.assert_allclose(np.sort(found, None), np.sort(wanted, None), rtol=1e-6)


def test_masks_are_counted_in_pairs(two_words):
    params = {"kernel": jax.random.normal(jax.random.key(0), (30, 20))}
    mask = jax.tree.map(lambda leaf: leaf > 0, params)
    exact = int(mask["kernel"].sum())
    assert number(tickets.num_nonzero(mask)) == exact
    assert tickets.num_nonzero(mask).shape == (2,)
    assert float(tickets.jaccard(mask, tickets.ones_mask(params))) == np.float32(exact / 600)
    method = tickets.magnitude_pruning(0.3)
    found = jax.jit(method.mask)({"weights": params}, mask, jax.random.key(0))
    assert int(found["kernel"].sum()) == exact - np.ceil(np.float32(0.3) * exact)
    pruner = prune_when_accurate(0.3, 0.5, None, 150)
    state, left = pruner.init(params), 600
    update = jax.jit(pruner.update)
    for accuracy in (0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9):
        params, state = update(state, params, accuracy)
        left = max(150, left - int(np.ceil(np.float32(0.3) * left))) if accuracy > 0.5 else left
        assert number(state.remaining) == left == int(state.mask["kernel"].sum())
    assert int(state.prunings) == 4


@pytest.mark.parametrize(
    "method",
    [
        transforms.magnitude_pruning(0.2, transforms.polynomial(0, 4, every=2)),
        transforms.rigl(0.2, 9, every=2, distribution=transforms.all_together()),
        transforms.static_sparse(0.2, transforms.all_together()),
    ],
)
def test_methods_keep_more_than_an_int32_counts(method, two_words):
    """The budget is that of 3 * 2^30 weights; the program for them is traced, not run."""
    optimizer = transforms.sparsify(optax.sgd(0.1), method, where=everything)
    state = jax.eval_shape(optimizer.init, MANY)
    updates, _ = jax.eval_shape(optimizer.update, MANY, state, MANY)
    assert [update.shape for update in updates] == [leaf.shape for leaf in MANY]
    small = [jax.random.normal(jax.random.key(i), (10, 10)) for i in range(3)]
    state = optimizer.init(small)
    for _ in range(5):
        _, state = optimizer.update(small, state, small)
    assert int(sum(mask.sum() for mask in state.mask)) == 240


def test_budgets_and_c_steps_beyond_an_int32():
    assert transforms.kept_weights(10**11 + 1, 0.1) == 90_000_000_001
    kappa = 5 * SIZE // 6
    shapes = jax.eval_shape(lambda tree: tickets.num_nonzero(_as_mask(tree)), MANY)
    assert shapes.shape == (2,)
    assert shapes.dtype == jnp.uint32
    for c_step in (compression.l0_ball(kappa), compression.l0_ball_l2(kappa, 0.1)):
        optimizer = learning_compression(c_step, lambda n: 0.1, 2, where=everything)
        state = jax.eval_shape(optimizer.init, MANY)
        updates, _ = jax.eval_shape(optimizer.update, MANY, state, MANY)
        assert updates[0].shape == MANY[0].shape
        traced = jax.eval_shape(
            lambda w, kappa: compression.l0_ball(kappa).init(w), MANY, pair(kappa)
        )
        assert traced.threshold.shape == ()
    with pytest.raises(ValueError, match=re.escape(f"kappa must be an integer from 0 to {SIZE}")):
        jax.eval_shape(compression.l0_ball(SIZE + 1).init, MANY)


def test_a_report_adds_up_rows(monkeypatch):
    tree = {"kernel": jnp.ones((7, 5)).at[2, 1:3].set(0)}
    monkeypatch.setattr(_report, "_INT32", 10)
    assert inspection.report(tree).nonzeros == 33
    with pytest.raises(ValueError, match=r"of \['kernel'\] has 11"):
        inspection.report({"kernel": jnp.ones((2, 11))})
