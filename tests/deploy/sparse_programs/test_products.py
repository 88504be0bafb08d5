import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.deploy.sparse_programs._layers import DENSE
from sparsejax.deploy.sparse_programs._products import PRODUCTS, usable
from tests.deploy.shrinking.test_shrink import normal
from tests.deploy.sparse_programs.programs import run


def dense_network(params, x):
    hidden = jnp.maximum(x @ params["first"] + params["bias"], 0)
    hidden = jnp.tanh(jnp.einsum("hij,bi->bhj", params["heads"], hidden))  # weights on the left
    return jnp.einsum("bhj,hjo->bo", hidden, params["last"]) - params["bias"][:4]


def dense_params(rng, density=0.2):
    first = normal(rng, 12, 16) * (rng.random((12, 16)) < density)
    first[:, 3] = first[5] = 0  # a unit that reads nothing, an input that nothing reads
    heads = normal(rng, 3, 16, 5) * (rng.random((3, 16, 5)) < density)
    return {
        "first": first.astype(np.float32),
        "bias": normal(rng, 16),
        "heads": heads.astype(np.float32),
        "last": normal(rng, 3, 5, 4),
    }


@pytest.mark.parametrize("kind", [DENSE, *PRODUCTS])
@pytest.mark.parametrize("batch", [1, 7])
def test_every_product_is_the_dense_one(kind, batch):
    rng = np.random.default_rng(0)
    params, x = dense_params(rng), normal(rng, batch, 12)
    found, layers = run(kind, dense_network, params, x)
    # einsum sums over two dimensions in "last"; only "first" has rows and columns of zeros.
    assert layers == (1 if kind == "compacted" else 2)
    np.testing.assert_allclose(found, dense_network(params, x), atol=1e-5)


def test_biases_are_taken_into_the_product_only_where_they_belong():
    rng = np.random.default_rng(1)
    params, x = dense_params(rng), normal(rng, 3, 12)

    def function(params, x):
        product = x @ params["first"]
        of_position = normal(np.random.default_rng(2), 3, 16)  # differs by example
        return product + of_position, product * 2 + params["bias"]

    found, _ = run("ell", function, params, x)
    for a, b in zip(found, function(params, x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_bfloat16_is_summed_in_float32():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(normal(rng, 600, 3) * (rng.random((600, 3)) < 0.4), jnp.bfloat16)}
    x = jnp.asarray(np.abs(normal(rng, 2, 600)) + 1, jnp.bfloat16)
    exact = np.asarray(x, np.float64) @ np.asarray(params["w"], np.float64)
    for kind in ("ell", "ell_split", "sell"):
        found, _ = run(kind, lambda params, x: x @ params["w"], params, x)
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8)


def test_only_sparse_or_small_weights_are_tried_in_sparse_formats():
    rng = np.random.default_rng(0)
    large = normal(rng, 200, 100)
    few = np.where(rng.random(large.shape) < 0.4, large, 0)
    assert usable(large) == usable(np.zeros((4, 4))) == ["transposed"]
    formats = [kind for kind in PRODUCTS if kind != "compacted"]
    assert usable(few) == usable(large[:5]) == formats
    large[:, 7] = 0
    assert usable(large) == ["transposed", "compacted"]
    large[7] = 0
    assert usable(large[:9]) == list(PRODUCTS)
