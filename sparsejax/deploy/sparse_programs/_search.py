"""Search for the fastest kind of each layer by measuring the whole network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import jax

from sparsejax._where import PyTree
from sparsejax.deploy.sparse_programs._layers import DENSE
from sparsejax.deploy.sparse_programs._program import Program

_GAIN = 0.97  # A candidate must take less than this share of the best time; the rest is noise.

Function = Callable[..., PyTree]


def jit_without_params(function: Function) -> Function:
    """Return ``function(*inputs)`` jitted as ``function((), *inputs)``, for a `Network`."""

    def call(params: PyTree, *inputs: PyTree) -> PyTree:
        if jax.tree.leaves(params):
            raise ValueError(
                "params must be (), since a compiled network has its parameters as constants; "
                f"compile again for other ones. Got {jax.tree.structure(params)}"
            )
        return function(*inputs)

    return jax.jit(call)


class Search:
    """A greedy search: a candidate replaces the best network so far if it is faster.

    What a layer costs depends on the layouts beside it and on how XLA runs the whole program, so
    layers are never timed by themselves.
    """

    def __init__(self, program: Program, measure: Callable[[Sequence[Function]], Sequence[float]]):
        self._program = program
        self._measure = measure
        self.kinds: dict[int, str] = {}
        """The kind of each layer so far, by the index of its equation; others are dense."""
        self.best = self._jitted({})
        """The network so far, as `jit_without_params` returns it."""

    def try_all_layers(self, kinds: Collection[str]) -> None:
        """Try each kind for all layers that support it, at once."""
        for kind in kinds:
            layers = [layer for layer in self._program.layers if kind in layer.kinds]
            if layers:
                self._try(self.kinds | {layer.equation: kind for layer in layers})

    def try_each_layer(self, kinds: Collection[str]) -> None:
        """Try each kind for one layer after the other, those with the most work first."""
        for layer in sorted(self._program.layers, key=lambda layer: -layer.macs):
            for kind in layer.kinds:
                if kind == DENSE or kind in kinds:
                    self._try(self.kinds | {layer.equation: kind})

    def _try(self, kinds: dict[int, str]) -> None:
        if kinds == self.kinds:
            return
        candidate = self._jitted(kinds)
        best, new = self._measure([partial(self.best, ()), partial(candidate, ())])
        if new < _GAIN * best:
            self.kinds, self.best = kinds, candidate

    def _jitted(self, kinds: Mapping[int, str]) -> Function:
        return jit_without_params(partial(self._program.run, kinds))
