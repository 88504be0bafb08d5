"""A network whose zeros are skipped, each layer in the way that is fastest on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._dtypes import promoted
from sparsejax._where import PyTree
from sparsejax.deploy.shrinking import shrink
from sparsejax.deploy.sparse_programs._products import PRODUCTS
from sparsejax.deploy.sparse_programs._program import CONVOLUTIONS, DENSE, Program

KINDS = (DENSE, *PRODUCTS, *CONVOLUTIONS)
_GAIN = 0.97  # of the time so far: less is noise
_ROUND = 5e-3  # seconds of repeated calls that are timed at once


class Compiled(NamedTuple):
    """What `compile_sparse` found."""

    function: Callable[..., PyTree]
    """``function(*inputs)``, jitted, the parameters in it as constants. Pure; any batch size, but
    the choice was made for that of the examples."""
    kinds: dict[str, str]
    """How each layer is computed, by the path of its weights; all ``dense`` unless ``chosen`` is
    ``sparse``."""
    seconds: dict[str, float]
    """Of a call: ``given`` (the function as it was), ``shrunk``, ``sparse`` (the best that was
    found of the ways below)."""
    chosen: str
    """Which of the three ``function`` is: the one with the fewest seconds."""


Measure = Callable[[Sequence[Callable[..., PyTree]], tuple[PyTree, ...]], Sequence[float]]
"""``measure(functions, inputs)``: the seconds that a call of each function takes."""


def compile_sparse(
    function: Callable[..., PyTree],
    params: PyTree,
    *inputs: PyTree,
    kinds: Sequence[str] | None = None,
    rounds: int = 15,
    batched: PyTree = None,
    measure: Measure | None = None,
) -> Compiled:
    r"""Make a forward function that skips zeros where that is faster here, by measurement.

    Dead units go first (`shrink`). Then every product :math:`y_j = b_j + \sum_i w_{ij} x_i` with
    known weights is tried in several ways within the whole network, on this machine's default
    device and at the examples' batch size:

    - ``dense``: as it was;
    - ``transposed``: the dense product with units before the batch;
    - ``coo``: coordinate format, a gathered input for each weight, summed by unit;
    - ``ell``: ELLPACK, the n-th weight of all units at once, n after n;
    - ``ell_split``: ELLPACK in half the iterations, units with many weights split into two rows;
    - ``sell``: sliced ELLPACK, four slices of units with similar numbers of weights;
    - ``direct_convolution`` (up to 1,000 weights): for each channel a sum of shifted images;
    - ``direct_convolution_fused``: the same, and channels stay separate through activation and
      pooling.

    First all layers alike, then one layer after the other, those with the most work first; a way is
    taken if the network's median time falls by more than 3 %. At last the network found so is timed
    by turns with the function as it was given and with the shrunk one, and the fastest of the three
    is returned. Each trial is compiled: seconds for a
    small network, minutes for a large one. Sums are in another order than before, so outputs
    differ within rounding; ``ell``, ``sell`` and ``direct_convolution`` sum bfloat16 in float32.

    Most of a CPU call of a few microseconds is the waking of another thread, unless
    ``jax_cpu_enable_async_dispatch`` is off, or XLA takes the program for cheap. What is fastest
    depends on that setting, too. Example::

        fast = compile_sparse(lambda params, x: nnx.merge(graph, params, rest)(x), params, images)
        logits = fast.function(images)

    Args:
      function: as for `shrink`, but whatever it can't prove stays whole.
      params: pytree of concrete arrays with zeros where pruned.
      *inputs: examples, arrays or ``jax.ShapeDtypeStruct``; timed on normal random numbers (zeros
        for other dtypes). The first dimension is the batch.
      kinds: the ways to try besides ``dense``; default all.
      rounds: how often each trial is timed, by turns with the best so far.
      batched: as for `shrink`.
      measure: ``measure(functions, inputs)`` gives the seconds that a call of each takes. Default:
        medians of ``rounds``, by turns, on this machine's clock.

    Raises:
      TypeError: as `shrink`.
      ValueError: ``kinds`` has an unknown one, ``rounds`` is less than 1. The function that is
        returned: inputs of shapes that make another computation.
    """
    _check(kinds, rounds)
    small = shrink(function, params, *inputs, keep_unsupported=True, batched=batched)
    program = Program(small.function, small.params, inputs, batched)
    examples = jax.tree.map(_example, inputs)
    search = _Search(program, lambda trials: (measure or _measure(rounds))(trials, examples))
    search.all_layers_alike(kinds)
    search.layer_by_layer(kinds)
    ways: dict[str, Callable[..., PyTree]] = {
        "given": jax.jit(lambda *arrays: function(params, *arrays)),
        "shrunk": jax.jit(lambda *arrays: small.function(small.params, *arrays)),
        "sparse": search.best(),
    }
    seconds = dict(zip(ways, map(float, search.measure(list(ways.values()))), strict=True))
    chosen = fastest(seconds)
    taken = search.kinds if chosen == "sparse" else {}
    found = {layer.name: taken.get(layer.equation, DENSE) for layer in program.layers}
    return Compiled(ways[chosen], found, seconds, chosen)


def fastest(seconds: Mapping[str, float]) -> str:
    """The way that takes the fewest seconds; of equal ones the first."""
    return min(seconds, key=lambda way: seconds[way])


def _check(kinds: Sequence[str] | None, rounds: int) -> None:
    for kind in kinds or ():
        if kind not in KINDS:
            raise ValueError(f"kinds must be among {KINDS}; got {kind!r}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1; got {rounds}")


def _example(leaf: Any) -> jax.Array:
    shape = jnp.shape(leaf)
    dtype = leaf.dtype if hasattr(leaf, "dtype") else promoted(leaf)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return jnp.zeros(shape, dtype)
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32), dtype)


class _Search:
    """The fastest kinds so far."""

    def __init__(
        self,
        program: Program,
        measure: Callable[[Sequence[Callable[..., PyTree]]], Sequence[float]],
    ):
        self.program = program
        self.measure = measure
        self.kinds: dict[int, str] = {}
        self._best = self._jitted({})

    def best(self) -> Callable[..., PyTree]:
        return self._best

    def all_layers_alike(self, kinds: Sequence[str] | None) -> None:
        for kind in KINDS:
            having = [layer for layer in self.program.layers if kind in layer.kinds]
            if kind != DENSE and having and (kinds is None or kind in kinds):
                self._try(self.kinds | {layer.equation: kind for layer in having})

    def layer_by_layer(self, kinds: Sequence[str] | None) -> None:
        for layer in sorted(self.program.layers, key=lambda layer: -layer.macs):
            for kind in layer.kinds:
                if kind == DENSE or kinds is None or kind in kinds:
                    self._try(self.kinds | {layer.equation: kind})

    def _try(self, kinds: dict[int, str]) -> None:
        if kinds == self.kinds:
            return
        candidate = self._jitted(kinds)
        now, then = self.measure([self._best, candidate])
        if then < _GAIN * now:
            self.kinds, self._best = kinds, candidate

    def _jitted(self, kinds: Mapping[int, str]) -> Callable[..., PyTree]:
        def sparse(*inputs: PyTree) -> PyTree:
            return self.program.run(kinds, *inputs)

        return jax.jit(sparse)


def _measure(rounds: int) -> Measure:
    """Median seconds of a call, all timed by turns."""

    def measure(functions: Sequence[Callable[..., PyTree]], inputs: tuple[PyTree, ...]):
        def seconds(function: Callable[..., PyTree], calls: int) -> float:
            start = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(function(*inputs))
            return (time.perf_counter() - start) / calls

        for function in functions:
            seconds(function, 1)  # compiles
        calls = [max(1, round(_ROUND / max(seconds(f, 3), 1e-9))) for f in functions]
        taken = [
            [seconds(f, n) for f, n in zip(functions, calls, strict=True)] for _ in range(rounds)
        ]
        return [float(np.median(times)) for times in zip(*taken, strict=True)]

    return measure
