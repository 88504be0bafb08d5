"""Gated networks: their gates, their initialisation, and what is left after purging.

There are two initialisations. Both divide kernels by the initial keep rate 1 - p of their gates.

- ``"fan_out"`` (the results in this repository): kernels are normal of variance 2 / fan-out, biases
  are zero. With p = 0.5 the convolutions of LeNet5 have standard deviations of 0.126 and 0.080.
- ``"published"`` (the published code): kernels of dense layers are the same, those of convolutions
  are normal of variance 2 / fan-in (0.566 and 0.126). Biases are normal of standard deviation 0.01;
  those of convolutions, which gates multiply, are divided by 1 - p as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.common.networks import mnist_classifier, pure
from sparsejax import gates
from sparsejax.constraints import gate_groups
from sparsejax.inspection import macs
from sparsejax.models import (
    LENET5_LAYERS,
    LENET300_LAYERS,
    LeNet5,
    LeNet300,
    purged_lenet5,
    purged_lenet300,
)

Name = Literal["mlp", "lenet5"]
Initialisation = Literal["fan_out", "published"]

_CLASSES = 10


class Kind(NamedTuple):
    """The properties in which the networks differ."""

    model: Callable[..., Any]
    layers: Sequence[str]
    purged: Callable[[Any], Any]


KINDS: Mapping[Name, Kind] = {
    "mlp": Kind(LeNet300, LENET300_LAYERS, purged_lenet300),
    "lenet5": Kind(LeNet5, LENET5_LAYERS, purged_lenet5),
}


class GatedNetwork:
    """A network, its gates, and what an experiment asks of them.

    A parameter tree here is ``{"weights": the model's, "gates": log alpha}``. Gates as published:
    one for each input unit of a dense layer, one for each output channel of a convolution.
    """

    def __init__(
        self,
        name: Name,
        drop_rates: Sequence[float],
        seed: int,
        initialisation: Initialisation = "fan_out",
    ):
        """``drop_rates`` are the initial ones of the first layer and of the others."""
        self.kind = KINDS[name]
        model = self.kind.model(rngs=nnx.Rngs(seed))
        self._logits, weights = mnist_classifier(model)
        rates = {layer: drop_rates[min(number, 1)] for number, layer in enumerate(self.kind.layers)}
        self.gates = _gates(rates)
        key = jax.random.key(seed)
        weights = self.gates.rescale(_kernels(key, weights, initialisation))
        if initialisation == "published":
            weights = _with_random_biases(key, weights, rates)
        phi = self.gates.init(jax.random.fold_in(jax.random.key(seed), 1), weights)
        self.initial = {"weights": weights, "gates": phi}

    def logits(self, weights: Any, images: jax.Array) -> jax.Array:
        """Logits of uint8 images; the gates are already multiplied into the weights."""
        return self._logits(weights, images)

    def sampled(self, params: Any, key: jax.Array) -> Any:
        """Weights under random gates."""
        return gates.apply(params["weights"], self.gates.sample(params["gates"], key))

    def evaluated(self, params: Any) -> Any:
        """Weights under the gates of evaluation."""
        return gates.apply(params["weights"], self.gates.median(params["gates"]))

    def activity(self, params: Any) -> dict[str, Any]:
        """Return, by layer, the parameters behind each gate and the probability that they stay."""
        probability = self.gates.active_probability(params["gates"])
        weights = params["weights"]
        groups = gate_groups(weights, gates.broadcast_gates(weights, probability))
        return {layer: groups[layer] for layer in self.kind.layers}

    def purged(self, params: Any) -> Any:
        """The smaller dense network."""
        return self.kind.purged(self.evaluated(params))


def architecture(model: LeNet300 | LeNet5) -> list[int]:
    """Units in the notation of the paper, such as 784-300-100 or 20-50-800-500.

    They are the inputs of a dense layer and the output channels of a convolution.
    """
    if isinstance(model, LeNet300):
        return [len(getattr(model, layer).kernel[...]) for layer in LENET300_LAYERS]
    channels = [getattr(model, layer).kernel[...].shape[-1] for layer in LENET5_LAYERS[:2]]
    return channels + [len(getattr(model, layer).kernel[...]) for layer in LENET5_LAYERS[2:]]


def multiply_accumulates(model: LeNet300 | LeNet5) -> int:
    """Multiply-accumulates of the forward pass of one image."""
    return macs(*pure(model), jax.ShapeDtypeStruct((1, 784), jnp.float32))


def published_macs(units: Sequence[int]) -> int:
    """Multiply-accumulates as the published figures count them, from the `architecture`.

    Each entry that a bias is added to, that ReLU is applied to (in LeNet5 before the pooling) or
    that pooling returns counts as one more: 267,010 and 2,327,130 for the dense networks.
    """
    if len(units) == len(LENET300_LAYERS):
        convolutions, dense, pooled = [], [*units, _CLASSES], 0
    else:
        first, second, *dense = [*units, _CLASSES]
        # Positions times channels of each map, and the products behind each of its entries.
        convolutions = [(24 * 24 * first, 25), (8 * 8 * second, 25 * first)]
        pooled = 12 * 12 * first + 4 * 4 * second
    products = sum(entries * each for entries, each in convolutions)
    products += sum(a * b for a, b in itertools.pairwise(dense))
    activated = sum(entries for entries, _ in convolutions) + sum(dense[1:-1])
    return products + (activated + _CLASSES) + activated + pooled


def parameters(model: nnx.Module) -> int:
    """Number of kernel weights and biases."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _gates(drop_rates: Mapping[str, float]) -> gates.Gates:
    def one_layer(layer: str, drop_rate: float) -> gates.Gates:
        def here(path: Any, leaf: Any) -> bool:
            return leaf.ndim >= 2 and _layer_of(path) == layer

        return gates.hard_concrete(
            drop_rate=drop_rate,
            grouping=gates.per_output if layer.startswith("conv") else gates.per_input,
            where=here,
        )

    return gates.combine(*(one_layer(*pair) for pair in drop_rates.items()))


def _kernels(key: jax.Array, weights: Any, initialisation: Initialisation) -> Any:
    """Random kernels; biases as they are."""

    def draw(key: jax.Array, path: Any, leaf: Any) -> Any:
        if leaf.ndim < 2:
            return leaf
        by_inputs = initialisation == "published" and _layer_of(path).startswith("conv")
        fan: Literal["fan_in", "fan_out"] = "fan_in" if by_inputs else "fan_out"
        return nnx.initializers.variance_scaling(2.0, fan, "normal")(key, leaf.shape, leaf.dtype)

    return _map_with_keys(draw, key, weights)


def _with_random_biases(key: jax.Array, weights: Any, drop_rates: Mapping[str, float]) -> Any:
    """Random biases; kernels as they are."""

    def draw(key: jax.Array, path: Any, leaf: Any) -> Any:
        if leaf.ndim >= 2:
            return leaf
        layer = _layer_of(path)
        kept = 1 - drop_rates[layer] if layer.startswith("conv") else 1.0
        return 0.01 / kept * jax.random.normal(key, leaf.shape, leaf.dtype)

    return _map_with_keys(draw, key, weights)


def _map_with_keys(function: Callable[..., jax.Array], key: jax.Array, tree: Any) -> Any:
    """``function(key, path, leaf)`` of each leaf, with a key of its own."""
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    keys = jax.random.split(key, len(flat))
    new = [function(k, path, leaf) for k, (path, leaf) in zip(keys, flat, strict=True)]
    return jax.tree.unflatten(structure, new)


def _layer_of(path: Any) -> str:
    return str(path[0].key)
