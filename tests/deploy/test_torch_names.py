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
    state = torch_state(params, {"dense": (2, 3)})
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
    state = torch_state(nnx.state(model), flattened)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    missing = theirs.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys
    assert all("num_batches_tracked" in key for key in missing.missing_keys)
    theirs.eval()
    with torch.no_grad():
        found = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    wanted = jax.jit(lambda x: model(x))(images)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
