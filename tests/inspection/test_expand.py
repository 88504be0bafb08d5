import jax
import numpy as np
import pytest
from flax import nnx

from sparsejax.inspection import expand, purge, report
from sparsejax.models import LENET5_LAYERS, LeNet5, purged_lenet5
from tests.inspection.test_purge import LAYERS, dense_network, dense_outputs


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_back_in_the_old_shapes_it_computes_the_same(share):
    rng = np.random.default_rng(0)
    for _ in range(5):
        params = dense_network(rng, (30, 20, 12, 5), share)
        small = purge(params, LAYERS)
        # Trained on, so that nothing is left of the old values.
        trained = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), small.layers)
        whole = expand(trained, small, params, LAYERS)
        x = rng.normal(size=(7, 30)).astype(np.float32)
        expected = dense_outputs(trained, x[:, small.units[0]], jax.nn.relu)
        got = dense_outputs(whole, x, jax.nn.relu)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
        for name in LAYERS:
            for part, leaf in params[name].items():
                assert whole[name][part].shape == leaf.shape
                assert whole[name][part].dtype == leaf.dtype
        assert report(whole).nonzeros == report(trained).nonzeros


def test_single_inputs_behind_a_flattening():
    rng = np.random.default_rng(0)
    graph, params, rest = nnx.split(LeNet5(rngs=nnx.Rngs(0)), nnx.Param, ...)
    params = jax.tree.map(
        lambda leaf: leaf * (rng.random(leaf.shape) < (0.02 if leaf.size > 1000 else 0.5)), params
    )
    model = purged_lenet5(params)
    small = purge(params, LENET5_LAYERS, single_inputs=True)
    assert len(small.single_inputs["dense1"]) < 16 * len(small.units[2])
    trained = nnx.state(model, nnx.Param)
    whole = expand(trained, small, params, LENET5_LAYERS)
    images = rng.random((5, 28, 28, 1)).astype(np.float32)
    np.testing.assert_allclose(nnx.merge(graph, whole, rest)(images), model(images), atol=1e-5)


def test_a_layer_of_another_shape_is_named():
    params = dense_network(np.random.default_rng(0), (30, 20, 12, 5), 0.1)
    small = purge(params, LAYERS)
    wrong = small.layers | {"second": params["second"]}
    with pytest.raises(ValueError, match="smaller must have the shapes of purged.layers; second"):
        expand(wrong, small, params, LAYERS)
