import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsejax import gates
from sparsejax.constraints import expected_density, gate_groups
from sparsejax.gates import combine, hard_concrete, per_input, per_output

IMAGES = jax.random.normal(jax.random.key(9), (4, 8, 8, 3))


class Net(nnx.Module):
    """A convolution with batch norm behind it, and a dense layer."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(6 * 64, 5, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.conv(x)))
        return self.dense(x.reshape(len(x), -1))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = jax.nn.relu(linen.Conv(6, (3, 3), name="conv")(x))
        return linen.Dense(5, name="dense")(x.reshape(len(x), -1))


def in_layer(name):
    return lambda path, leaf: name in jax.tree_util.keystr(path) and jnp.ndim(leaf) >= 2


def kinds(tied=None):
    return combine(
        hard_concrete(grouping=per_output, where=in_layer("conv"), tied=tied),
        hard_concrete(grouping=per_input, where=in_layer("dense"), drop_rate=0.2),
    )


KINDS = kinds({"norm/scale": "conv/kernel", "norm/bias": "conv/kernel"})


@pytest.fixture(scope="module")
def net():
    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    keys = iter(jax.random.split(jax.random.key(1), 20))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape), params)
    return graph, params, rest


def test_a_closed_channel_is_gone_batch_norm_and_all(net):
    """Its output is zero, so nothing of it reaches the dense layer."""
    graph, params, rest = net
    z = KINDS.median(KINDS.init(jax.random.key(2), params))
    z["conv"]["kernel"] = jnp.asarray([1.0, 0.0, 1.0, 0.0, 1.0, 1.0]).reshape(1, 1, 1, 6)
    z["dense"]["kernel"] = jnp.ones((6 * 64, 1))
    gated = gates.apply(params, z)
    model = nnx.merge(graph, gated, rest)
    hidden = jax.nn.relu(model.norm(model.conv(IMAGES)))
    np.testing.assert_array_equal(np.asarray(hidden)[..., [1, 3]], 0)
    assert (np.asarray(hidden)[..., [0, 2, 4, 5]] != 0).any()
    alone = kinds().median(kinds().init(jax.random.key(2), params))
    alone["conv"]["kernel"] = z["conv"]["kernel"]
    without = gates.apply(params, alone)  # the norm's bias keeps the channel alive
    without["norm"]["bias"] = params["norm"]["bias"].replace(jnp.ones(6))
    model = nnx.merge(graph, without, rest)
    assert (np.asarray(jax.nn.relu(model.norm(model.conv(IMAGES))))[..., [1, 3]] != 0).any()


def test_gates_multiply_their_groups(net):
    _, params, _ = net
    phi = KINDS.init(jax.random.key(2), params)
    z = jax.jit(KINDS.sample)(phi, jax.random.key(3))
    gated = jax.jit(gates.apply)(params, z)
    get = lambda tree, layer, name: np.asarray(tree[layer][name][...])  # noqa: E731
    per_channel = np.asarray(z["conv"]["kernel"]).reshape(-1)
    per_unit = np.asarray(z["dense"]["kernel"]).reshape(-1)
    for layer, name in (("conv", "kernel"), ("conv", "bias"), ("norm", "scale"), ("norm", "bias")):
        expected = get(params, layer, name) * per_channel
        np.testing.assert_allclose(get(gated, layer, name), expected, rtol=1e-6)
    expected = get(params, "dense", "kernel") * per_unit[:, None]
    np.testing.assert_allclose(get(gated, "dense", "kernel"), expected, rtol=1e-6)
    np.testing.assert_array_equal(get(gated, "dense", "bias"), get(params, "dense", "bias"))


def test_every_parameter_is_counted_once(net):
    """Each one is as likely to stay as its gate, and what has no gate stays for certain."""
    _, params, _ = net
    probability = KINDS.active_probability(KINDS.init(jax.random.key(2), params))
    groups = gate_groups(params, gates.broadcast_gates(params, probability))
    everything = jax.tree.map(jnp.ones_like, params)
    stays = gates.apply(everything, probability)
    expected = sum(float(leaf.sum()) for leaf in jax.tree.leaves(stays))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(expected_density(groups), expected / total, rtol=1e-5)
    halves = jax.tree.map(lambda p: jnp.full_like(p, 0.5), probability)
    counted = expected_density(gate_groups(params, gates.broadcast_gates(params, halves)))
    np.testing.assert_allclose(counted, (0.5 * (total - 5) + 5) / total, rtol=1e-6)


def test_a_linen_network_is_gated_from_outside_too():
    model = LinenNet()
    params = model.init(jax.random.key(0), IMAGES)["params"]
    gated = kinds()
    phi = gated.init(jax.random.key(1), params)

    @jax.jit
    def loss(params, phi, key):
        return (
            model.apply({"params": gates.apply(params, gated.sample(phi, key))}, IMAGES) ** 2
        ).sum()

    gradients = jax.grad(loss, argnums=(0, 1))(params, phi, jax.random.key(2))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradients[1]))
    ones = jax.tree.map(jnp.ones_like, gated.median(phi))
    plain = model.apply({"params": params}, IMAGES)
    open_ = model.apply({"params": gates.apply(params, ones)}, IMAGES)
    np.testing.assert_array_equal(plain, open_)


@pytest.mark.parametrize("promotion", ["standard", "strict"])
def test_parameters_keep_their_dtype(promotion):
    params = {"kernel": jnp.ones((4, 3), jnp.bfloat16), "bias": jnp.ones(3, jnp.bfloat16)}
    some = hard_concrete(grouping=per_output)
    with jax.numpy_dtype_promotion(promotion):
        rescaled = some.rescale(params)
        gated = gates.apply(rescaled, some.median(some.init(jax.random.key(0), params)))
    assert {leaf.dtype for leaf in jax.tree.leaves(gated)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("grouping", [gates.per_weight, per_input])
@pytest.mark.parametrize("inputs", [1, 3, 4])
def test_a_bias_follows_gates_of_outputs_alone(grouping, inputs):
    params = {"kernel": jnp.ones((inputs, 3)), "bias": jnp.ones(3)}
    some = hard_concrete(grouping=grouping)
    z = jax.tree.map(jnp.zeros_like, some.median(some.init(jax.random.key(0), params)))
    gated = gates.apply(params, z)
    np.testing.assert_array_equal(gated["bias"], 1)
    np.testing.assert_array_equal(gated["kernel"], 0)


def test_combined_gates_must_not_overlap():
    both = combine(hard_concrete(), hard_concrete(grouping=per_output))
    with pytest.raises(ValueError, match=r"not overlap in where; 2 of them gate \['kernel'\]"):
        both.init(jax.random.key(0), {"kernel": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="at least one kind"):
        combine()


def test_gates_of_another_tree_are_named():
    with pytest.raises(ValueError, match="z must have the structure of params; it has gates for b"):
        gates.apply({"a": jnp.ones((2, 2))}, {"b": jnp.ones((2, 2))})


def test_gates_that_do_not_broadcast_are_named():
    with pytest.raises(ValueError, match=r"for a of shape \(2, 2\) have shape \(2, 3\)"):
        gates.apply({"a": jnp.ones((2, 2))}, {"a": jnp.ones((2, 3))})


def test_a_tree_made_by_hand_gates_what_it_has_arrays_for():
    """A gate of length 1 along an axis says nothing of what else it gates."""
    params = {"kernel": jnp.ones((1, 4)), "bias": jnp.arange(1.0, 5.0)}
    z = {"kernel": jnp.array([[1.0, 0.0, 1.0, 0.0]]), "bias": optax.MaskedNode()}
    gated = gates.apply(params, z)
    np.testing.assert_array_equal(gated["bias"], params["bias"])
    np.testing.assert_array_equal(gated["kernel"], z["kernel"])


def test_no_name_means_anything_special():
    params = {"critic": {"value": jnp.eye(3)}, "bias": jnp.ones(3)}
    z = {"critic": {"value": jnp.zeros((1, 3))}, "bias": optax.MaskedNode()}
    gated = gates.apply(params, z)
    np.testing.assert_array_equal(gated["bias"], 1)
    np.testing.assert_array_equal(gated["critic"]["value"], 0)
