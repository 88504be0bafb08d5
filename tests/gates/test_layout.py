"""Which gates a tree gets: stacked layers, what follows, and where that is open."""

import warnings

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from sparsejax import gates
from sparsejax._where import _warned
from sparsejax.constraints import expected_density, gate_groups
from sparsejax.gates import combine, hard_concrete, per_input, per_output, per_weight, sigmoid

KEY = jax.random.key(0)


def some_gates(kinds, params):
    """Gates that are all different."""
    phi = kinds.init(KEY, params)
    counts = iter(range(1, 100))
    return jax.tree.map(lambda s: (jnp.arange(s.size).reshape(s.shape) + 1.0) * next(counts), phi)


class Block(linen.Module):
    bias: bool = True

    @linen.compact
    def __call__(self, x, _):
        hidden = jax.nn.relu(linen.Dense(5, use_bias=self.bias)(linen.LayerNorm()(x)))
        return x + linen.Dense(8, use_bias=self.bias)(hidden), None


def scanned(bias):
    net = linen.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    return net(bias).init(KEY, jnp.ones((2, 8)), None)["params"]


@pytest.mark.parametrize("bias", [True, False])
def test_stacked_layers_have_gates_of_their_own(bias):
    """A layer of them is gated as it would be by itself."""
    params = jax.tree.map(lambda leaf: leaf + 1.0, scanned(bias))
    for grouping, shapes in (
        (per_output, [(3, 1, 5), (3, 1, 8)]),
        (per_input, [(3, 8, 1), (3, 5, 1)]),
    ):
        kinds = hard_concrete(grouping=grouping)
        z = some_gates(kinds, params)
        assert [z[layer]["kernel"].shape for layer in ("Dense_0", "Dense_1")] == shapes
        gated = gates.apply(params, z)
        for number in range(3):
            layer = jax.tree.map(lambda leaf, n=number: leaf[n], params)
            own = hard_concrete(grouping=grouping, stacked_axes=0)
            mine = own.init(KEY, layer)
            for name in ("Dense_0", "Dense_1"):
                mine[name]["kernel"] = z[name]["kernel"][number]
            expected = gates.apply(layer, mine)
            for one, other in zip(jax.tree.leaves(gated), jax.tree.leaves(expected), strict=True):
                np.testing.assert_array_equal(one[number], other)
    if bias:
        z = some_gates(hard_concrete(grouping=per_output), params)
        expected = params["Dense_0"]["bias"] * z["Dense_0"]["kernel"][:, 0]
        np.testing.assert_array_equal(gates.apply(params, z)["Dense_0"]["bias"], expected)


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"kernel": struct(3, 3, 8, 16)}, (1, 1, 1, 16)),  # a convolution by itself
        ({"kernel": struct(3, 3, 8, 16), "bias": struct(16)}, (1, 1, 1, 16)),
        ({"kernel": struct(2, 3, 3, 8, 16), "bias": struct(2, 16)}, (2, 1, 1, 1, 16)),
        ({"kernel": struct(2, 4, 3, 8, 16), "bias": struct(2, 4, 16)}, (2, 4, 1, 1, 16)),
        ({"kernel": struct(1, 8, 16), "bias": struct(1, 16)}, (1, 1, 16)),
        ({"kernel": struct(3, 8, 1), "bias": struct(3, 1)}, (3, 1, 1)),
        ({"w": struct(3, 8, 16), "b": struct(3, 16)}, (3, 1, 16)),
    ],
)
def test_stacked_axes_are_those_that_the_bias_has_too(layer, expected):
    shapes = jax.eval_shape(lambda p: hard_concrete(grouping=per_output).init(KEY, p), layer)
    assert jax.tree.leaves(shapes)[0].shape == expected


def test_stacked_axes_can_be_told():
    params = {"a": {"kernel": jnp.ones((3, 4, 5))}, "b": {"kernel": jnp.ones((3, 4, 5))}}
    shapes = lambda stacked: [  # noqa: E731
        leaf.shape
        for leaf in jax.tree.leaves(
            hard_concrete(grouping=per_output, stacked_axes=stacked).init(KEY, params)
        )
    ]
    assert shapes(None) == [(1, 1, 5)] * 2
    assert shapes(1) == [(3, 1, 5)] * 2
    assert shapes({"a": True, "b": 0}) == [(3, 1, 5), (1, 1, 5)]
    assert shapes(lambda path, leaf: int(path[0].key == "b")) == [(1, 1, 5), (3, 1, 5)]
    for stacked, error, message in (
        (1.0, TypeError, "stacked_axes must be a number of leading axes, an integer >= 0; got 1.0"),
        ({"a": 1}, ValueError, "a prefix of params"),
        (2, ValueError, "fewer than two dimensions"),
        (7, ValueError, "stacked_axes must not exceed"),
    ):
        with pytest.raises(error, match=message):
            shapes(stacked)


def test_an_ambiguous_stack_is_decided_by_its_neighbours_or_refused():
    """(4, 4, 8) beside (4, 8): four layers, or one with two axes of outputs."""
    odd = {"kernel": jnp.ones((4, 4, 8)), "bias": jnp.ones((4, 8))}
    kinds = hard_concrete(grouping=per_output)
    with pytest.raises(ValueError, match="may have 0 or 1 leading axes of stacked layers; pass st"):
        kinds.init(KEY, {"odd": odd})
    stacked = {"odd": odd, "norm": {"scale": jnp.ones((4, 8)), "bias": jnp.ones((4, 8))}}
    assert kinds.init(KEY, stacked)["odd"]["kernel"].shape == (4, 1, 8)
    single = {"odd": odd, "norm": {"scale": jnp.ones(8), "bias": jnp.ones(8)}}
    with pytest.raises(ValueError, match="with one axis of outputs"):
        kinds.init(KEY, single)
    both = lambda shape: (-2, -1)  # noqa: E731
    for stacked, grouping in ((0, both), (1, per_output)):
        phi = hard_concrete(grouping=grouping, stacked_axes=stacked).init(KEY, {"odd": odd})
        gated = gates.apply({"odd": odd}, jax.tree.map(jnp.zeros_like, phi))
        np.testing.assert_array_equal(gated["odd"]["bias"], 0)


def test_a_doubtful_stack_warns_once_and_counts_as_one_layer():
    block = {"kernel": jnp.ones((3, 5, 5)), "bias": jnp.ones((3, 5))}
    params = {"blocks": block, "conv": jnp.ones((3, 3, 4, 7)), "head": jnp.ones((8, 10))}
    kinds = hard_concrete(grouping=per_output)
    _warned.clear()
    with pytest.warns(UserWarning, match=r"\['conv'\] of shape .* counts as a single layer"):
        phi = kinds.init(KEY, params)
    assert phi["conv"].shape == (1, 1, 1, 7)
    assert phi["blocks"]["kernel"].shape == (3, 1, 5)
    kinds.init(KEY, params)  # warnings are errors: not a second time


@pytest.mark.parametrize(
    "names", [("kernel", "bias"), ("w", "b"), ("w1", "b1"), ("wq", "bq"), (0, 1)]
)
@pytest.mark.parametrize("inputs", [1, 3, 4])
def test_a_bias_is_closed_with_its_unit_whatever_it_is_called(names, inputs):
    weight, bias = names
    params = {weight: jnp.ones((inputs, 3)), bias: jnp.ones(3)}
    if weight == 0:
        params = [(params[0], params[1])]
    kinds = hard_concrete(grouping=per_output)
    phi = kinds.init(KEY, params)
    z = jax.tree.map(lambda leaf: jnp.asarray([[1.0, 0.0, 0.5]]), phi)
    gated = gates.apply(params, z)
    gated = gated[0] if weight == 0 else gated
    np.testing.assert_array_equal(gated[bias], [1.0, 0.0, 0.5])
    np.testing.assert_array_equal(gated[weight], jnp.ones((inputs, 1)) * z_of(z))


def z_of(z):
    (leaf,) = jax.tree.leaves(z)
    return leaf


def test_a_sibling_with_an_entry_per_gate_must_be_told():
    params = {"layer": {"w": jnp.ones((4, 3)), "shift": jnp.ones(3), "other": jnp.ones(4)}}
    with pytest.raises(ValueError, match=r"\['shift'\] of shape \(3,\) beside .*pass tied="):
        hard_concrete(grouping=per_output).init(KEY, params)
    hard_concrete(grouping=per_input).init(
        KEY, {"layer": {**params["layer"], "other": jnp.ones(7)}}
    )
    for leader, expected in (("layer/w", 0), (None, 1)):
        kinds = hard_concrete(grouping=per_output, tied={"layer/shift": leader})
        gated = gates.apply(params, jax.tree.map(jnp.zeros_like, kinds.init(KEY, params)))
        np.testing.assert_array_equal(gated["layer"]["shift"], expected)
        np.testing.assert_array_equal(gated["layer"]["other"], 1)


def test_a_bias_of_two_kernels_must_be_told():
    params = {"w_i": jnp.ones((4, 6)), "w_h": jnp.ones((2, 6)), "b": jnp.ones(6)}
    with pytest.raises(ValueError, match=r"\['b'\] may be the bias of \['w_h'\] or \['w_i'\]"):
        hard_concrete(grouping=per_output).init(KEY, params)
    phi = hard_concrete(grouping=per_output, tied={"b": "w_h"}).init(KEY, params)
    z = jax.tree.map(jnp.ones_like, phi) | {"w_h": jnp.zeros((1, 6))}
    np.testing.assert_array_equal(gates.apply(params, z)["b"], 0)
    hard_concrete(grouping=per_output, tied={"b": None}).init(KEY, params)


def test_a_bias_that_fits_nowhere_must_be_told():
    params = {"kernel": jnp.ones((4, 6)), "bias": jnp.ones((2, 6))}  # of a gated recurrent unit
    with pytest.raises(ValueError, match="is the bias of no leaf beside it"):
        hard_concrete(grouping=per_output).init(KEY, params)


@pytest.mark.parametrize(
    ("tied", "message"),
    [
        ({"nothing": "kernel"}, "'nothing': 'kernel', but 'nothing' does not exist"),
        ({"scale": "scale"}, "but 'scale' has no gates"),
        ({"kernel": "kernel"}, "but 'kernel' has gates of its own"),
        ({"long": "kernel"}, r"'long' of shape \(7,\), which does not have one entry for each"),
    ],
)
def test_bad_ties_are_named(tied, message):
    params = {"kernel": jnp.ones((4, 3)), "scale": jnp.ones(3), "long": jnp.ones(7)}
    with pytest.raises(ValueError, match=message):
        hard_concrete(grouping=per_output, tied=tied).init(KEY, params)


def test_kernels_with_outputs_first_are_refused_or_told():
    """Those of PyTorch and Equinox; a square one shows it by nothing but its name."""
    linear = {"weight": jnp.ones((3, 4)), "bias": jnp.ones(3)}
    for grouping, axis in ((per_output, 0), (per_input, 1)):
        with pytest.raises(ValueError, match=rf"pass grouping=lambda shape: \({axis},\)"):
            hard_concrete(grouping=grouping).init(KEY, linear)
    phi = hard_concrete(grouping=lambda shape: (0,)).init(KEY, linear)
    assert phi["weight"].shape == (3, 1)
    gated = gates.apply(linear, jax.tree.map(jnp.zeros_like, phi))
    np.testing.assert_array_equal(gated["bias"], 0)
    square = {"weight": jnp.ones((3, 3)), "bias": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"may as well be \[out, in, ...\]"):
        hard_concrete(grouping=per_output).init(KEY, square)
    with pytest.raises(ValueError, match="along its first axis or along its last one"):
        hard_concrete(grouping=lambda shape: (0,)).init(KEY, square)
    for tied in ({"bias": "weight"}, {"bias": None}):
        hard_concrete(grouping=per_output, tied=tied).init(KEY, square)
    _warned.clear()
    with pytest.warns(UserWarning, match="per_output gates kernels"):
        hard_concrete(grouping=per_output).init(KEY, {"weight": jnp.ones((3, 3))})


def test_equinox_layers_are_gated_along_their_outputs():
    eqx = pytest.importorskip("equinox")
    build = lambda key: (eqx.nn.Conv2d(2, 3, 1, key=key), eqx.nn.Linear(4, 5, key=key))  # noqa: E731
    outputs = hard_concrete(grouping=lambda shape: (0,))
    model = eqx.filter(build(KEY), eqx.is_array)
    stacked = eqx.filter(eqx.filter_vmap(build)(jax.random.split(KEY, 2)), eqx.is_array)
    for tree, lead in ((model, ()), (stacked, (2,))):
        phi = outputs.init(KEY, tree)
        shapes = [leaf.shape for leaf in jax.tree.leaves(phi)]
        assert shapes == [(*lead, 3, 1, 1, 1), (*lead, 5, 1)]
        gated = gates.apply(tree, jax.tree.map(jnp.zeros_like, phi))
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(gated))


@pytest.mark.parametrize("drop_rate", [0.2, 0.5])
def test_rescaling_keeps_the_values_of_all_that_is_gated(drop_rate):
    """What is gated is multiplied by the keep rate on average, the biases included."""
    params = {
        "conv": {"kernel": jnp.ones((3, 3, 2, 6)), "bias": jnp.ones(6)},
        "norm": {"scale": jnp.ones(6), "bias": jnp.ones(6)},
    }
    tied = {"norm/bias": "conv/kernel"}
    for kinds, rate in (
        (hard_concrete(drop_rate=drop_rate, grouping=per_output, tied=tied), 1 - drop_rate),
        (sigmoid(0.3, grouping=per_output, tied=tied, scaled=False), jax.nn.sigmoid(0.3)),
        (sigmoid(0.3, grouping=per_output, tied=tied), 1),
    ):
        z = jax.tree.map(lambda leaf, r=rate: jnp.full_like(leaf, r), kinds.init(KEY, params))
        rescaled = kinds.rescale(params)
        for leaf in jax.tree.leaves(gates.apply(rescaled, z)):
            np.testing.assert_allclose(leaf, 1, rtol=1e-6)
        np.testing.assert_array_equal(rescaled["norm"]["scale"], 1)
    plain = hard_concrete(drop_rate=drop_rate).rescale(params)
    np.testing.assert_array_equal(plain["conv"]["bias"], 1)  # nothing follows gates per weight


def test_gates_keep_what_follows_them_through_all_transformations(tmp_path):
    """``jit``, ``vmap``, optimizers, Orbax and NNX variables."""
    dense = {"kernel": jnp.ones((1, 3)), "bias": jnp.ones(3)}
    params = nnx.State({"dense": {k: nnx.Param(v) for k, v in dense.items()}})
    kinds = hard_concrete(grouping=per_output)
    phi = jax.jit(kinds.init)(KEY, params)
    optimizer = optax.adam(0.1)
    state = optimizer.init(phi)
    updates, state = jax.jit(optimizer.update)(jax.tree.map(jnp.ones_like, phi), state, phi)
    phi = optax.apply_updates(phi, updates)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "phi", phi)
        checkpointer.wait_until_finished()
        phi = checkpointer.restore(tmp_path / "phi", jax.tree.map(jnp.zeros_like, phi))
    keys = jax.random.split(KEY, 4)

    @jax.jit
    @jax.vmap
    def both(key):
        z = kinds.sample(phi, key)
        return gates.apply(params, z), z

    gated, z = both(keys)
    expected = np.asarray(z["dense"]["kernel"][...])[:, 0]
    np.testing.assert_allclose(gated["dense"]["bias"][...], expected, rtol=1e-6)
    assert len(np.unique(expected)) > 1


def test_probabilities_count_what_follows():
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    kinds = combine(hard_concrete(grouping=per_output))
    probability = kinds.active_probability(kinds.init(KEY, params))
    once = expected_density(gate_groups(params, gates.broadcast_gates(params, probability)))
    assert once == expected_density(gate_groups(params, probability))
    np.testing.assert_allclose(once, probability["kernel"].mean(), rtol=1e-6)


def test_gates_per_weight_are_plain_arrays():
    params = {"kernel": jnp.ones((1, 4)), "bias": jnp.ones(4)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        phi = hard_concrete(grouping=per_weight).init(KEY, params)
    assert isinstance(phi["bias"], optax.MaskedNode)
    assert phi["kernel"].shape == (1, 4)


def test_combined_gates_tie_a_leaf_once():
    params = {"w_i": jnp.ones((4, 6)), "w_h": jnp.ones((2, 6)), "b": jnp.ones(6)}
    one = lambda name: hard_concrete(  # noqa: E731
        grouping=per_output, where=lambda path, leaf: path[0].key == name, tied={"b": name}
    )
    with pytest.raises(ValueError, match=r"not overlap in where; 2 of them gate \['b'\]"):
        combine(one("w_i"), one("w_h")).init(KEY, params)


@pytest.mark.parametrize("grouping", [per_input, per_output])
def test_kernels_of_attention_need_a_grouping_that_names_their_axes(grouping):
    params = {"kernel": jnp.ones((8, 2, 4)), "bias": jnp.ones((2, 4))}
    with pytest.raises(ValueError, match=r"shows that \['kernel'\] of shape .* has 2; pass"):
        hard_concrete(grouping=grouping).init(jax.random.key(0), params)
    told = hard_concrete(grouping=lambda shape: (-2, -1))
    phi = told.init(jax.random.key(0), params)
    assert phi["kernel"].shape == (1, 2, 4)
    for leaf in gates.apply(params, jax.tree.map(jnp.zeros_like, phi)).values():
        np.testing.assert_array_equal(leaf, 0)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="grouping must be per_weight, .*; got 'per_input'"):
        hard_concrete(grouping="per_input").init(KEY, {"kernel": jnp.ones((4, 5))})
    with pytest.raises(TypeError, match=r"got a key: call init\(key, params\)"):
        hard_concrete().init({"kernel": jnp.ones((4, 5))}, jax.random.key(0))


def test_a_tree_of_gates_that_lost_what_is_tied_is_refused():
    """As Orbax restores it without a template: None in the place of a node without leaves."""
    kinds = hard_concrete(grouping=per_output)
    params = {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(5)}
    z = kinds.median(kinds.init(jax.random.key(0), params))
    with pytest.raises(ValueError, match="it has None for bias. A checkpoint that is restored"):
        gates.apply(params, {"kernel": z["kernel"], "bias": None})
