import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import compression
from sparsejax.projections import project_k_means


def weights(dtype=jnp.float32):
    return {
        "a": jax.random.normal(jax.random.key(0), (30, 20), dtype),
        "b": 5 + jax.random.normal(jax.random.key(1), (20,), dtype),
    }


def everything(path, leaf):
    return True


def values_of(tree):
    return np.unique(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]))


@pytest.mark.parametrize("exact", [True, False])
def test_one_codebook_for_all_or_one_for_each(exact):
    w = weights()
    for per_leaf in (False, True):
        step = compression.quantize(2, per_leaf=per_leaf, exact=exact)
        theta, state = jax.jit(step.project)(w, 1.0, step.init(w))
        if per_leaf:
            for name, leaf in w.items():
                alone = project_k_means({name: leaf}, 2, everything, exact=exact)[name]
                np.testing.assert_allclose(theta[name], alone, rtol=1e-5)
                assert state.codebook[name].shape == (2,)
        else:
            assert values_of(theta).size == 2
            np.testing.assert_array_equal(values_of(theta), state.codebook)


def test_a_warm_start_follows_weights_that_move():
    step = compression.quantize(4, exact=False)
    w = weights()
    state = step.init(w)
    for number in range(5):
        moved = jax.tree.map(lambda x, n=number: x * (1 + 0.1 * n), w)
        theta, state = step.project(moved, 1.0, state)
        best = project_k_means(moved, 4, everything)
        error = lambda t, w: sum(((t[n] - w[n]) ** 2).sum() for n in w)  # noqa: E731
        assert error(theta, moved) <= 1.02 * error(best, moved)


def test_given_values():
    step = compression.quantize([-1.0, 0.0, 1.0])
    w = weights()
    theta, _ = step.project(w, 1.0, step.init(w))
    np.testing.assert_array_equal(theta["a"], np.clip(np.round(w["a"]), -1, 1))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("per_leaf", [False, True])
def test_binary_and_ternary_scale_all_or_each(scaled, per_leaf):
    w = weights()
    for step in (compression.binary, compression.ternary):
        c_step = step(scaled=scaled, per_leaf=per_leaf)
        theta, _ = jax.jit(c_step.project)(w, 1.0, c_step.init(w))
        sizes = [np.unique(np.abs(leaf[leaf != 0])) for leaf in map(np.asarray, theta.values())]
        assert all(size.size == 1 for size in sizes)
        assert (sizes[0] != sizes[1]).all() == (scaled and per_leaf)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: compression.quantize(0), ValueError, "from 1 to 65536; got 0"),
        (lambda: compression.quantize(2.5), TypeError, "got 2.5"),
        (lambda: compression.quantize([1.0, np.nan]), ValueError, "finite values"),
        (
            lambda: compression.quantize(2).init({"a": jnp.asarray([1.0, np.nan])}),
            ValueError,
            "NaN in 1 of the 2 entries",
        ),
        (lambda: compression.quantize(2, group_size=0), ValueError, "group_size must be an int"),
        (
            lambda: compression.quantize(2, group_size=4).init({"bias": jnp.ones(3)}),
            ValueError,
            r"\['bias'\] has shape \(3,\), and axis is -2",
        ),
        (lambda: compression.binary().init(jnp.asarray([np.nan])), ValueError, "NaN"),
    ],
)
def test_bad_arguments_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("values", [None, "float16", "bfloat16", 1, 3])
def test_the_values_that_top_kappa_keeps(values):
    w = weights()
    step = compression.l0_ball(50, values=values)
    theta, state = jax.jit(step.project)(w, 1.0, step.init(w))
    kept, _ = compression.l0_ball(50).project(w, 1.0, compression.l0_ball(50).init(w))
    for name in w:
        np.testing.assert_array_equal(theta[name] != 0, kept[name] != 0)
        if isinstance(values, str):
            expected = kept[name].astype(values).astype(jnp.float32)
            np.testing.assert_array_equal(theta[name], expected)
    if isinstance(values, int):
        found = values_of(theta)
        assert set(found[found != 0]) == set(np.asarray(state.codebook))
        assert state.codebook.shape == (values,)
    with pytest.raises(ValueError, match="values must be None, one of"):
        compression.l0_ball(3, values="int8")
