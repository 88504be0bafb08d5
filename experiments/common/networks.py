"""The networks of the experiments as pure functions of their parameters, and their errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from experiments.common.augment import shifted_and_mirrored
from experiments.data import Dataset, Split
from sparsejax.models import VGG16, LeNet5, LeNet300, ResNet20, VGG16Cifar, load_vgg16_weights

MNIST_MODELS: Mapping[str, Any] = {"lenet300": LeNet300, "lenet5": LeNet5}
CIFAR_MODELS: Mapping[str, Any] = {"resnet20": ResNet20, "vgg16": VGG16Cifar}
LENET5_PARAMETERS = 431_080
"""Kernels and biases."""

_CHUNK = 5000  # images a forward pass
_CHUNK_IN_STEP = 500  # the same inside a step
_PAD = 4  # pixels around an image of CIFAR-10 before it is cropped
_IMAGENET_CLASSES = 1000


def pure(model: nnx.Module) -> tuple[Callable[[Any, jax.Array], jax.Array], Any]:
    """The function ``(params, inputs) -> outputs`` of a module, and its parameters.

    The function takes any pytree whose leaves are those of the parameters, in their order.
    """
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    structure = jax.tree.structure(params)

    def function(params: Any, inputs: jax.Array) -> jax.Array:
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        outputs: jax.Array = nnx.merge(graph, state, rest)(inputs)
        return outputs

    return function, params


def unit_range(images: Any) -> Any:
    """Images of uint8 as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def mnist_classifier(model: nnx.Module) -> tuple[Callable[[Any, jax.Array], jax.Array], Any]:
    """`pure` of a module that reads uint8 images in [0, 1]."""
    function, params = pure(model)
    return lambda params, images: function(params, unit_range(images)), params


def cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy of logits [batch, classes], and the share of mistakes in per cent."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, {"train_error": 100 * (logits.argmax(-1) != labels).mean()}


def mistakes(logits: Callable[[Any, jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """``(params, images, labels) -> number of misclassified images``, jitted."""
    return jax.jit(
        lambda params, images, labels: (logits(params, images).argmax(-1) != labels).sum()
    )


def error(count: Callable[[Any, Any, Any], Any], params: Any, split: Split) -> Any:
    """Misclassified images of a split in per cent; one number for each that ``count`` returns."""
    wrong: Any = 0
    for start in range(0, len(split.labels), _CHUNK):
        end = start + _CHUNK
        wrong += np.asarray(count(params, split.images[start:end], split.labels[start:end]))
    found = 100 * wrong / len(split.labels)
    return found if np.ndim(found) else float(found)


def accuracy(logits: Callable[[Any, jax.Array], jax.Array], params: Any, split: Split) -> jax.Array:
    """Accuracy in [0, 1] on a split, as a part of a jitted step."""

    def right(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        return (logits(params, chunk[0]).argmax(-1) == chunk[1]).sum()

    chunks = jax.tree.map(
        lambda array: jnp.asarray(array).reshape(-1, _CHUNK_IN_STEP, *array.shape[1:]),
        (split.images, split.labels),
    )
    counts: jax.Array = lax.map(right, chunks)
    return counts.sum() / len(split.labels)


def kernels(params: Any) -> Any:
    """Return a tree that is True at kernels; all other leaves are vectors here."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


class Trainable(NamedTuple):
    """A model on a dataset, perhaps with batch normalisation."""

    init: Callable[[int], tuple[Any, Any]]
    """``seed -> (params, statistics)``; without batch normalisation the statistics are None."""
    loss: Callable[..., tuple[jax.Array, Any]]
    """The loss as ``sparsejax.tickets.search_step`` takes it."""
    mistakes: Callable[..., jax.Array]
    """``((params, statistics), images, labels) -> number``."""
    has_convolutions_of_xla: bool
    """Such convolutions are slow inside a loop of a program on a CPU (jax-ml/jax issue 12868)."""


def trainable(
    model: str, dataset: Dataset, width: float = 1.0, dtype: str = "float32"
) -> Trainable:
    """LeNet300 or LeNet5 on images in [0, 1]; ResNet-20 or VGG-16 on CIFAR-10.

    Images of CIFAR-10 are standardised by the mean and standard deviation of each channel of the
    training images; in training they are shifted by up to 4 pixels and mirrored half of the time,
    independently for each member of a population, inside the step.
    """
    if model in MNIST_MODELS:
        return _plain(MNIST_MODELS[model])
    make = CIFAR_MODELS[model]
    mean, deviation = channels(dataset)
    return _normalized(lambda rngs: make(10, width, jnp.dtype(dtype), rngs=rngs), mean, deviation)


def _plain(model: Callable[..., nnx.Module]) -> Trainable:
    logits, _ = mnist_classifier(nnx.eval_shape(lambda: model(rngs=nnx.Rngs(0))))

    def init(seed: int) -> tuple[Any, Any]:
        return nnx.state(model(rngs=nnx.Rngs(seed)), nnx.Param), None

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        return cross_entropy(logits(params, batch["image"]), batch["label"])

    def wrong(state: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        return (logits(state[0], images).argmax(-1) != labels).sum()

    return Trainable(init, loss, wrong, False)


def _normalized(
    make: Callable[..., nnx.Module], mean: np.ndarray, deviation: np.ndarray
) -> Trainable:
    model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    training = nnx.graphdef(model)
    model.eval()
    evaluating = nnx.graphdef(model)

    def init(seed: int) -> tuple[Any, Any]:
        model = make(nnx.Rngs(seed))
        return nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)

    def run(graph: Any, params: Any, statistics: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        model: Any = nnx.merge(graph, params, statistics, copy=True)
        logits = model((images.astype(jnp.float32) - mean) / deviation)
        return logits, nnx.state(model, nnx.BatchStat)

    def loss(params: Any, statistics: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        images = batch["image"].astype(jnp.float32) - mean  # what moves in is the mean
        images = shifted_and_mirrored(images, key, _PAD, mirror=True) + mean
        logits, statistics = run(training, params, statistics, images)
        value, metrics = cross_entropy(logits, batch["label"])
        return value, (metrics, statistics)

    def wrong(state: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        return (run(evaluating, state[0], state[1], images)[0].argmax(-1) != labels).sum()

    return Trainable(init, loss, wrong, True)


def channels(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the training images, by channel, in units of a pixel."""
    images = dataset.train.images
    counts = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
    shares = np.array(counts) / images[..., 0].size
    mean = shares @ np.arange(256)
    deviation = np.sqrt(shares @ np.arange(256) ** 2 - mean**2)
    return mean.astype(np.float32), deviation.astype(np.float32)


def cifar_tree(params: Any, statistics: Any) -> dict[str, Any]:
    """The parameters and running statistics of a network as one tree, as it is saved."""
    return {"params": params, "statistics": statistics}


def evaluation(about: Mapping[str, Any], dataset: Dataset) -> tuple[Callable[..., Any], Any, Any]:
    """Return the function of a saved network, from the entry ``network`` of its ``result.json``.

    Args:
      about: the model's name and arguments.
      dataset: that it was trained on.

    Returns:
      The function ``(params, images) -> logits`` of float32 images, shapes like its parameters, and
      the function that makes such images from those of uint8.
    """
    arguments = dict(about)
    name = arguments.pop("model")
    if name in MNIST_MODELS:
        function, params = pure(
            nnx.eval_shape(lambda: MNIST_MODELS[name](**arguments, rngs=nnx.Rngs(0)))
        )
        return (
            function,
            nnx.to_pure_dict(params),
            lambda images: np.asarray(images, np.float32) / 255,
        )
    width, dtype = arguments["width"], jnp.dtype(arguments["dtype"])
    model = nnx.eval_shape(lambda: CIFAR_MODELS[name](10, width, dtype, rngs=nnx.Rngs(0)))
    model.eval()
    graph, params, statistics, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    structures = jax.tree.structure(params), jax.tree.structure(statistics)

    def function_of_both(tree: Any, images: jax.Array) -> jax.Array:
        states = (
            jax.tree.unflatten(structure, jax.tree.leaves(tree[key]))
            for structure, key in zip(structures, ("params", "statistics"), strict=True)
        )
        logits: jax.Array = nnx.merge(graph, *states, rest)(images)
        return logits

    mean, deviation = channels(dataset)
    like = cifar_tree(nnx.to_pure_dict(params), nnx.to_pure_dict(statistics))
    return (
        function_of_both,
        like,
        lambda images: (np.asarray(images, np.float32) - mean) / deviation,
    )


def imagenet_vgg16(
    width: float, seed: int, weights: str | os.PathLike[str] | None
) -> tuple[Any, Any, Any]:
    """VGG-16 for ImageNet: the graph, the parameters and the rest, as ``nnx.split`` gives them.

    Args:
      width: multiplier of channels and hidden units.
      seed: the seed of random weights.
      weights: a safetensors file of published weights; None for random ones.
    """

    def build() -> VGG16:
        # This generator compiles in a third of the time that the default one takes.
        key = jax.random.key(seed, impl="rbg")
        return VGG16(_IMAGENET_CLASSES, width, rngs=nnx.Rngs(key))

    if weights is None:
        graph, params, rest = nnx.split(build(), nnx.Param, ...)
        return graph, params, rest
    graph, shapes, rest = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
    return graph, load_vgg16_weights(shapes, weights), rest
