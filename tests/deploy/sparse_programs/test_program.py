import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from sparsejax.deploy.sparse_programs._layers import KINDS
from sparsejax.deploy.sparse_programs._program import Program
from sparsejax.models import LeNet5, LeNet300
from tests.deploy.shrinking.test_shrink import forward, normal, pruned
from tests.deploy.sparse_programs.programs import run


@pytest.mark.parametrize("kind", KINDS)
def test_the_networks_of_the_papers(kind):
    rng = np.random.default_rng(0)
    for make, shape in (
        (lambda: LeNet300(units=(20, 10), rngs=nnx.Rngs(0)), (784,)),
        (lambda: LeNet5((4, 6, 20), rngs=nnx.Rngs(0)), (28, 28, 1)),
    ):
        function, params = forward(make, rng)
        params, x = pruned(params, rng, 0.2), normal(rng, 3, *shape)
        found, _ = run(kind, function, params, x)
        np.testing.assert_allclose(found, jax.jit(function)(params, x), atol=1e-5)


def test_layers_are_named_by_their_weights():
    rng = np.random.default_rng(0)
    known = normal(rng, 4, 4)

    def function(params, x):
        hidden = x @ (params["inner"]["w"] * params["mask"]).T
        return (hidden @ known) @ params["inner"]["w"]

    params = {"inner": {"w": normal(rng, 4, 4)}, "mask": np.ones(4, np.float32)}
    layers = Program(function, params, (normal(rng, 2, 4),)).layers
    assert [layer.name for layer in layers] == ["inner/w", "constant 0", "inner/w (2)"]
    assert [layer.macs for layer in layers] == [2 * 16] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_programs_are_traced_for_a_symbolic_batch(kind):
    rng = np.random.default_rng(0)

    def function(params, x):
        y = lax.conv_general_dilated(
            x, params["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = jax.nn.relu(y + params["bias"]).reshape(x.shape[0], -1)
        return jnp.tanh(y @ params["w"] + 1) @ params["dead"] + params["bias"][:2]

    params = {
        "kernel": normal(rng, 2, 2, 1, 3), "bias": normal(rng, 3), "w": normal(rng, 12, 4),
        "dead": np.zeros((4, 2), np.float32),
    }  # fmt: skip
    params["w"] *= rng.random((12, 4)) < 0.3
    x = normal(rng, 5, 3, 3, 1)
    program = Program(function, params, (x,))
    kinds = {layer.equation: kind for layer in program.layers if kind in layer.kinds}
    (batch,) = jax.export.symbolic_shape("batch")
    example = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = jax.export.export(jax.jit(lambda x: program.run(kinds, x)))(example)
    np.testing.assert_allclose(exported.call(x), function(params, x), atol=1e-5)
