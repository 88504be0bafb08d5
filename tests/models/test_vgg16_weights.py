import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from sparsejax.models import VGG16_LAYERS, _vgg16_weights, load_vgg16_weights
from tests.models.test_vgg16 import WIDTH, abstract, random_images, reference_logits

CLASSES = 10
FEATURES = [f"features.{n}" for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]
NAMES = {
    "timm": [*FEATURES, "pre_logits.fc1", "pre_logits.fc2", "head.fc"],
    "torchvision": [*FEATURES, "classifier.0", "classifier.3", "classifier.6"],
}


def published(family, dtype=np.float32, seed=0):
    """Tensors in the published form, at reduced width."""
    rng = np.random.default_rng(seed)
    units = [3, 4, 4, 8, 8, 16, 16, 16, 32, 32, 32, 32, 32, 32, 256, 256, CLASSES]
    tensors = {}
    for layer, (name, before, after) in enumerate(
        zip(NAMES[family], units, units[1:], strict=False)
    ):
        window = (3, 3) if layer < 13 else (7, 7) if layer == 13 else (1, 1)
        weights = rng.normal(0, (2 / (before * window[0] ** 2)) ** 0.5, (after, before, *window))
        if layer == 15 or (family == "torchvision" and layer > 12):
            weights = weights.reshape(after, -1)
        tensors[f"{name}.weight"] = weights.astype(dtype)
        tensors[f"{name}.bias"] = rng.normal(0, 0.3, after).astype(dtype)
    return tensors


def imagenet_file(folder):
    """A file of reduced width for 1,000 classes whose last layer is zero."""
    tensors = published("timm") | {
        "head.fc.weight": np.zeros((1000, 256), np.float32),
        "head.fc.bias": np.zeros(1000, np.float32),
    }
    file = folder / "weights.safetensors"
    save_file(tensors, file)
    return file


def published_logits(tensors, family, images):
    """In NumPy from the published tensors, flattened with channels first."""
    kernels = []
    for layer, name in enumerate(NAMES[family]):
        weights = tensors[f"{name}.weight"].astype(np.float64)
        if layer < 13:
            kernels.append(weights.transpose(2, 3, 1, 0))
        else:
            kernels.append(weights.reshape(len(weights), -1).T)
    biases = [tensors[f"{name}.bias"].astype(np.float64) for name in NAMES[family]]
    return reference_logits(kernels, biases, images, channels_first=True)


def params_of(model):
    return nnx.state(model, nnx.Param)


def small():
    return abstract(classes=CLASSES, width=WIDTH)


def logits_of(params, images):
    """The rest of the model (its dropout's key) stays abstract: evaluation needs none of it."""
    graph, _, rest = nnx.split(small(), nnx.Param, ...)
    return jax.jit(lambda params, images: nnx.merge(graph, params, rest)(images))(params, images)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_loads_published_names_and_layouts(family, dtype, tmp_path):
    tensors = published(family, dtype)
    save_file(tensors, tmp_path / "weights.safetensors")
    params = load_vgg16_weights(params_of(small()), tmp_path / "weights.safetensors")
    for name, layer in zip(NAMES[family], VGG16_LAYERS, strict=True):
        bias = params[layer]["bias"][...]
        assert bias.dtype == params[layer]["kernel"][...].dtype == jnp.float32
        np.testing.assert_array_equal(bias, tensors[f"{name}.bias"].astype(np.float32))
    images = random_images(1)
    expected = published_logits(tensors, family, images)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(logits_of(params, images), expected, atol=1e-4)


@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_agrees_with_pytorch(family, tmp_path):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    from safetensors.torch import save_file as save_torch_file

    tensors = {name: torch.from_numpy(x) for name, x in published(family, seed=2).items()}
    save_torch_file(tensors, tmp_path / "weights.safetensors")
    params = load_vgg16_weights(params_of(small()), str(tmp_path / "weights.safetensors"))
    images = random_images(2, 448, 224)
    hidden = torch.from_numpy(images.transpose(0, 3, 1, 2))
    for layer, name in enumerate(NAMES[family]):
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        if layer == 13:
            hidden = functional.adaptive_avg_pool2d(hidden, 7).flatten(1)
        if layer < 13:
            hidden = functional.relu(functional.conv2d(hidden, weight, bias, padding=1))
        else:
            hidden = functional.linear(hidden, weight.flatten(1), bias)
            hidden = functional.relu(hidden) if layer < 15 else hidden
        if layer in (1, 3, 6, 9, 12):
            hidden = functional.max_pool2d(hidden, 2)
    np.testing.assert_allclose(logits_of(params, images), hidden.numpy(), atol=1e-4)


def test_pieces_of_a_tensor_make_the_whole(tmp_path, monkeypatch):
    save_file(published("timm"), tmp_path / "file")
    whole = load_vgg16_weights(params_of(small()), tmp_path / "file")
    monkeypatch.setattr(_vgg16_weights, "_CHUNK", 100_000)  # 63 of fc6's 256 outputs, 4 left over
    pieces = load_vgg16_weights(params_of(small()), tmp_path / "file")
    jax.tree.map(np.testing.assert_array_equal, pieces, whole)


def test_keeps_the_tree_and_its_dtypes(tmp_path):
    save_file(published("timm"), tmp_path / "file")
    plain = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16),
        nnx.to_pure_dict(params_of(small())),
    )
    loaded = load_vgg16_weights(plain, tmp_path / "file")
    assert jax.tree.structure(loaded) == jax.tree.structure(plain)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("bfloat16")}


def test_every_wrong_tensor_is_named(tmp_path):
    tensors = published("timm")
    del tensors["features.5.bias"]
    tensors["num_batches"] = np.zeros(1, np.float32)
    tensors["head.fc.weight"] = tensors["head.fc.weight"][:5]
    tensors["features.0.bias"] = np.zeros(4, np.int32)
    save_file(tensors, tmp_path / "file")
    with pytest.raises(ValueError, match="file does not hold this VGG16's weights: ") as caught:
        load_vgg16_weights(params_of(small()), tmp_path / "file")
    assert str(caught.value).split(": ", 1)[1].split("; ") == [
        "features.5.bias is missing",
        "num_batches is unknown",
        "features.0.bias is I32, not one of F64, F32, F16, BF16",
        "head.fc.weight has shape [5, 256], not [10, 256]",
    ]


def test_bad_arguments_are_named(tmp_path):
    (tmp_path / "text").write_text("not weights")
    with pytest.raises(ValueError, match="path must be a safetensors file; .*text is not"):
        load_vgg16_weights(params_of(small()), tmp_path / "text")
    with pytest.raises(FileNotFoundError, match="missing"):
        load_vgg16_weights(params_of(small()), tmp_path / "missing")
    params = nnx.to_pure_dict(params_of(small()))
    del params["fc7"]["bias"]
    params["head"] = params.pop("fc8")
    with pytest.raises(ValueError, match="differ from it in fc7/bias, fc8/.*, head/bias, head/"):
        load_vgg16_weights(params, tmp_path / "text")
