import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import compression


def weights():
    return {
        "a": jax.random.normal(jax.random.key(0), (20, 15)),
        "b": jax.random.normal(jax.random.key(1), (15, 8)),
    }


def error(w, theta):
    return sum(float(((w[n] - theta[n]) ** 2).sum()) for n in w)


PARTS = {
    "quantize + l0": lambda: [compression.quantize(2), compression.l0_ball(20)],
    "low rank + l0": lambda: [compression.low_rank(2), compression.l0_ball(30)],
    "three": lambda: [
        compression.low_rank(1),
        compression.ternary(scaled=True),
        compression.l0_ball(10),
    ],
    "nested": lambda: [
        compression.l0_ball(10),
        compression.additive([compression.low_rank(1), compression.quantize(2)], sweeps=2),
    ],
}


@pytest.mark.parametrize("name", PARTS)
def test_the_error_never_rises_with_sweeps_nor_between_c_steps(name):
    w = weights()
    errors = []
    step = compression.additive(PARTS[name](), sweeps=1)
    state = step.init(w)
    project = jax.jit(step.project)
    for _ in range(8):
        theta, state = project(w, 1.0, state)
        errors.append(error(w, theta))
        total = jax.tree.map(lambda *parts: sum(parts), *state.parts)
        np.testing.assert_allclose(total["a"], theta["a"], atol=1e-6)
    assert all(after <= before * (1 + 1e-5) for before, after in itertools.pairwise(errors))
    alone = PARTS[name]()[0]
    assert errors[-1] < error(w, alone.project(w, 1.0, alone.init(w))[0])
    whole = compression.additive(PARTS[name](), sweeps=8)
    np.testing.assert_allclose(
        error(w, whole.project(w, 1.0, whole.init(w))[0]), errors[-1], rtol=1e-4
    )


def test_one_part_is_that_part():
    w = weights()
    step = compression.additive([compression.l0_ball(9)])
    theta, _ = step.project(w, 1.0, step.init(w))
    alone = compression.l0_ball(9)
    np.testing.assert_array_equal(theta["a"], alone.project(w, 1.0, alone.init(w))[0]["a"])


def test_partition_gives_each_leaf_its_own_c_step():
    w = {**weights(), "c": jnp.ones((4, 4)), "d": jnp.asarray([0.3, -2.0])}
    labels = {"a": "prune", "b": "prune", "c": "rank", "d": "sign"}
    step = compression.partition(
        {
            "prune": compression.l0_ball(11),
            "rank": compression.low_rank(1),
            "sign": compression.binary(),
        },
        labels,
    )
    theta, state = jax.jit(step.project)(w, 1.0, step.init(w))
    assert sum(int((theta[n] != 0).sum()) for n in "ab") == 11
    np.testing.assert_allclose(theta["c"], w["c"], atol=1e-6)
    np.testing.assert_array_equal(theta["d"], [1, -1])
    assert set(state.states) == {"prune", "rank", "sign"}
    by_path = compression.partition({"all": compression.l0_ball(3)}, lambda path, leaf: "all")
    found, _ = by_path.project(w, 1.0, by_path.init(w))
    assert sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(found)) == 3


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: compression.additive([]), ValueError, "it is empty"),
        (lambda: compression.additive([3]), TypeError, r"compressions\[0\] must be a Compression"),
        (lambda: compression.additive([compression.binary()], sweeps=0), ValueError, "sweeps"),
        (lambda: compression.additive([compression.binary()], sweeps=1.5), TypeError, "sweeps"),
        (
            lambda: compression.partition({"x": compression.binary()}, {"a": "y"}).init(
                {"a": jnp.ones(2)}
            ),
            ValueError,
            "'y'",
        ),
        (
            lambda: compression.partition(
                {"x": compression.binary(), "z": compression.binary()}, {"a": "x"}
            ).init({"a": jnp.ones(2)}),
            ValueError,
            "'z'.* to no leaf",
        ),
        (
            lambda: compression.partition({"x": compression.binary()}, {"q": "x"}).init(
                {"a": jnp.ones(2)}
            ),
            ValueError,
            "labels must be",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
