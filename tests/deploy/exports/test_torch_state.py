"""PyTorch's own layers, where it is installed, and its layouts written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.deploy import torch_state
from sparsejax.models import LeNet5, LeNet300, VGG16Cifar

RNG = np.random.default_rng(0)


def test_kernels_are_turned():
    conv = RNG.normal(size=(3, 5, 2, 4)).astype(np.float32)  # height, width, in, out
    dense = RNG.normal(size=(2 * 3 * 4, 6)).astype(jnp.bfloat16)
    norm = {"scale": np.ones(4), "bias": np.zeros(4), "mean": np.full(4, 2.0), "var": np.ones(4)}
    params = {"a": {"conv": {"kernel": conv}, "norm": norm}, "dense": {"kernel": dense}}
    state = torch_state(params, {"dense": (2, 3)}, {"a/conv": "conv"})
    assert set(state) == {
        "a.conv.weight", "a.norm.weight", "a.norm.bias", "a.norm.running_mean",
        "a.norm.running_var", "dense.weight",
    }  # fmt: skip
    assert state["a.conv.weight"][3, 1, 2, 4] == conv[2, 4, 1, 3]
    assert state["dense.weight"].dtype == jnp.bfloat16
    for height, width, channel in np.ndindex(2, 3, 4):
        here, there = (height * 3 + width) * 4 + channel, (channel * 2 + height) * 3 + width
        np.testing.assert_array_equal(state["dense.weight"][:, there], dense[here])
    assert all(array.flags.c_contiguous for array in state.values())


def test_bad_maps_are_named():
    params = {"dense": {"kernel": np.ones((10, 2))}}
    with pytest.raises(ValueError, match=r"params have no \['other'\]"):
        torch_state(params, {"other": (1, 1)})
    with pytest.raises(ValueError, match=r"dense has a kernel of shape \(10, 2\).* 2 x 3"):
        torch_state(params, {"dense": (2, 3)})
    with pytest.raises(ValueError, match="two leaves for norm.weight"):
        torch_state({"norm": {"scale": np.ones(1), "weight": np.ones(1)}})


# PyTorch's layers as its documentation defines them, channels first


def conv(x, weight, stride=1, groups=1):
    """Images [batch, in, *sides], weight [out, in / groups, *window], no padding."""
    window = weight.shape[2:]
    sides = [(n - k) // stride + 1 for n, k in zip(x.shape[2:], window, strict=True)]
    out = np.zeros((len(x), len(weight), *sides))
    each_in, each_out = weight.shape[1], len(weight) // groups
    for unit in range(len(weight)):
        group = unit // each_out
        for place in np.ndindex(*sides):
            cut = tuple(
                slice(p * stride, p * stride + k) for p, k in zip(place, window, strict=True)
            )
            piece = x[(slice(None), slice(group * each_in, (group + 1) * each_in), *cut)]
            out[(slice(None), unit, *place)] = (piece * weight[unit]).reshape(len(x), -1).sum(1)
    return out


def conv_transpose(x, weight, stride):
    """Images [batch, in, *sides], weight [in, out, *window], no padding."""
    window = weight.shape[2:]
    sides = [(n - 1) * stride + k for n, k in zip(x.shape[2:], window, strict=True)]
    out = np.zeros((len(x), weight.shape[1], *sides))
    for place in np.ndindex(*x.shape[2:]):
        cut = tuple(slice(p * stride, p * stride + k) for p, k in zip(place, window, strict=True))
        pixel = x[(slice(None), slice(None), *place)]
        out[(slice(None), slice(None), *cut)] += np.tensordot(pixel, weight, axes=1)
    return out


def first(x):
    """From channels last to channels first."""
    return np.moveaxis(np.asarray(x, np.float64), -1, 1)


@pytest.mark.parametrize("sides", [(7,), (6, 7), (4, 5, 4)])
@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (2, 1), (4, 1)])
def test_convolutions_compute_what_pytorch_defines(sides, groups, stride):
    window = (3, 2, 2)[: len(sides)]
    layer = nnx.Conv(
        4, 8, window, stride, padding="VALID", feature_group_count=groups, rngs=nnx.Rngs(0)
    )
    x = RNG.normal(size=(2, *sides, 4)).astype(np.float32)
    state = torch_state({"conv": nnx.state(layer)}, kinds={"conv": "conv"})
    assert state["conv.weight"].shape == (8, 4 // groups, *window)
    found = conv(first(x), state["conv.weight"], stride, groups)
    np.testing.assert_allclose(found, first(layer(x)), atol=1e-5)


@pytest.mark.parametrize("sides", [(4,), (4, 3), (2, 3, 2)])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolutions_compute_what_pytorch_defines(sides, swapped, stride):
    window = (3, 2, 2)[: len(sides)]
    layer = nnx.ConvTranspose(
        2, 5, window, stride, padding="VALID", transpose_kernel=swapped, use_bias=False,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    x = RNG.normal(size=(2, *sides, 2)).astype(np.float32)
    kind = "conv_transpose_swap" if swapped else "conv_transpose"
    state = torch_state({"up": nnx.state(layer)}, kinds={"up": kind})
    assert state["up.weight"].shape == (2, 5, *window)
    found = conv_transpose(first(x), state["up.weight"], stride)
    wanted = first(layer(x))
    found = found[tuple(slice(n) for n in wanted.shape)]  # Flax: at least stride * side
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_heads_of_attention_are_dense_layers():
    layer = nnx.MultiHeadAttention(4, 6, 12, decode=False, rngs=nnx.Rngs(0))
    state = nnx.state(layer)
    kinds = dict.fromkeys(("query", "key", "value"), "split_heads") | {"out": "merge_heads"}
    state["query"]["bias"][...] = RNG.normal(size=(4, 3))
    found = torch_state({"attention": state}, kinds={f"attention/{k}": v for k, v in kinds.items()})
    assert found["attention.query.weight"].shape == (12, 6)
    assert found["attention.query.bias"].shape == (12,)
    assert found["attention.out.weight"].shape == (6, 12)
    x = RNG.normal(size=(5, 6)).astype(np.float32)
    ours = layer.query(x)
    theirs = x @ found["attention.query.weight"].T + found["attention.query.bias"]
    np.testing.assert_allclose(theirs.reshape(5, 4, 3), ours, atol=1e-5)
    heads = np.asarray(ours)
    theirs = heads.reshape(5, 12) @ found["attention.out.weight"].T + found["attention.out.bias"]
    np.testing.assert_allclose(theirs, layer.out(heads), atol=1e-5)


def test_names_and_shapes_that_stay():
    embedding = RNG.normal(size=(7, 3)).astype(np.float32)
    cell = nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0))
    state = torch_state(
        {
            "embed": {"embedding": embedding},
            "head": {"logit_scale": jnp.asarray(2.0), "value": np.eye(3)},
            "cell": nnx.state(cell, nnx.Param),
            "table": np.ones((2, 3, 4)),
        }
    )
    np.testing.assert_array_equal(state["embed.weight"], embedding)
    assert state["head.logit_scale"].shape == ()
    assert state["head.value"].shape == (3, 3)
    assert state["table"].shape == (2, 3, 4)
    np.testing.assert_array_equal(state["cell.ii.weight"], np.asarray(cell.ii.kernel[...]).T)
    assert set(torch_state({"kernel": np.ones((3, 2)), "bias": np.ones(2)})) == {"weight", "bias"}
    np.testing.assert_array_equal(torch_state(np.ones(3))[""], np.ones(3))


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (5, 4, 6), (2, 3, 3, 4, 6), (3,), (2,) * 6])
def test_a_kernel_whose_layer_is_not_told_is_refused(shape):
    with pytest.raises(ValueError, match=r"up/kernel of shape .* does not say to what layer"):
        torch_state({"up": {"kernel": np.ones(shape)}})


@pytest.mark.parametrize(
    ("tree", "kinds", "message"),
    [
        (
            {"up": {"kernel": np.ones((3, 3, 4, 6))}},
            {"up": "deconv"},
            "kinds must be among .*deconv",
        ),
        (
            {"up": {"kernel": np.ones((3, 3, 4, 6))}},
            {"up": "linear"},
            r"such kernels have 2 dimens",
        ),
        ({"a": {"kernel": np.ones((4, 6))}}, {"a": "conv"}, r"such kernels have 3 or 4 or 5 dim"),
        ({"a": {"kernel": np.ones((4, 6))}}, {"b": "conv"}, r"kinds must name layers .*\['b'\]"),
        (
            {"a": {"kernel": np.ones((4, 6)), "bias": np.ones((2, 6))}},
            None,
            r"a/bias of shape \(2, 6",
        ),
        ({"norm": {"scale": np.ones((3, 6))}}, None, "norm/scale of shape .* taken apart"),
        ({"e": {"embedding": np.ones((3, 6, 2))}}, None, "e/embedding of shape .* two dimensions"),
        ({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, None, "two leaves for a.b"),
    ],
)
def test_what_has_no_layout_is_refused_by_name(tree, kinds, message):
    with pytest.raises(ValueError, match=message):
        torch_state(tree, kinds=kinds)


def torch_models(torch):
    nn = torch.nn

    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = (784, 300, 100, 10)
            for number in (1, 2, 3):
                setattr(self, f"dense{number}", nn.Linear(*sizes[number - 1 : number + 1]))

        def forward(self, x):
            x = torch.relu(self.dense1(x.flatten(1)))
            return self.dense3(torch.relu(self.dense2(x)))

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
            self.dense1, self.dense2 = nn.Linear(800, 500), nn.Linear(500, 10)

        def forward(self, x):
            for conv in (self.conv1, self.conv2):
                x = nn.functional.max_pool2d(torch.relu(conv(x)), 2)
            return self.dense2(torch.relu(self.dense1(x.flatten(1))))

    class Normalised(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
            before = 3
            for count in channels:
                self.convolutions.append(nn.Conv2d(before, count, 3, padding=1, bias=False))
                self.norms.append(nn.BatchNorm2d(count))
                before = count
            self.dense = nn.Linear(before, 10)

        def forward(self, x):
            for number, (conv, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
                x = torch.relu(norm(conv(x)))
                if number in (1, 3, 6, 9, 12):
                    x = nn.functional.max_pool2d(x, 2)
            return self.dense(x.flatten(1))

    return Dense, Small, Normalised


@pytest.mark.parametrize("which", ["lenet300", "lenet5", "vgg16"])
def test_pytorch_computes_the_same(which):
    torch = pytest.importorskip("torch")
    dense, small, normalised = torch_models(torch)
    flattened = None
    if which == "lenet300":
        model, theirs = LeNet300(rngs=nnx.Rngs(0)), dense()
    elif which == "lenet5":
        model, theirs, flattened = LeNet5(rngs=nnx.Rngs(0)), small(), {"dense1": (4, 4)}
    else:
        model = VGG16Cifar(width=0.05, rngs=nnx.Rngs(0))
        theirs = normalised([conv.out_features for conv in model.convolutions])
        model(jnp.asarray(RNG.normal(size=(4, 32, 32, 3)), jnp.float32))  # moves the statistics
    model.eval()
    shape = (32, 32, 3) if which == "vgg16" else (28, 28, 1)
    images = RNG.normal(size=(3, *shape)).astype(np.float32)
    state = torch_state(nnx.state(model), flattened, "conv")
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    missing = theirs.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys
    assert all("num_batches_tracked" in key for key in missing.missing_keys)
    theirs.eval()
    with torch.no_grad():
        found = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    wanted = jax.jit(lambda x: model(x))(images)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
