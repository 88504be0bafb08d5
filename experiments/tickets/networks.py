"""The networks as pure functions: what a search trains, and what counts its mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.common.augment import shifted_and_mirrored
from experiments.common.loss import cross_entropy
from experiments.data import Dataset
from sparsejax.models import LeNet5, LeNet300, ResNet20, VGG16Cifar

MNIST_MODELS = ("lenet300", "lenet5")
CIFAR_MODELS = ("resnet20", "vgg16")
_PAD = 4  # pixels around an image of CIFAR before it is cropped


class Network(NamedTuple):
    """A model on a dataset."""

    init: Callable[[int], tuple[Any, Any]]
    """``seed -> (params, statistics)``; without batch normalisation the statistics are None."""
    loss: Callable[..., tuple[jax.Array, Any]]
    """As ``sparsejax.tickets.search_step`` takes it."""
    mistakes: Callable[..., jax.Array]
    """``((params, statistics), images, labels) -> number``."""
    has_convolutions_of_xla: bool
    """They are slow inside a loop of a program on a CPU (jax-ml/jax issue 12868)."""


def network(model: str, dataset: Dataset, width: float = 1.0, dtype: str = "float32") -> Network:
    """LeNet300 or LeNet5 on images in [0, 1]; ResNet-20 or VGG-16 on CIFAR-10.

    CIFAR-10's images are standardised by the training images' mean and standard deviation of each
    channel; in training they are shifted by up to 4 pixels and mirrored half of the time, for each
    member of a population anew, inside the step.
    """
    if model in MNIST_MODELS:
        return _plain({"lenet300": LeNet300, "lenet5": LeNet5}[model])
    make = {"resnet20": ResNet20, "vgg16": VGG16Cifar}[model]
    mean, deviation = channels(dataset)
    return _normalised(lambda rngs: make(10, width, jnp.dtype(dtype), rngs=rngs), mean, deviation)


def _plain(model: type[nnx.Module]) -> Network:
    graph, _ = nnx.split(nnx.eval_shape(lambda: model(rngs=nnx.Rngs(0))))

    def init(seed):
        return nnx.state(model(rngs=nnx.Rngs(seed)), nnx.Param), None

    def logits(params, images):
        return nnx.merge(graph, params)(images.astype(jnp.float32) / 255)

    def loss(params, batch, key):
        del key
        return cross_entropy(logits(params, batch["image"]), batch["label"])

    def mistakes(state, images, labels):
        return (logits(state[0], images).argmax(-1) != labels).sum()

    return Network(init, loss, mistakes, False)


def _normalised(make, mean: np.ndarray, deviation: np.ndarray) -> Network:
    model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    training = nnx.graphdef(model)
    model.eval()
    evaluating = nnx.graphdef(model)

    def init(seed):
        model = make(nnx.Rngs(seed))
        return nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)

    def run(graph, params, statistics, images):
        model = nnx.merge(graph, params, statistics, copy=True)
        logits = model((images.astype(jnp.float32) - mean) / deviation)
        return logits, nnx.state(model, nnx.BatchStat)

    def loss(params, statistics, batch, key):
        images = batch["image"].astype(jnp.float32) - mean  # what moves in is the mean
        images = shifted_and_mirrored(images, key, _PAD, mirror=True) + mean
        logits, statistics = run(training, params, statistics, images)
        value, metrics = cross_entropy(logits, batch["label"])
        return value, (metrics, statistics)

    def mistakes(state, images, labels):
        params, statistics = state
        return (run(evaluating, params, statistics, images)[0].argmax(-1) != labels).sum()

    return Network(init, loss, mistakes, True)


def channels(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the training images, by channel, in units of a pixel."""
    counts = [
        np.bincount(dataset.train.images[..., channel].ravel(), minlength=256)
        for channel in range(dataset.train.images.shape[-1])
    ]
    shares = np.array(counts) / dataset.train.images[..., 0].size
    mean = shares @ np.arange(256)
    deviation = np.sqrt(shares @ np.arange(256) ** 2 - mean**2)
    return mean.astype(np.float32), deviation.astype(np.float32)
