import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.projections import low_rank_factors, project_low_rank


def everything(path, leaf):
    return True


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6)])
def test_the_error_is_that_of_eckart_and_young(shape):
    w = normal(*shape)
    s = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)
    project = jax.jit(lambda w, r: project_low_rank(w, r, everything))
    for rank in range(8):
        theta = project(w, rank)
        error = ((np.asarray(w) - np.asarray(theta)) ** 2).sum()
        np.testing.assert_allclose(error, (s[rank:] ** 2).sum(), atol=1e-4)
        assert np.linalg.matrix_rank(np.asarray(theta), tol=1e-4) <= rank
    np.testing.assert_array_equal(project(w, 5), w) if min(shape) == 5 else None


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
@pytest.mark.parametrize("rank", [1, 3])
def test_factors_compute_what_the_kernel_of_that_rank_computes(scheme, rank):
    kernel = normal(3, 5, 4, 6)
    theta = project_low_rank(kernel, rank, everything, scheme=scheme)
    first, second = low_rank_factors(kernel, rank, scheme=scheme)
    images = normal(2, 12, 12, 4, seed=1)

    def convolve(x, k):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=numbers)

    np.testing.assert_allclose(
        convolve(convolve(images, first), second), convolve(images, theta), atol=1e-4
    )
    dense = normal(8, 6)
    first, second = low_rank_factors(dense, rank)
    assert first.shape == (8, rank)
    np.testing.assert_allclose(first @ second, project_low_rank(dense, rank, everything), atol=1e-5)


def test_stacked_layers_and_batched_ranks():
    w = normal(3, 6, 5)
    each = jnp.stack([project_low_rank(m, 2, everything) for m in w])
    np.testing.assert_allclose(project_low_rank(w, 2, everything, stacked=1), each, atol=1e-5)
    ranks = jnp.arange(4)
    project = lambda r: project_low_rank(w[0], r, everything)  # noqa: E731
    np.testing.assert_allclose(
        jax.jit(jax.vmap(project))(ranks), jnp.stack([project(r) for r in range(4)]), atol=1e-5
    )


def test_bfloat16_keeps_its_dtype():
    theta = project_low_rank(normal(6, 5).astype(jnp.bfloat16), 2, everything)
    assert theta.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: project_low_rank(normal(4, 4), -1, everything), ValueError, "rank must be"),
        (lambda: project_low_rank(normal(4, 4), 1.5, everything), ValueError, "rank must be"),
        (lambda: project_low_rank(normal(4, 4, 4), 1, everything), ValueError, "pass stacked="),
        (lambda: project_low_rank(normal(4), 1, everything), ValueError, "2 dimensions"),
        (
            lambda: project_low_rank(normal(4, 4), 1, everything, scheme="x"),
            ValueError,
            "scheme must be one of",
        ),
        (lambda: low_rank_factors(normal(4, 4), 5), ValueError, "from 0 to 4; got 5"),
        (lambda: low_rank_factors(normal(4, 4), 0), ValueError, "from 1 to 4; got 0"),
    ],
)
def test_bad_arguments_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
