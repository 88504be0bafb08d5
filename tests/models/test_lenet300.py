import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.inspection import report
from sparsejax.models import LENET300_LAYERS, LeNet300


@pytest.mark.parametrize(
    ("activation", "function"), [("relu", lambda x: np.maximum(x, 0)), ("tanh", np.tanh)]
)
def test_computes_what_its_weights_say(activation, function):
    model = LeNet300(activation, rngs=nnx.Rngs(0))
    params = nnx.split(model, nnx.Param, ...)[1]
    x = np.random.default_rng(0).normal(size=(5, 784))
    hidden = x
    for layer in LENET300_LAYERS:
        kernel, bias = (
            np.asarray(params[layer][name][...], np.float64) for name in ("kernel", "bias")
        )
        hidden = hidden @ kernel + bias
        hidden = function(hidden) if layer != LENET300_LAYERS[-1] else hidden
    logits = jax.jit(lambda x: model(x))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(logits, hidden, atol=1e-5)
    as_images = model(jnp.asarray(x.reshape(5, 28, 28, 1), jnp.float32))
    np.testing.assert_allclose(as_images, logits, atol=1e-5)


def test_has_the_published_number_of_weights():
    params = nnx.split(LeNet300(rngs=nnx.Rngs(0)), nnx.Param, ...)[1]
    assert report(params).size == 266_200
    assert report(params, lambda path, leaf: True).size == 266_610


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="activation must be one of .*; got 'elu'"):
        LeNet300("elu", rngs=nnx.Rngs(0))
