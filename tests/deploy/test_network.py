"""Steps follow one another, or say why they cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.deploy import (
    Compiled,
    Network,
    Shrunk,
    compile_sparse,
    expand,
    export_onnx,
    export_stablehlo,
    load_sparse,
    load_stablehlo,
    save_sparse,
    shrink,
    torch_state,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 6)).astype(np.float32)


def forward(params, x):
    hidden = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["last"]["kernel"] + params["last"]["bias"]


def fastest_last(functions, inputs):
    return range(len(functions), 0, -1)


@pytest.fixture(scope="module")
def network():
    first = RNG.normal(size=(6, 8)).astype(np.float32)
    first[:, [1, 4, 5]] = 0
    bias = np.arange(8, dtype=np.float32)
    last = {"kernel": RNG.normal(size=(8, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)}
    return Network(forward, {"first": {"kernel": first, "bias": bias}, "last": last})


@pytest.fixture(scope="module")
def small(network):
    return shrink(network, X)


@pytest.fixture(scope="module")
def fast(small):
    return compile_sparse(small, X, kinds=["ell"], measure=fastest_last)


def test_a_network_computes_its_function(network):
    expected = forward(network.params, X)
    np.testing.assert_allclose(network(X), expected, rtol=1e-5)  # processors differ
    np.testing.assert_allclose(jax.jit(network)(X), expected, rtol=1e-5)
    assert repr(network) == "Network(83 parameters in 4 arrays)"
    zeros = network.with_params(jax.tree.map(np.zeros_like, network.params))
    assert zeros.function is forward
    assert not np.any(zeros(X))
    assert np.any(network(X))


def test_every_step_gives_a_network_of_the_same_outputs(network, small, fast):
    assert (type(small), type(fast)) == (Shrunk, Compiled)
    assert repr(small) == "Shrunk(53 parameters in 4 arrays)"
    assert repr(fast) == "Compiled(0 parameters in 0 arrays)"
    assert fast.chosen == "sparse"
    for step in (small, fast, shrink(small, X), expand(small)):
        assert isinstance(step, Network)
        for x in (X, X[:2]):
            np.testing.assert_allclose(step(x), network(x), atol=1e-5)
            np.testing.assert_allclose(step.function(step.params, x), network(x), atol=1e-5)


@pytest.mark.parametrize("step", ["network", "small", "fast"])
def test_every_step_is_exported_as_stablehlo(step, request, network):
    again = load_stablehlo(export_stablehlo(request.getfixturevalue(step), X))
    for x in (X, X[:1]):
        np.testing.assert_allclose(again(x), network(x), atol=1e-5)


def test_parameters_of_every_step_are_written(network, small, tmp_path):
    for step in (network, small):
        assert export_onnx(step, X)
        save_sparse(tmp_path / "net", step.params)
        restored = step.with_params(load_sparse(tmp_path / "net"))
        np.testing.assert_array_equal(restored(X), step(X))
        assert torch_state(step.params)["last.weight"].shape[0] == 3


@pytest.mark.parametrize("step", [shrink, compile_sparse, export_onnx])
def test_a_compiled_network_is_refused_where_parameters_are_needed(step, fast):
    name = step.__name__
    with pytest.raises(ValueError, match=f"parameters for {name}; .* Call {name} with the network"):
        step(fast, X)


def test_parameters_that_are_not_there_are_not_written(fast):
    with pytest.raises(ValueError, match="params must hold at least one array"):
        torch_state(fast.params)


@pytest.mark.parametrize("step", [shrink, compile_sparse, export_onnx, export_stablehlo])
def test_a_function_in_place_of_a_network_is_refused(step, network):
    with pytest.raises(TypeError, match=r"network must be a sparsejax.deploy.Network, such as"):
        step(network.function, network.params, X)


def test_training_at_the_smaller_size_ends_in_the_original_shapes(network, small):
    gradients = jax.grad(lambda params: small.function(params, X).sum())(small.params)
    trained = jax.tree.map(lambda leaf, step: leaf - 0.1 * step, small.params, gradients)
    whole = expand(small.with_params(trained))
    assert whole.function is forward
    assert jax.tree.map(jnp.shape, whole.params) == jax.tree.map(jnp.shape, network.params)
    np.testing.assert_allclose(whole(X), small.with_params(trained)(X), atol=1e-5)


def test_arrays_of_numpy_take_indices_that_are_traced():
    network = Network(lambda params, tokens: params[tokens], np.eye(3, dtype=np.float32))
    np.testing.assert_array_equal(jax.jit(network)(np.array([2, 0])), np.eye(3)[[2, 0]])
