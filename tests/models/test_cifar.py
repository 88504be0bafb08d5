"""ResNet-20 and VGG-16 in their CIFAR form against the same written out in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.models import ResNet20, VGG16Cifar

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 32, 32, 3))
WIDTH = 0.125


def convolved(x, kernel, stride=1):
    """Padded by 1 on all sides."""
    side = x.shape[1]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = sum(x[:, i : i + side, j : j + side] @ kernel[i, j] for i in range(3) for j in range(3))
    return out[:, ::stride, ::stride]


class Normalisation:
    """By the batch or by running statistics; keeps what the latter become."""

    def __init__(self, running):
        self.running, self.new = running, {}

    def __call__(self, path, x, params, statistics):
        mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        old = {name: np.asarray(statistics[name][...], np.float64) for name in ("mean", "var")}
        self.new[path] = {
            "mean": 0.9 * old["mean"] + 0.1 * mean,
            "var": 0.9 * old["var"] + 0.1 * var,
        }
        if self.running:
            mean, var = old["mean"], old["var"]
        scale, bias = params["scale"][...], params["bias"][...]
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def resnet20(params, statistics, x, norm):
    array = lambda leaf: np.asarray(leaf["kernel"][...], np.float64)  # noqa: E731
    relu = lambda x: np.maximum(x, 0)  # noqa: E731
    x = relu(norm("norm", convolved(x, array(params["conv"])), params["norm"], statistics["norm"]))
    for number in range(9):
        ours, theirs = params["blocks"][number], statistics["blocks"][number]
        stride = 2 if number in (3, 6) else 1
        hidden = x
        for place in ("1", "2"):
            name = "norm" + place
            hidden = convolved(hidden, array(ours["conv" + place]), stride if place == "1" else 1)
            hidden = norm((number, name), hidden, ours[name], theirs[name])
            hidden = relu(hidden) if place == "1" else hidden
        shortcut = np.zeros_like(hidden)
        lower = (hidden.shape[-1] - x.shape[-1]) // 2
        shortcut[..., lower : lower + x.shape[-1]] = x[:, ::stride, ::stride]
        x = relu(hidden + shortcut)
    dense = params["dense"]
    return x.mean(axis=(1, 2)) @ array(dense) + np.asarray(dense["bias"][...])


def vgg16(params, statistics, x, norm):
    number = 0
    for depth in (2, 2, 3, 3, 3):
        for _ in range(depth):
            kernel = np.asarray(params["convolutions"][number]["kernel"][...], np.float64)
            x = norm(
                number, convolved(x, kernel), params["norms"][number], statistics["norms"][number]
            )
            x, number = np.maximum(x, 0), number + 1
        batch, side, _, channels = x.shape
        x = x.reshape(batch, side // 2, 2, side // 2, 2, channels).max(axis=(2, 4))
    dense = params["dense"]
    return x.reshape(batch, -1) @ np.asarray(dense["kernel"][...], np.float64) + dense["bias"][...]


def abstract(kind, **options):
    return nnx.eval_shape(lambda: kind(width=WIDTH, rngs=nnx.Rngs(0), **options))


@functools.cache  # so that each of the four networks is compiled once
def compiled(kind, running=False, dtype=jnp.float32):
    """The network as a function, and parameters and statistics that are not those of the start."""
    model = abstract(kind, dtype=dtype)
    if running:
        model.eval()
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name, shape = jax.tree_util.keystr(path), leaf.shape
        if "kernel" in name:
            drawn = rng.normal(0, (2 * shape[-1] / leaf.size) ** 0.5, shape)
        elif "scale" in name or "var" in name:
            drawn = rng.uniform(0.9, 1.2, shape)
        else:
            drawn = rng.normal(0, 0.05, shape)
        return jnp.asarray(drawn, leaf.dtype)

    @jax.jit
    def run(params, statistics, images):
        model = nnx.merge(graph, params, statistics, copy=True)
        return model(images), nnx.state(model, nnx.BatchStat)

    return run, *(jax.tree_util.tree_map_with_path(draw, tree) for tree in (params, statistics))


@pytest.mark.parametrize(("kind", "reference"), [(ResNet20, resnet20), (VGG16Cifar, vgg16)])
@pytest.mark.parametrize("running", [False, True])
def test_computes_what_the_papers_say(kind, reference, running):
    run, params, statistics = compiled(kind, running)
    before = jax.tree.map(np.asarray, statistics)
    logits, after = run(params, statistics, IMAGES.astype(np.float32))
    norm = Normalisation(running)
    wanted = reference(params, statistics, IMAGES, norm)
    np.testing.assert_allclose(logits, wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())
    jax.tree.map(np.testing.assert_array_equal, statistics, before)  # nothing in place
    if running:
        jax.tree.map(np.testing.assert_array_equal, after, before)
        return
    first = after["norm"] if kind is ResNet20 else after["norms"][0]
    for name, value in norm.new["norm" if kind is ResNet20 else 0].items():
        np.testing.assert_allclose(first[name][...], value, rtol=1e-4, atol=1e-5)


def test_has_the_published_sizes():
    for kind, size in ((ResNet20, 269_722), (VGG16Cifar, 14_724_042)):
        model = nnx.eval_shape(lambda kind=kind: kind(rngs=nnx.Rngs(0)))
        leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
        assert sum(leaf.size for leaf in leaves) == size


@pytest.mark.parametrize("kind", [ResNet20, VGG16Cifar])
def test_bfloat16_is_close_and_gives_float32(kind):
    images, (run, *state) = IMAGES.astype(np.float32), compiled(kind)
    full, half = run(*state, images)[0], compiled(kind, dtype=jnp.bfloat16)[0](*state, images)[0]
    assert half.dtype == jnp.float32
    assert not np.array_equal(half, full)
    np.testing.assert_allclose(half, full, atol=0.15 * float(jnp.abs(full).max()))
    leaves = jax.tree.leaves(nnx.state(abstract(kind, dtype=jnp.bfloat16)))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("kind", [ResNet20, VGG16Cifar])
def test_bad_arguments_are_named(kind):
    with pytest.raises(ValueError, match=r"width must be a positive number; got 0"):
        kind(width=0, rngs=nnx.Rngs(0))
    model = abstract(kind)
    with pytest.raises(ValueError, match=r"images must have shape \[batch, 32, 32, 3\]"):
        model(jnp.zeros((1, 28, 28, 1)))
    with pytest.raises(ValueError, match="images must be floating point, normalised; got uint8"):
        model(jnp.zeros((1, 32, 32, 3), jnp.uint8))
