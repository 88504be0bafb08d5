"""What is exported computes the same when it is read back, for other batch sizes too."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.deploy import Network, export_stablehlo, load_stablehlo, shrink
from sparsejax.models import LeNet5, LeNet300, ResNet20, VGG16Cifar
from tests.deploy.exports.networks import network

RNG = np.random.default_rng(0)


def function_of(make, shape):
    function, params = network(make, RNG)
    return jax.jit(function), params, RNG.normal(size=(5, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (LeNet300, (28, 28, 1)),
        (LeNet5, (28, 28, 1)),
        (lambda rngs: ResNet20(width=0.25, rngs=rngs), (32, 32, 3)),
        (lambda rngs: VGG16Cifar(width=0.05, rngs=rngs), (32, 32, 3)),
    ],
)
def test_reads_back_to_the_same_function(make, shape):
    function, params, images = function_of(lambda: make(rngs=nnx.Rngs(0)), shape)
    again = load_stablehlo(export_stablehlo(Network(function, params), images[:2]))
    for batch in (images, images[:1]):
        wanted = function(params, batch)
        np.testing.assert_allclose(again(batch), wanted, rtol=1e-4, atol=1e-4)


def test_a_shrunk_network_and_a_process_without_its_code(tmp_path):
    function, params, images = function_of(lambda: LeNet300(rngs=nnx.Rngs(0)), (28, 28, 1))
    keep = jnp.arange(300) < 20
    params["dense1"]["kernel"][...] = params["dense1"]["kernel"][...] * keep
    small = shrink(Network(function, params), images)
    data = export_stablehlo(small, images, platforms=("cpu",))
    assert (
        len(data) < len(export_stablehlo(Network(function, params), images, platforms=("cpu",))) / 5
    )
    (tmp_path / "network").write_bytes(data)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy, jax.export; folder = sys.argv[1]\n"
        "call = jax.export.deserialize(bytearray(open(folder + '/network', 'rb').read())).call\n"
        "numpy.save(folder + '/out.npy', call(numpy.load(folder + '/images.npy')))\n"
        "assert 'sparsejax' not in sys.modules and 'flax' not in sys.modules\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    wanted = function(params, images)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, rtol=1e-4, atol=1e-5)


def test_a_shrunk_residual_network():
    function, params, images = function_of(
        lambda: ResNet20(width=0.25, rngs=nnx.Rngs(0)), (32, 32, 3)
    )
    block = params["blocks"][4]
    for layer, leaf in (("conv1", "kernel"), ("norm1", "scale"), ("norm1", "bias")):
        block[layer][leaf][...] = 0
    small = shrink(Network(function, params), images)
    assert small.params["blocks"][4]["conv1"]["kernel"][...].shape[-1] == 1
    again = load_stablehlo(export_stablehlo(small, images[:2]))
    np.testing.assert_allclose(again(images), function(params, images), atol=1e-5)


def test_an_input_without_a_batch_keeps_its_shape():
    params, t = jnp.asarray(RNG.normal(size=(10, 8))), RNG.normal(size=(8, 3)).astype(np.float32)

    def function(p, x, t, scale):
        return x @ p @ t / scale

    x, scale = RNG.normal(size=(5, 10)).astype(np.float32), np.float32(2)
    for batch in (1, 8):
        again = load_stablehlo(
            export_stablehlo(Network(function, params), x[:1].repeat(batch, 0), t, scale)
        )
        for size in (1, 5):
            wanted = function(params, x[:size], t, scale)
            np.testing.assert_allclose(again(x[:size], t, scale), wanted, rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match="shape"):
            again(x, t[:5], scale)


def test_what_is_in_doubt_has_to_be_told():
    function, x, t = lambda p, x, t: x * p + t.sum(0), jnp.ones((2, 3)), jnp.ones((8, 3))
    with pytest.raises(ValueError, match=r"several lengths \(0: 2, 1: 8\)"):
        export_stablehlo(Network(function, jnp.ones(3)), x, t)
    again = load_stablehlo(
        export_stablehlo(Network(function, jnp.ones(3)), x, t, batched=(True, False))
    )
    np.testing.assert_allclose(again(jnp.ones((4, 3)), t), np.full((4, 3), 9))
    again = load_stablehlo(export_stablehlo(Network(function, jnp.ones(3)), x, t, batched=False))
    np.testing.assert_allclose(again(x, t), np.full((2, 3), 9))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="platforms must name at least one"):
        export_stablehlo(Network(lambda p, x: p * x, jnp.ones(3)), jnp.ones((2, 3)), platforms=())
    with pytest.raises(ValueError, match="inputs must have a first dimension"):
        export_stablehlo(Network(lambda p, x: p * x, jnp.ones(3)), jnp.ones(()))
    data = export_stablehlo(Network(lambda p, x: p * x, jnp.ones(3)), jnp.ones((2, 3)))
    assert jax.tree.leaves(load_stablehlo(data)(jnp.ones((7, 3))))[0].shape == (7, 3)
    for wrong in (b"", b"not a network", data[: len(data) // 2]):
        with pytest.raises(ValueError, match="data must be from export_stablehlo"):
            load_stablehlo(wrong)
