import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.inspection import live_units
from sparsejax.models import VGG16, VGG16_LAYERS

WIDTH = 1 / 16
CHANNELS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


def abstract(**arguments):
    return nnx.eval_shape(lambda: VGG16(**arguments, rngs=nnx.Rngs(0)))


def random_model(classes=10, width=WIDTH, seed=0):
    """A model with weights from NumPy, of a size that keeps activations near 1."""
    rng = np.random.default_rng(seed)
    model = abstract(classes=classes, width=width)

    def draw(leaf):
        scale = math.sqrt(2 * leaf.shape[-1] / leaf.size) if len(leaf.shape) > 1 else 0.3
        return jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.float32)

    nnx.update(model, jax.tree.map(draw, nnx.state(model, nnx.Param)))
    return model


def random_images(batch=2, height=224, width=224, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, height, width, 3)).astype(np.float32)


def convolve(images, kernel, bias):
    """Float64, 3x3, padding 1: [n, h, w, in] and [3, 3, in, out] to [n, h, w, out]."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return bias + sum(
        padded[:, y : y + height, x : x + width] @ kernel[y, x] for y in range(3) for x in range(3)
    )


def reference_logits(kernels, biases, images, channels_first=False):
    """The published network in NumPy: kernels [3, 3, in, out] and [in, out], images NHWC."""
    kernels, biases = ([np.asarray(x, np.float64) for x in xs] for xs in (kernels, biases))
    hidden = np.asarray(images, np.float64)
    for layer, (kernel, bias) in enumerate(zip(kernels[:13], biases[:13], strict=True)):
        hidden = np.maximum(convolve(hidden, kernel, bias), 0)
        if layer in (1, 3, 6, 9, 12):
            corners = [hidden[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]
            height, width = hidden.shape[1] // 2, hidden.shape[2] // 2
            hidden = np.maximum.reduce([corner[:, :height, :width] for corner in corners])
    rows, columns = (np.array_split(np.arange(side), 7) for side in hidden.shape[1:3])
    means = [[hidden[:, r][:, :, c].mean(axis=(1, 2)) for c in columns] for r in rows]
    hidden = np.moveaxis(np.asarray(means), 2, 0)  # [n, 7, 7, channels]
    hidden = np.moveaxis(hidden, 3, 1) if channels_first else hidden
    hidden = hidden.reshape(len(hidden), -1)
    for layer in (13, 14, 15):
        hidden = hidden @ kernels[layer] + biases[layer]
        hidden = np.maximum(hidden, 0) if layer < 15 else hidden
    return hidden


@pytest.fixture(scope="module")
def initialised():
    key = jax.random.key(0, impl="rbg")  # it compiles faster than the default
    return VGG16(classes=10, width=WIDTH, rngs=nnx.Rngs(key))


def test_has_the_published_layers():
    params = nnx.state(abstract(), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 138_357_544
    assert tuple(params.keys()) == VGG16_LAYERS
    shapes = [params[layer]["kernel"].shape for layer in VGG16_LAYERS]
    assert shapes[:13] == [(3, 3, i, o) for i, o in zip([3, *CHANNELS], CHANNELS, strict=False)]
    assert shapes[13:] == [(25_088, 4096), (4096, 4096), (4096, 1000)]


@pytest.mark.parametrize("size", [(224, 224), (250, 231), (448, 224)])
def test_computes_what_its_weights_say(size):
    model = random_model()
    images = random_images(1, *size)
    logits = jax.jit(lambda images: model(images))(images)
    layers = [getattr(model, name) for name in VGG16_LAYERS]
    expected = reference_logits(
        [layer.kernel[...] for layer in layers], [layer.bias[...] for layer in layers], images
    )
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_width_scales_all_but_the_classes():
    params = nnx.state(abstract(classes=7, width=0.3), nnx.Param)
    expected = [3, *(round(0.3 * units) for units in [*CHANNELS, 4096, 4096]), 7]
    assert [params[layer]["bias"].shape for layer in VGG16_LAYERS] == [(n,) for n in expected[1:]]
    assert live_units(nnx.state(random_model(7, 0.05), nnx.Param), VGG16_LAYERS)[0] == 3


def test_starts_he_normal(initialised):
    for name in VGG16_LAYERS:
        layer = getattr(initialised, name)
        kernel = np.asarray(layer.kernel[...], np.float64)
        expected = math.sqrt(2 * kernel.shape[-1] / kernel.size)
        # Five standard errors of a standard deviation, and of a mean.
        error = 5 / math.sqrt(kernel.size)
        assert kernel.std() == pytest.approx(expected, rel=error)
        assert abs(kernel.mean()) < error * expected
        assert not layer.bias[...].any()


def test_drops_units_in_training_only(initialised):
    model, images = initialised, random_images(1)
    logits = model(images)
    np.testing.assert_array_equal(model(images), logits)
    model.train()
    first, second = model(images), model(images)
    assert not np.array_equal(first, second)
    with_key = [model(images, rngs=nnx.Rngs(dropout=jax.random.key(seed))) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(with_key[0], with_key[1])
    assert not np.array_equal(with_key[0], with_key[2])
    model.eval()
    np.testing.assert_array_equal(model(images), logits)


def test_dropped_units_are_half_of_each_hidden_layer(initialised):
    model = initialised
    model.train()
    ones = jnp.ones((1, 10_000))
    rngs = nnx.Rngs(dropout=jax.random.key(0))
    kept = [np.asarray(model.dropout(ones, rngs=rngs)) for _ in range(2)]
    model.eval()
    assert not np.array_equal(*kept)  # fc6 and fc7 do not share a mask
    for mask in kept:
        assert set(np.unique(mask)) == {0, 2}
        assert mask.mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "classes must be an integer >= 1; got 0"),
        ({"classes": 2.5}, "classes must be an integer >= 1; got 2.5"),
        ({"width": 0.0}, "width must be a positive number; got 0.0"),
        ({"width": math.nan}, "width must be a positive number; got nan"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        abstract(**arguments)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((224, 224, 3), "float32", r"images must have shape .*; got \(224, 224, 3\)"),
        ((1, 3, 224, 224), "float32", r"images must have shape .*; got \(1, 3, 224, 224\)"),
        ((1, 256, 256, 3), "float32", "images must have a height .*; got 256 x 256"),
        ((1, 224, 31, 3), "float32", "images must have a height .*; got 224 x 31"),
        ((1, 224, 224, 3), "uint8", "images must be floating point, normalised; got uint8"),
    ],
)
def test_bad_images_are_named(shape, dtype, message):
    model = abstract(width=WIDTH)
    with pytest.raises(ValueError, match=message):
        model(np.zeros(shape, dtype))
