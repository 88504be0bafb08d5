"""The gated networks: which gates they have, how they start, what is left of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sparsejax import gates
from sparsejax.constraints import parameter_groups
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


class Kind(NamedTuple):
    """What differs between the networks."""

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

    def __init__(self, name: Name, drop_rates: Sequence[float], seed: int):
        """``drop_rates`` are the initial ones of the first layer and of the others."""
        self.kind = KINDS[name]
        model = self.kind.model(rngs=nnx.Rngs(seed))
        self._graph, weights, self._rest = nnx.split(model, nnx.Param, ...)
        self.gates = _gates(self.kind.layers, drop_rates)
        weights = self.gates.rescale(_fan_out_normal(jax.random.key(seed), weights))
        phi = self.gates.init(jax.random.fold_in(jax.random.key(seed), 1), weights)
        self.initial = {"weights": weights, "gates": phi}

    def logits(self, weights: Any, images: jax.Array) -> jax.Array:
        """Of uint8 images, under gates that are already multiplied in."""
        return nnx.merge(self._graph, weights, self._rest)(images.astype(jnp.float32) / 255)

    def sampled(self, params: Any, key: jax.Array) -> Any:
        """Weights under random gates."""
        return gates.apply(params["weights"], self.gates.sample(params["gates"], key))

    def settled(self, params: Any) -> Any:
        """Weights under the gates of evaluation."""
        return gates.apply(params["weights"], self.gates.median(params["gates"]))

    def activity(self, params: Any) -> dict[str, Any]:
        """By layer, the parameters behind each gate and how likely they are to stay."""
        probability = self.gates.active_probability(params["gates"])
        weights = params["weights"]
        groups = parameter_groups(weights, gates.spread(weights, probability))
        return {layer: groups[layer] for layer in self.kind.layers}

    def purged(self, params: Any) -> nnx.Module:
        """The smaller dense network."""
        return self.kind.purged(self.settled(params))


def architecture(model: LeNet300 | LeNet5) -> list[int]:
    """Of a network, purged or not: what each layer reads, or a convolution makes.

    As the paper writes it: 198-233-100 of 784-300-100, 20-21-34-407 of 20-50-800-500.
    """
    if isinstance(model, LeNet300):
        return [len(getattr(model, layer).kernel[...]) for layer in LENET300_LAYERS]
    channels = [getattr(model, layer).kernel[...].shape[-1] for layer in LENET5_LAYERS[:2]]
    return channels + [len(getattr(model, layer).kernel[...]) for layer in LENET5_LAYERS[2:]]


def multiply_accumulates(model: LeNet300 | LeNet5) -> int:
    """Of one image's forward pass."""
    graph, weights, rest = nnx.split(model, nnx.Param, ...)
    image = jax.ShapeDtypeStruct((1, 784), jnp.float32)
    return macs(lambda weights, x: nnx.merge(graph, weights, rest)(x), weights, image)


def parameters(model: nnx.Module) -> int:
    """Kernel weights and biases."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _gates(layers: Sequence[str], drop_rates: Sequence[float]) -> gates.Gates:
    def one_layer(number: int, layer: str) -> gates.Gates:
        def here(path, leaf):
            return leaf.ndim >= 2 and any(getattr(part, "key", None) == layer for part in path)

        return gates.hard_concrete(
            drop_rate=drop_rates[min(number, 1)],
            grouping=gates.per_output if layer.startswith("conv") else gates.per_input,
            where=here,
        )

    return gates.combine(*(one_layer(i, layer) for i, layer in enumerate(layers)))


def _fan_out_normal(key: jax.Array, weights: Any) -> Any:
    """Kernels drawn as in the published code: normal, of variance 2 / fan-out."""
    draw = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
    leaves, structure = jax.tree.flatten(weights)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        draw(k, leaf.shape, leaf.dtype) if leaf.ndim >= 2 else leaf
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)
