"""Which weights dynamic sparse training drops and grows, and phases of AC/DC."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax import transforms
from sparsejax.transforms import (
    ac_dc,
    all_together,
    erdos_renyi,
    masked_params,
    rigl,
    sparsify,
    static_sparse,
)
from tests.transforms.sparse_training import gradients, nonzeros, run, start

#          kept  regrown  dropped ...          grown ...         left out
WEIGHTS = [5.0, -4.0, 3.0, -2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
GRADS = [0.2, 0.95, 0.01, 0.01, 0.01, 0.1, -0.9, 0.5, -0.3, 0.2]


def one_layer(method):
    """Ten weights of which the first five are in use, before the update number ``step``."""
    optimizer = sparsify(optax.sgd(1.0, momentum=0.5), method)
    params = {"kernel": jnp.asarray(WEIGHTS).reshape(2, 5)}
    state = optimizer.init(params)
    mask = {"kernel": jnp.arange(10).reshape(2, 5) < 5}
    trace = {"kernel": jnp.full((2, 5), 0.5)}
    inner = state.inner_state[0]._replace(trace=trace), *state.inner_state[1:]
    return optimizer, params, state._replace(mask=mask, inner_state=inner)


def test_a_step_of_rigl_by_hand():
    optimizer, params, state = one_layer(rigl(0.5, end=10, every=5, drop_fraction=0.8, begin=0))
    grads = {"kernel": jnp.asarray(GRADS).reshape(2, 5)}
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    # Of five, round(5 (1 - 0.8)) = 1 stays; four of the largest gradients join it.
    assert np.flatnonzero(state.mask["kernel"]).tolist() == [0, 1, 6, 7, 8]
    # The momentum is 0.5 * 0.5 + g for those that were in use and are, and 0 for all others.
    momentum = np.zeros(10)
    momentum[:2] = [0.45, 1.2]
    np.testing.assert_allclose(state.inner_state[0].trace["kernel"].ravel(), momentum, rtol=1e-6)
    moved = np.zeros(10)
    moved[:2] = [4.55, -5.2]
    np.testing.assert_allclose(params["kernel"].ravel(), moved, rtol=1e-6)

    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    # What was grown starts from zero, with its own gradient alone.
    np.testing.assert_allclose(params["kernel"].ravel()[5:], [0, 0.9, -0.5, 0.3, 0], rtol=1e-6)
    assert np.flatnonzero(state.mask["kernel"]).tolist() == [0, 1, 6, 7, 8]


@pytest.mark.parametrize(("step", "stay"), [(0, 1), (5, 3), (10, 5)])
def test_the_drop_fraction_is_a_cosine(step, stay):
    """f is 0.8 at the start, 0.4 halfway and 0 at the end."""
    optimizer, params, state = one_layer(rigl(0.5, end=10, every=5, drop_fraction=0.8, begin=0))
    state = state._replace(step=jnp.asarray(step, jnp.int32))
    grads = {"kernel": jnp.asarray([0.0] * 5 + [1.0] * 5).reshape(2, 5)}
    _, state = jax.jit(optimizer.update)(grads, state, params)
    wanted = [*range(stay), *range(5, 10 - stay)]
    assert np.flatnonzero(state.mask["kernel"]).tolist() == wanted


@pytest.mark.long
@pytest.mark.parametrize("together", [False, True])
def test_rigl_against_sorting(together):
    distribution = all_together() if together else erdos_renyi()
    method = rigl(0.8, end=9, every=3, drop_fraction=0.6, distribution=distribution, key=3)
    optimizer = sparsify(optax.sgd(0.1, momentum=0.9), method)
    grads = gradients(12)
    params = start()
    state = optimizer.init(params)
    before, mask = masked_params(state, params), state.mask
    budget = [np.array([int(mask[name].sum()) for name in "ab"])]
    if together:
        budget = [budget[0].sum(keepdims=True)]
    groups = [["a", "b"]] if together else [["a"], ["b"]]
    for n, (after, state) in enumerate(run(optimizer, 12)):
        join = lambda tree, names: np.concatenate([np.ravel(tree[k]) for k in names])  # noqa: E731
        for names, total in zip(groups, budget[0], strict=True):
            old, new = join(mask, names), join(state.mask, names)
            if n not in (3, 6, 9):
                np.testing.assert_array_equal(old, new)
                continue
            fraction = 0.3 * (1 + math.cos(math.pi * n / 9))
            stay = round(float(total * (1 - fraction)))
            magnitude = np.where(old, np.abs(join(before, names)), -1)
            kept = np.argsort(-magnitude, kind="stable")[:stay]
            score = np.abs(join({k: grads[k][n] for k in names}, names))
            score[kept] = np.inf
            wanted = np.zeros(old.size, bool)
            wanted[np.argsort(-score, kind="stable")[:total]] = True
            np.testing.assert_array_equal(new, wanted)
        before, mask = after, state.mask


def test_set_keeps_the_largest_and_grows_by_chance():
    def masks(key):
        method = transforms.set(0.8, end=9, every=3, drop_fraction=0.6, key=key)
        return [start(), *run(sparsify(optax.sgd(0.1), method), 10)]

    found = masks(0)
    grown = []
    for n in (3, 6, 9):
        (before, old), (_, new) = found[n], found[n + 1]
        for name in "ab":
            total = int(old.mask[name].sum())
            assert int(new.mask[name].sum()) == total
            stay = round(total * (1 - 0.3 * (1 + math.cos(math.pi * n / 9))))
            magnitude = np.where(old.mask[name], np.abs(before[name]), -1).ravel()
            largest = np.argsort(-magnitude, kind="stable")[:stay]
            assert np.asarray(new.mask[name]).ravel()[largest].all()
            grown.append(np.flatnonzero(new.mask[name] & ~old.mask[name]))
    assert len(grown[0]) > 10
    assert grown[0].tolist() != grown[2].tolist()  # each update has a key of its own
    assert len(grown[4]) == len(grown[5]) == 0  # at the end the fraction is 0
    other = masks(1)
    assert (other[1][1].mask["a"] != found[1][1].mask["a"]).any()


def test_random_masks_are_uniform_and_depend_on_the_key_alone():
    params = {"a": jnp.ones((20, 20)), "b": jnp.ones((20, 20))}

    @jax.jit
    @jax.vmap
    def masks(key):
        return sparsify(optax.sgd(0.1), static_sparse(0.75, key=key)).init(params).mask

    found = masks(jax.random.split(jax.random.key(0), 400))
    assert (found["a"].sum((1, 2)) == 100).all()
    share = np.asarray(found["a"]).mean(0)
    assert abs(share - 0.25).max() < 0.11  # five standard deviations
    both = np.asarray(found["a"] & found["b"]).mean()
    assert both == pytest.approx(0.0625, abs=0.003)
    again = sparsify(optax.adam(0.1), static_sparse(0.75, key=jax.random.key(7))).init(params)
    once = sparsify(optax.sgd(0.1), static_sparse(0.75, key=jax.random.key(7))).init(params)
    np.testing.assert_array_equal(again.mask["b"], once.mask["b"])
    old = sparsify(optax.sgd(0.1), static_sparse(0.75, key=jax.random.PRNGKey(7))).init(params)
    np.testing.assert_array_equal(old.mask["b"], once.mask["b"])


def test_static_masks_stay():
    optimizer = sparsify(optax.adam(0.1), static_sparse(0.9))
    first = optimizer.init(start()).mask
    for params, state in run(optimizer, 4):
        jax.tree.map(np.testing.assert_array_equal, state.mask, first)
        assert nonzeros(params) == {name: int(first[name].sum()) for name in "ab"}


def test_ac_dc_is_sparse_and_dense_in_turns():
    method = ac_dc(0.9, end=8, compressed_steps=3, decompressed_steps=2, warmup=1)
    counts = []
    for params, _ in run(sparsify(optax.sgd(0.1, momentum=0.9), method), 12):
        counts.append(sum(nonzeros(params).values()))
    # compressed from 1 to 3, decompressed from 4 and 5 on, compressed from 6
    assert counts[0] == 704
    assert counts[1:4] == [70] * 3
    assert counts[4] == 70  # what is decompressed starts at zero
    assert counts[5] == 704
    assert counts[6:] == [70] * 6
