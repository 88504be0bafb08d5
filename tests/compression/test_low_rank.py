import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import compression


def kernel(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.02, 0.2, 5.0])
def test_the_chosen_rank_is_the_best_of_all(alpha, normalize):
    w, mu = {"k": kernel(9, 6)}, 1.5
    positions = 7
    step = compression.rank_selection(
        alpha, cost="flops", output_positions=positions, normalize=normalize
    )
    theta, state = jax.jit(step.project)(w, mu, step.init(w))
    s = np.linalg.svd(np.asarray(w["k"], np.float64), compute_uv=False)
    norm = (s**2).sum() if normalize else 1
    costs = [mu / 2 * (s[r:] ** 2).sum() / norm + alpha * positions * r * 15 for r in range(7)]
    best = int(np.argmin(np.round(costs, 9)))
    assert int(state.ranks["k"]) == best
    assert np.linalg.matrix_rank(np.asarray(theta["k"]), tol=1e-4) == best


def test_stacked_layers_have_ranks_of_their_own():
    first = kernel(6, 1) @ kernel(1, 5, seed=1)
    w = {"k": jnp.stack([first, 10 * kernel(6, 5, seed=2)])}
    step = compression.rank_selection(1e-3, stacked=1)
    theta, state = step.project(w, 1.0, step.init(w))
    assert state.ranks["k"].tolist() == [1, 5]
    np.testing.assert_allclose(theta["k"], w["k"], atol=1e-4)


def test_a_traced_rank_and_batched_ones():
    w = {"k": kernel(6, 5)}

    def theta(rank):
        step = compression.low_rank(rank)
        return step.project(w, 1.0, step.init(w))[0]["k"]

    found = jax.jit(jax.vmap(theta))(jnp.asarray([1, 3]))
    np.testing.assert_allclose(found, jnp.stack([theta(1), theta(3)]), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: compression.low_rank(-1), ValueError, "rank must be"),
        (lambda: compression.low_rank(1).init(kernel(3)), ValueError, "2 dimensions"),
        (lambda: compression.rank_selection(-1.0), ValueError, "alpha must be"),
        (lambda: compression.rank_selection(1.0, cost="x"), ValueError, "cost must be one of"),
        (lambda: compression.rank_selection(1.0, cost="flops"), ValueError, "output_positions"),
        (
            lambda: compression.rank_selection(1.0, output_positions=2),
            ValueError,
            "for that alone",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
