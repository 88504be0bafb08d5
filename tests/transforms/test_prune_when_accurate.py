import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.reference import shard, top_kappa

RNG = np.random.default_rng(0)
PARAMS = {"a": RNG.normal(size=(10, 8)), "b": RNG.normal(size=(8, 6)), "bias": RNG.normal(size=6)}
EVERYTHING = lambda path, leaf: True  # noqa: E731


def cast(tree, dtype=jnp.float32):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


@pytest.mark.long
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("where", [None, EVERYTHING])
def test_prunes_exactly_the_smallest_survivors_while_it_is_accurate(jit, dtype, where):
    pruner = sparsejax.prune_when_accurate(0.3, 0.9, where)
    update = jax.jit(pruner.update) if jit else pruner.update
    params = cast(PARAMS, dtype)
    chosen = [leaf for name, leaf in params.items() if where or name != "bias"]
    state, left = pruner.init(params), sum(leaf.size for leaf in chosen)
    assert int(state.remaining) == left
    for number, accuracy in enumerate([0.95, 0.9, 0.91, 0.2, 0.99]):
        if accuracy > 0.9:
            left -= math.ceil(np.float32(0.3) * np.float32(left))
        params, state = update(state, params, accuracy)
        assert int(state.remaining) == left
        assert int(state.prunings) == [1, 1, 2, 2, 3][number]
        assert int(state.evaluations_since_pruning) == [0, 1, 0, 1, 0][number]
        wanted = top_kappa([np.asarray(leaf).astype(np.float64) for leaf in chosen], left)
        kept = [leaf for name, leaf in params.items() if where or name != "bias"]
        got = np.concatenate([np.asarray(leaf).astype(np.float64).ravel() for leaf in kept])
        np.testing.assert_array_equal(got, wanted)
        mask = np.concatenate([np.asarray(m).ravel() for m in jax.tree.leaves(state.mask)])
        np.testing.assert_array_equal(mask, got != 0)
    if not where:
        np.testing.assert_array_equal(params["bias"], cast(PARAMS, dtype)["bias"])


def test_the_pruned_stay_out_even_if_they_moved_and_zeros_that_survive_count():
    pruner = sparsejax.prune_when_accurate(0.5, 0.0)
    params, state = pruner.update(
        pruner.init(jnp.array([[1.0, 2.0, 3.0, 4.0]])), jnp.array([[1.0, 2.0, 3.0, 4.0]]), 1.0
    )
    np.testing.assert_array_equal(params, [[0, 0, 3, 4]])
    moved = jnp.array([[9.0, 9.0, 0.0, 0.0]])  # the first two are pruned, the others happen to be 0
    params, state = pruner.update(state, moved, 0.0)
    np.testing.assert_array_equal(params, [[0, 0, 0, 0]])
    assert int(state.remaining) == 2
    _, state = pruner.update(state, moved, 1.0)
    np.testing.assert_array_equal(state.mask, [[False, False, True, False]])


@pytest.mark.parametrize("jit", [False, True])
def test_ends_at_the_number_that_is_to_stay(jit):
    def update(state, params, least):
        pruner = sparsejax.prune_when_accurate(0.5, 0.5, EVERYTHING, min_weights=least)
        return pruner.update(state, params, 1.0)

    update = jax.jit(update) if jit else update
    params = cast(PARAMS)
    state = sparsejax.prune_when_accurate(0.5, 0.5, EVERYTHING).init(params)
    seen = []
    for least in (50, 50, 50, 47, 200):
        params, state = update(state, params, least)
        seen.append(
            [int(n) for n in (state.remaining, state.prunings, state.evaluations_since_pruning)]
        )
    assert seen == [[67, 1, 0], [50, 2, 0], [50, 2, 1], [47, 3, 0], [47, 3, 1]]
    assert sum(int((leaf != 0).sum()) for leaf in params.values()) == 47


def test_vmapped_sharded_and_traced_it_is_the_same():
    params = cast({"a": PARAMS["a"][:8], "b": PARAMS["b"][:, :4]})
    traces = []

    @jax.jit
    def prune(params, fraction, bound, accuracy):
        traces.append(fraction)
        pruner = sparsejax.prune_when_accurate(fraction, bound)
        return pruner.update(pruner.init(params), params, accuracy)

    wanted, state = prune(params, 0.25, 0.5, 0.6)
    assert int(state.remaining) == 72
    cut = jax.tree.map(lambda leaf: shard(leaf, "a", "b"), params)
    got, _ = prune(cut, 0.25, 0.5, 0.6)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert got["a"].sharding.is_equivalent_to(cut["a"].sharding, 2)
    same, state = prune(params, 0.1, 0.7, 0.6)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert len(traces) == 2  # one of them for the sharded parameters
    several, states = jax.vmap(prune, in_axes=(None, None, None, 0))(
        params, 0.25, 0.5, jnp.array([0.4, 0.6, np.nan])
    )
    np.testing.assert_array_equal(states.remaining, [96, 72, 96])
    np.testing.assert_array_equal(several["a"][1], wanted["a"])


def test_works_with_hold_zeros_in_a_loop_that_is_compiled_once():
    pruner = sparsejax.prune_when_accurate(0.2, 0.5)
    params = cast(PARAMS)
    optimizer = optax.chain(
        sparsejax.gated_weight_decay(1e-2), optax.adam(0.1),
        sparsejax.hold_zeros(pruner.init(params).mask),
    )  # fmt: skip

    @jax.jit
    def run(params):
        def step(carry, number):
            params, opt_state, pruning = carry
            updates, opt_state = optimizer.update(params, opt_state, params)
            params = optax.apply_updates(params, updates)
            params, pruning = pruner.update(pruning, params, number % 2)
            opt_state = sparsejax.transforms.set_mask(opt_state, pruning.mask)
            return (params, opt_state, pruning), pruning.remaining

        carry = (params, optimizer.init(params), pruner.init(params))
        return jax.lax.scan(step, carry, jnp.arange(10) / 1.0)

    (params, _, state), remaining = run(params)
    assert int(state.prunings) == 5
    zeros = sum(int((params[name] == 0).sum()) for name in ("a", "b"))
    assert zeros == 128 - int(remaining[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.9), r"fraction must be in \(0, 1\); got 0"),
        ((1.0, 0.9), r"fraction must be in \(0, 1\); got 1"),
        ((np.nan, 0.9), r"fraction must be in \(0, 1\); got nan"),
        ((0.1, 98.7), r"lower_bound must be a fraction in \[0, 1\], not in per cent; got 98.7"),
        ((0.1, -0.1), r"lower_bound must be a fraction in \[0, 1\]"),
        ((0.1, 0.9, None, -1), "min_weights must be an integer >= 0; got -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparsejax.prune_when_accurate(*arguments)


@pytest.mark.parametrize("accuracy", [np.nan, 99.0, -0.5, jnp.ones(2)])
def test_a_bad_accuracy_is_named(accuracy):
    pruner = sparsejax.prune_when_accurate(0.1, 0.5)
    with pytest.raises(ValueError, match=r"accuracy must be a fraction in \[0, 1\]"):
        pruner.update(pruner.init(cast(PARAMS)), cast(PARAMS), accuracy)


def test_arguments_in_another_order_are_named():
    pruner = sparsejax.prune_when_accurate(0.1, 0.5)
    with pytest.raises(TypeError, match=r"update\(state, params, accuracy\); got dict"):
        pruner.update(cast(PARAMS), pruner.init(cast(PARAMS)), 0.9)
