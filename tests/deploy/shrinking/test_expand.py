import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.deploy import Network, expand, shrink
from sparsejax.inspection import report
from sparsejax.models import LeNet5
from tests.deploy.shrinking.test_shrink import (
    branch_params,
    branches,
    close,
    count,
    example,
    forward,
    mlp,
    normal,
    pruned,
    residual,
    residual_params,
    zeroed,
)


def dense(rng):
    """Sparse layers with biases: some units of them put out constants other than 0."""
    sizes = [(30, 20), (20, 12), (12, 5)]
    params = [{"kernel": normal(rng, *size), "bias": normal(rng, size[1])} for size in sizes]
    return lambda p, x: mlp(p, x) + p[-1]["bias"], pruned(params, rng, 0.08), (30,)


def lenet5(rng):
    function, params = forward(lambda: LeNet5((8, 12, 20), rngs=nnx.Rngs(0)), rng)
    params = pruned(params, rng, 0.1)
    params["conv1"]["kernel"] = zeroed(params["conv1"]["kernel"], ..., [2, 3])
    return function, params, (784,)


def stream(rng):
    params = residual_params(rng)
    close(params["norm0"], [2])
    close(params["norm2"], [2])
    close(params["norm3"], [1, 2, 8])
    close(params["norm5"], [5, 6])
    return residual, params, (8, 8, 3)


def parts(rng):
    params = branch_params(rng)
    params["right"] = zeroed(params["right"], ..., [3, 4])
    params["last"] = zeroed(params["last"], slice(None), slice(None), 0)
    return branches, params, (8, 8, 2)


@pytest.mark.long
@pytest.mark.parametrize("case", [dense, lenet5, stream, parts])
@pytest.mark.parametrize("seed", range(3))
def test_back_in_the_old_shapes_it_computes_the_same(case, seed):
    rng = np.random.default_rng(seed)
    function, params, shape = case(rng)
    small = shrink(Network(function, params), example(2, *shape))
    assert count(small.params) < count(params)
    # Trained on, so that nothing is left of the old values.
    trained = jax.tree.map(lambda leaf: np.float32(rng.uniform(0.1, 0.3, leaf.shape)), small.params)
    whole = expand(small.with_params(trained)).params
    assert jax.tree.map(np.shape, whole) == jax.tree.map(np.shape, params)
    assert report(whole).nonzeros == report(trained).nonzeros
    x = normal(rng, 3, *shape)
    expected = jax.jit(small.function)(trained, x)
    np.testing.assert_allclose(jax.jit(function)(whole, x), expected, rtol=1e-4, atol=1e-5)


def test_a_unit_of_constant_output_is_zero_and_the_bias_above_keeps_its_constant():
    params = [
        {"kernel": jnp.asarray([[1.0, 0], [2, 0]]), "bias": jnp.asarray([0.5, 2.0])},
        {"kernel": jnp.asarray([[1.0], [3]]), "bias": jnp.asarray([1.0])},
        {"kernel": jnp.ones((1, 1), jnp.bfloat16)},
    ]
    small = shrink(Network(mlp, params), example(2, 2))
    whole = expand(small).params
    np.testing.assert_array_equal(whole[0]["bias"], [0.5, 0])
    np.testing.assert_array_equal(whole[1]["kernel"], [[1], [0]])
    np.testing.assert_allclose(whole[1]["bias"], [1 + 3 * np.tanh(2.0)], rtol=1e-6)
    assert whole[2]["kernel"].dtype == jnp.bfloat16


def test_arrays_of_jax_stay_arrays_of_jax():
    params = {"table": jnp.eye(4), "kernel": jnp.eye(4).at[:, 1].set(0)}

    def embed(p, tokens):
        return jax.vmap(lambda token: p["table"][token] @ p["kernel"])(tokens)

    tokens = jnp.arange(3)
    small = shrink(Network(embed, params), tokens)
    whole = expand(small).params
    np.testing.assert_allclose(embed(whole, tokens), embed(params, tokens))  # NumPy's would fail
    on_host = expand(small.with_params(jax.tree.map(np.asarray, small.params))).params
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(on_host))


def normed(p):
    return p["scale"] * p["kernel"] / jnp.linalg.norm(p["kernel"], axis=0)


def test_units_of_a_weight_norm_are_not_divided_by_zero():
    rng = np.random.default_rng(0)
    params = {"kernel": normal(rng, 4, 6), "scale": normal(rng, 6), "out": normal(rng, 6, 2)}
    params["scale"][2] = params["out"][4] = 0
    x = normal(rng, 3, 4)

    def function(params, x):
        return jax.nn.relu(x @ normed(params)) @ params["out"]

    small = shrink(Network(function, params), x)
    assert small.params["kernel"].shape == (4, 4)
    whole = expand(small).params
    np.testing.assert_allclose(function(whole, x), function(params, x), rtol=1e-5, atol=1e-6)
    assert np.isfinite(normed(whole)).all()
    # Without a scale, a kernel of columns of norm 1 cannot be zero.
    unscaled = lambda p, x: function(p | {"scale": 1.0}, x)  # noqa: E731
    del params["scale"]
    with pytest.raises(ValueError, match="network divides by what it computes from kernel"):
        expand(shrink(Network(unscaled, params), x))


def test_constants_outside_of_the_parameters_are_refused():
    rng = np.random.default_rng(0)
    params = {"first": zeroed(normal(rng, 4, 3), slice(None), 1), "bias": jnp.ones(3)}
    params["second"] = normal(rng, 3, 2)
    mean = jnp.asarray([0.5, 0.25])

    def function(params, x):
        x = jax.nn.relu(x @ params["first"] + params["bias"])
        return x @ params["second"] - params.get("mean", mean)

    small = shrink(Network(function, params), example(2, 4))
    assert small.folded_into_closure
    with pytest.raises(ValueError, match="give shrink those arrays among the parameters"):
        expand(small)
    params["mean"] = mean
    small = shrink(Network(function, params), example(2, 4))
    assert not small.folded_into_closure
    x, whole = normal(rng, 3, 4), expand(small).params
    np.testing.assert_allclose(function(whole, x), function(params, x), atol=1e-6)


def test_bad_arguments_are_named():
    rng = np.random.default_rng(0)
    function, params, shape = dense(rng)
    network = Network(function, params)
    small = shrink(network, example(2, *shape))
    with pytest.raises(TypeError, match="network must be from shrink; got Network"):
        expand(network)
    with pytest.raises(ValueError, match="network must have the parameters that shrink left"):
        expand(small.with_params(small.params[:-1]))
    with pytest.raises(ValueError, match=r"shapes that shrink left; 0/bias has \(20,\), not"):
        expand(small.with_params(params))
