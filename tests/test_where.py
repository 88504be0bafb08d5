"""Which leaves the default of ``where`` chooses, in every framework's names, stacked or not."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from sparsejax import chosen, models
from sparsejax._where import _warned, choose, is_function, refuse_tied, resolve_where
from sparsejax.compression import l0_ball, partition
from sparsejax.projections import (
    hard_threshold,
    project_blocks,
    project_l0_ball,
    project_l1_ball,
    project_n_m,
    project_units,
    soft_threshold,
    top_k_mask,
)

KEY = jax.random.key(0)


def s(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def chosen_names(tree, where=None):
    """The paths of the chosen leaves, without brackets and quotes; no warning may be given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = resolve_where(tree, where)
    flat, _ = jax.tree_util.tree_flatten_with_path(mask)
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p, m in flat if m]


class Transformer(linen.Module):
    @linen.compact
    def __call__(self, x, _=None):
        h = linen.LayerNorm()(x)
        x = x + linen.MultiHeadDotProductAttention(4)(h, h)
        h = linen.RMSNorm()(x)
        h = linen.DenseGeneral((2, 6))(h)
        x = x + linen.DenseGeneral(12, axis=(-2, -1))(h)
        x = x + linen.RNN(linen.GRUCell(12))(x)
        x = linen.Conv(12, (3,))(linen.GroupNorm(num_groups=3)(x))
        return x + linen.Embed(7, 12)(jnp.zeros(x.shape[:2], int)), None


def linen_params(length=None):
    net = Transformer()
    if length:
        kind = linen.scan(
            Transformer, variable_axes={"params": 0}, split_rngs={"params": True}, length=length
        )
        net = kind()
    return jax.eval_shape(lambda: net.init(KEY, jnp.ones((2, 5, 12)), None))["params"]


class Model(nnx.Module):
    def __init__(self, rngs):
        self.lora = nnx.LoRALinear(8, 6, lora_rank=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False)
        self.embed = nnx.Embed(9, 8, rngs=rngs)
        self.cell = nnx.LSTMCell(8, 4, rngs=rngs)
        self.conv = nnx.ConvTranspose(3, 4, (3, 3), rngs=rngs)
        self.rms = nnx.RMSNorm(8, rngs=rngs)
        self.einsum = nnx.Einsum("abc,cde->abde", (8, 2, 4), (2, 4), rngs=rngs)
        self.slope = nnx.PReLU()


def is_kernel(name):
    return name.rsplit("/")[-1] in ("kernel", "embedding", "lora_a", "lora_b")


@pytest.mark.parametrize("length", [None, 1, 3, 12])
def test_linen(length):
    params = linen_params(length)
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in flat]
    assert chosen_names(params) == [name for name in names if is_kernel(name)]


def test_nnx_stacked_or_not():
    single = jax.eval_shape(lambda: nnx.state(Model(nnx.Rngs(0)), nnx.Param))
    stacked = jax.tree.map(lambda leaf: s(3, *leaf.shape), single)
    flat, _ = jax.tree_util.tree_flatten_with_path(single)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in flat]
    kernels = [name for name in names if is_kernel(name.removesuffix("/value"))]
    assert len(kernels) == 18
    assert chosen_names(single) == chosen_names(stacked) == kernels


@pytest.mark.parametrize(
    "model", [models.LeNet300, models.LeNet5, models.ResNet20, models.VGG16Cifar, models.VGG16]
)
def test_in_our_models_it_is_what_has_two_or_more_dimensions(model):
    params = jax.eval_shape(lambda: nnx.state(model(rngs=nnx.Rngs(0)), nnx.Param))
    assert chosen_names(params) == chosen_names(params, lambda path, leaf: leaf.ndim >= 2)


def test_equinox_stacked_or_not():
    eqx = pytest.importorskip("equinox")

    class Scale(eqx.Module):  # a layer of the user's own, whose type says what it is
        weight: jax.Array

    class RMSNorm(Scale):
        pass

    def build(key):
        return {
            "linear": eqx.nn.Linear(6, 8, key=key),
            "plain": eqx.nn.Linear(6, 8, use_bias=False, key=key),
            "conv": eqx.nn.Conv2d(3, 8, 3, key=key),
            "pointwise": eqx.nn.Conv2d(3, 8, 1, key=key),
            "up": eqx.nn.ConvTranspose1d(3, 8, 2, key=key),
            "gru": eqx.nn.GRUCell(3, 4, key=key),
            "lstm": eqx.nn.LSTMCell(3, 4, key=key),
            "attention": eqx.nn.MultiheadAttention(2, 8, key=key, use_query_bias=True),
            "embedding": eqx.nn.Embedding(5, 8, key=key),
            "first": eqx.nn.LayerNorm(8),
            "image": eqx.nn.LayerNorm((3, 4, 4)),
            "groups": eqx.nn.GroupNorm(2, 8),
            "second": eqx.nn.RMSNorm(8, use_bias=False),
            "third": RMSNorm(jnp.ones(8)),
        }

    expected = [
        *(f"attention/{part}_proj/weight" for part in ("query", "key", "value", "output")),
        *("conv/weight", "embedding/weight", "gru/weight_ih", "gru/weight_hh", "linear/weight"),
        *("lstm/weight_ih", "lstm/weight_hh", "plain/weight", "pointwise/weight", "up/weight"),
    ]
    single = jax.eval_shape(lambda: eqx.filter(build(KEY), eqx.is_array))
    stacked = jax.tree.map(lambda leaf: s(3, *leaf.shape), single)
    assert chosen_names(single) == chosen_names(stacked) == expected


HAIKU = {
    "mlp/~/linear_0": {"w": s(8, 4), "b": s(4)},
    "mlp/~/layer_norm": {"scale": s(4), "offset": s(4)},
    "embed": {"embeddings": s(9, 4)},
    "conv2_d": {"w": s(3, 3, 2, 4), "b": s(4, 1, 1)},
    "batch_norm": {"scale": s(1, 1, 1, 4), "offset": s(1, 1, 1, 4)},
    "gru": {"w_i": s(4, 12), "w_h": s(4, 12), "b": s(12)},
    "multi_head_attention/query": {"w": s(4, 4), "b": s(4)},
}
KERAS = {
    "dense": {"kernel": s(8, 4), "bias": s(4)},
    "layer_normalization": {"gamma": s(4), "beta": s(4)},
    "batch_normalization": {"gamma": s(4), "moving_mean": s(4), "moving_variance": s(4)},
    "p_re_lu": {"alpha": s(1, 1, 4)},
    "gru": {"kernel": s(4, 12), "recurrent_kernel": s(4, 12), "bias": s(2, 12)},
    "separable": {"depthwise_kernel": s(3, 3, 4, 1), "pointwise_kernel": s(1, 1, 4, 8)},
    "embedding": {"embeddings": s(9, 4)},
    "attention": {"query": {"kernel": s(8, 2, 4), "bias": s(2, 4)}},
}
TORCH = {
    "model.layers.0.self_attn.q_proj.weight": s(8, 8),
    "model.layers.0.self_attn.q_proj.bias": s(8),
    "model.layers.0.input_layernorm.weight": s(8),
    "model.layers.0.mlp.experts.weight": s(4, 8, 8),
    "model.layers.0.mlp.experts.bias": s(4, 8),
    "model.embed_tokens.weight": s(99, 8),
    "model.conv.weight": s(8, 3, 3, 3),
    "model.conv.bias": s(8),
    "model.rnn.weight_ih_l0": s(32, 8),
    "model.rnn.weight_hh_l0": s(32, 8),
    "model.rnn.bias_ih_l0": s(32),
    "model.attn.in_proj_weight": s(24, 8),
    "model.attn.in_proj_bias": s(24),
    "model.normed.weight_g": s(8, 1),
    "model.normed.weight_v": s(8, 4),
    "model.ls1.gamma": s(8),
    "model.cls_token": s(1, 1, 8),
    "model.pos_embed": s(1, 17, 8),
    "model.bn1.running_mean": s(8),
}
GPT = {
    "wte": s(99, 8),
    "blocks": {
        "ln_1": {"g": s(2, 8), "b": s(2, 8)},
        "ln_2": {"w": s(2, 8), "b": s(2, 8)},
        "attn": {"w": s(2, 8, 24), "b": s(2, 24)},
        "attn_norm": s(2, 8),
    },
}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (HAIKU, "conv2_d/w embed/embeddings gru/w_h gru/w_i mlp/~/linear_0/w "
         "multi_head_attention/query/w"),
        (KERAS, "attention/query/kernel dense/kernel embedding/embeddings gru/kernel "
         "gru/recurrent_kernel separable/depthwise_kernel separable/pointwise_kernel"),
        (TORCH, "model.attn.in_proj_weight model.conv.weight model.embed_tokens.weight "
         "model.layers.0.mlp.experts.weight model.layers.0.self_attn.q_proj.weight "
         "model.normed.weight_v model.pos_embed model.rnn.weight_hh_l0 model.rnn.weight_ih_l0"),
        (GPT, "blocks/attn/w wte"),
        ({"w1": s(8, 4), "b1": s(4), "w2": s(4, 1), "b2": s(1)}, "w1 w2"),
        ({"w1": s(5, 8, 4), "b1": s(5, 4), "w2": s(5, 4, 1), "b2": s(5, 1)}, "w1 w2"),
        ({"wq": s(3, 8, 4), "bq": s(3, 4), "wo": s(3, 4, 8), "bo": s(3, 8)}, "wo wq"),
        ({"a": s(20, 4), "b": s(4, 30)}, "a b"),
        ({"lora_a": s(20, 1), "lora_b": s(1, 30)}, "lora_a lora_b"),
        ({"a": s(), "b": s(4, 30)}, "b"),
        ({"a": s(4, 8), "b": s(8, 8), "kernel": s(4, 8), "bias": s(8)}, "a b kernel"),
        ({"embed": s(99, 8), "head": s(8, 99)}, "embed head"),
        ({"f": s(8, 8), "g": s(8, 8), "A": s(8, 8), "B": s(8, 2)}, "A B f g"),
        ({"x": s(3, 3, 8, 16), "y": s(8, 16), "z": s(16)}, "x y"),
        ({"head": s(64, 1), "body": s(7, 64)}, "body head"),
        ([(s(8, 4), s(4)), (s(4, 1), s(1))], "0/0 1/0"),
        ([(s(3, 8, 4), s(3, 4)), (s(3, 4, 1), s(3, 1))], "0/0 1/0"),
        ([[s(8, 4), s(4)], [s(1, 4), s(1, 4)]], "0/0 1/0 1/1"),
        ({"enc": s(784, 64), "mean": s(64, 8), "logvar": s(64, 8)}, "enc logvar mean"),
        ({"kernel": s(1, 8), "bias": s(8)}, "kernel"),
        ({"critic": {"value": s(8, 4)}, "value": s(4, 2)}, "critic/value value"),
        ({"ada_norm": {"weight": s(16, 8), "bias": s(16)}}, "ada_norm/weight"),
        (s(8, 4), ""),
        (s(1, 4), ""),
    ],
)  # fmt: skip
def test_names_and_neighbours(tree, expected):
    """Also for arrays, and for tracers."""
    names = expected.split() or [""]
    assert chosen_names(tree) == names
    dtypes = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.bfloat16), tree)  # noqa: E731
    found = []
    jax.eval_shape(lambda t: found.extend(chosen_names(t)), jax.eval_shape(dtypes))
    assert found == names


@pytest.mark.parametrize(
    ("tree", "left_out", "why"),
    [
        ({"kernel": s(3, 8, 9), "shift": s(3, 9)}, "shift", "a bias of ['kernel']"),
        ({"kernel": s(3, 8, 9), "bias": s(3, 9), "x": s(3, 7)}, "x", "stacked as (3,)"),
        ({"lin": {"w": s(3, 9, 9), "b": s(3, 9)}, "pre": {"weight": s(3, 9)}}, "weight", "(3,)"),
        ({"u": s(3, 9, 8), "w": s(3, 9), "b": s(3, 9)}, "b", "as the scale and the bias"),
        ({"u": s(9, 8), "norm": {"x": s(3, 9)}}, "x", "a leaf of a normalisation"),
        ({"u": s(9, 8), "x": s(1, 8)}, "x", "the shape of a bias of ['u']"),
        ({"u": s(9, 8), "x": s(1, 1, 7)}, "x", "at most one of its dimensions"),
    ],
)
def test_what_is_doubtful_is_left_out_with_one_warning(tree, left_out, why):
    _warned.clear()
    with pytest.warns(UserWarning, match="pass where") as caught:
        mask = resolve_where(tree, None)
    messages = [str(w.message) for w in caught if f"['{left_out}']" in str(w.message)]
    assert any(why in message and "pass where" in message for message in messages)
    for path, is_chosen in jax.tree_util.tree_flatten_with_path(mask)[0]:
        if path[-1].key == left_out:
            assert not is_chosen
    resolve_where(tree, None)  # warnings are errors: not a second time
    _warned.clear()
    assert left_out in str(chosen_names(tree, lambda path, leaf: leaf.ndim >= 2))


def test_a_flat_tree_of_many_layers():
    tree = {f"w{n}": s(2, 3) for n in range(500)} | {f"b{n}": s(3) for n in range(500)}
    assert len(chosen_names(tree)) == 500


W = jax.random.normal(jax.random.key(1), (20, 8))


def everywhere(path, leaf):
    return True


@pytest.mark.parametrize(
    "project",
    [
        lambda t: project_l0_ball(t, 51),
        lambda t: project_l1_ball(t, 9.0),
        lambda t: hard_threshold(t, 0.9),
        lambda t: soft_threshold(t, 0.9),
        lambda t: project_n_m(t, 1, 4),
        lambda t: project_units(t, 3),
        lambda t: project_units(t, 60, cost={"embed": 20, "head": 20}),
        lambda t: project_blocks(t, 5, (2, 2)),
        lambda t: top_k_mask(t, 51),
        lambda t: top_k_mask(t, 51, within={"embed": W > -0.5, "head": W > -0.5}),
    ],
)
def test_a_tied_array_is_projected_once_and_stays_tied(project):
    for array in (W, np.asarray(W)):
        out = project({"embed": array, "head": array})
        assert out["embed"] is out["head"]
        alone = jax.tree.map(lambda leaf: leaf, {"embed": W})
        try:
            expected = project(alone)["embed"]
        except ValueError:  # cost and within have two entries
            continue
        np.testing.assert_array_equal(out["embed"], expected)
    inside = jax.jit(lambda w: project({"embed": w, "head": w}))(W)  # one tracer
    np.testing.assert_array_equal(inside["embed"], inside["head"])
    np.testing.assert_allclose(inside["embed"], out["embed"], rtol=1e-6)


def test_only_chosen_places_of_an_array_are_tied():
    """A tree that keeps the weights to rewind to beside those that are trained."""
    tree = {"now": W, "early": W}
    out = project_l0_ball(tree, 10, {"now": True, "early": False})
    assert out["early"] is W
    assert int((out["now"] != 0).sum()) == 10


def test_chosen_leaves_name_all_places_of_a_tied_one():
    found = choose({"a": W, "b": {"c": W}, "d": W + 1}, None)
    assert found.paths == ["['a'] and ['b']['c']", "['d']"]
    assert (found.size, found.places) == (320, [0, 0, 1])
    assert found.of(["first", "second", "third"]) == ["first", "third"]


def test_tied_arrays_can_be_refused():
    refuse_tied({"a": W, "b": W + 0})
    refuse_tied({"a": W, "b": W}, {"a": True, "b": False})
    refuse_tied({"a": s(3, 3), "b": s(3, 3)})
    with pytest.raises(ValueError, match=r"must hold each array once; .* at \['a'\] and \['b'\]"):
        refuse_tied({"a": W, "b": W})


def test_leaves_that_are_no_arrays_are_named():
    tree = {"layer": {"kernel": W, "activation": jax.nn.relu}}
    for where in (None, lambda path, leaf: leaf.ndim >= 2):
        with pytest.raises(TypeError, match=r"\['layer'\]\['activation'\] is .*is_array"):
            project_l0_ball(tree, 5, where)
    with pytest.raises(TypeError, match=r"\['activation'\] is"):
        project_l0_ball(tree, 5, everywhere)
    mask = {"layer": {"kernel": True, "activation": False}}
    out = project_l0_ball(tree, 5, mask)  # what is not chosen passes
    assert out["layer"]["activation"] is jax.nn.relu


def test_an_equinox_module_is_named_by_its_leaf():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(3, 3, 4, 2, key=KEY)
    with pytest.raises(TypeError, match=r"\.activation is .*equinox.filter\(model"):
        project_l0_ball(model, 5)
    params = eqx.filter(model, eqx.is_array)
    project_l0_ball(params, 5)
    with pytest.raises(AttributeError, match="no attribute 'key'") as caught:
        project_l0_ball(params, 5, lambda path, leaf: path[0].key == "layers")
    assert "path of .layers[0].weight" in caught.value.__notes__[0]
    assert "keystr" in caught.value.__notes__[0]


def test_a_module_that_can_be_called_is_a_tree():
    eqx = pytest.importorskip("equinox")
    params = eqx.filter(eqx.nn.Linear(2, 3, key=jax.random.key(0)), eqx.is_array)
    bools = jax.tree.map(lambda leaf: leaf.ndim == 2, params)
    assert callable(bools)
    assert jax.tree.leaves(resolve_where(params, bools)) == [True, False]
    c_step = partition({True: l0_ball(1), False: l0_ball(0)}, bools)
    found, _ = c_step.project(params, 1.0, c_step.init(params))
    assert [int((leaf != 0).sum()) for leaf in jax.tree.leaves(found)] == [1, 0]
    for function in (jax.jit(lambda path, leaf: True), jax.tree_util.Partial(max, jnp.ones(3))):
        assert is_function(function)


def test_errors_of_where():
    with pytest.raises(ValueError, match=r"1 leaves, \['bias'\] \(a bias\)\. Pass"):
        resolve_where({"bias": s(3)}, None)
    with pytest.raises(ZeroDivisionError):
        resolve_where({"bias": s(3)}, lambda path, leaf: 1 / 0)


@pytest.mark.parametrize("around", [{}, {"bias": jnp.ones(8)}, {"q_bias": jnp.ones(8)}])
def test_a_token_of_unknown_name_is_left_out_whatever_stands_beside_it(around):
    tree = {"token": jnp.ones((1, 1, 8)), "kernel": jnp.ones((8, 8)), **around}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = chosen(tree)
    assert [leaf.path for leaf in found.leaves if leaf.chosen] == ["['kernel']"]


def test_a_column_b_beside_w_is_a_bias():
    found = chosen({"w": jnp.ones((4, 3)), "b": jnp.ones((4, 1))})
    assert [leaf.path for leaf in found.leaves if leaf.chosen] == ["['w']"]
    # Of two layers without such names, and of LoRA's factors, both are kernels.
    for tree in (
        {"u": jnp.ones((4, 4)), "v": jnp.ones((4, 1))},
        {"a": jnp.ones((4, 1)), "b": jnp.ones((1, 4))},
    ):
        assert all(leaf.chosen for leaf in chosen(tree).leaves)
