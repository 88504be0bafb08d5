import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.deploy import Network, shrink


def test_a_spectral_norm_of_parameters_is_known_and_one_of_units_is_unsupported():
    rng = np.random.default_rng(0)
    params = {
        "a": rng.normal(size=(4, 5)).astype(np.float32),
        "b": rng.normal(size=(5, 6)).astype(np.float32),
        "c": rng.normal(size=(6, 2)).astype(np.float32),
    }
    params["a"][:, 1] = params["c"][2] = 0

    def known(params, x):
        kernel = params["b"] / jnp.linalg.norm(params["b"], 2)
        return jnp.tanh(jnp.tanh(x @ params["a"]) @ kernel) @ params["c"]

    def computed(params, x):
        h = (x @ params["a"]).reshape(-1, 1, 5)
        return h[:, 0] @ params["b"] / jnp.linalg.norm(h, 2, axis=(1, 2))[:, None]

    x = rng.normal(size=(3, 4)).astype(np.float32)
    small = shrink(Network(known, params), x[:2])
    shapes = {name: array.shape for name, array in small.params.items()}
    assert shapes == {"a": (4, 5), "b": (5, 6), "c": (6, 2)}  # a norm needs all rows and columns
    np.testing.assert_allclose(small(x), known(params, x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"svd \(over 5 units after a\)"):
        shrink(Network(computed, params), x)
