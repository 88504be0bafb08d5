"""Compilation of a network that skips its zeros, each layer in the fastest way on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._dtypes import promoted
from sparsejax._where import PyTree
from sparsejax.deploy._decode_network import decode_network
from sparsejax.deploy._network import Network, check_network
from sparsejax.deploy.shrinking import shrink
from sparsejax.deploy.sparse_programs._layers import DENSE, KINDS
from sparsejax.deploy.sparse_programs._program import Program
from sparsejax.deploy.sparse_programs._search import Search, jit_without_params
from sparsejax.deploy.sparse_programs._timing import Measure, median_seconds


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Compiled(Network):
    """A network that `compile_sparse` returns.

    ``function`` is jitted and has the parameters as constants, so that ``params`` is ``()``. It
    takes any batch size, but was chosen for that of the examples.
    """

    kinds: Mapping[str, str]
    """The kind of each layer, by the path of its weights; all ``dense`` unless ``chosen`` is
    ``sparse``."""
    seconds: Mapping[str, float]
    """Seconds of a call: ``given`` (the network as it was), ``shrunk``, ``sparse`` (the fastest
    combination of kinds)."""
    chosen: str
    """The fastest of these three, which ``function`` computes."""

    has_params: ClassVar[bool] = False
    """The parameters are constants of the function."""


def compile_sparse(
    network: Network,
    *inputs: PyTree,
    kinds: Sequence[str] | None = None,
    rounds: int = 15,
    batched: PyTree = None,
    measure: Measure | None = None,
) -> Compiled:
    r"""Compile a network to a program that skips zeros where measurements show that this is faster.

    Dead units are removed first (`shrink`). Every product :math:`y_j = b_j + \sum_i w_{ij} x_i`
    with known weights is then tried in several kinds within the whole network, on the default
    device of this machine and with the batch size of the examples:

    - ``dense``: as it was;
    - ``transposed``: the dense product with units before the batch;
    - ``compacted``: the dense product without rows and columns of zeros;
    - ``coo``: coordinate format, a gathered input for each weight, summed by unit;
    - ``ell``: ELLPACK, the n-th weight of all units at once, n after n;
    - ``ell_split``: ELLPACK in half the iterations, units with many weights split into two rows;
    - ``sell``: sliced ELLPACK, four slices of units with similar numbers of weights;
    - ``direct_convolution`` (up to 1,000 weights): for each channel a sum of shifted images;
    - ``direct_convolution_fused``: the same, and channels stay separate through activation and
      pooling.

    The search first gives all layers the same kind, then changes one layer after the other, those
    with the most work first. A change is kept if the median time of the network falls by more than
    3 %. The result is timed against the given and the shrunk network in an interleaved order, and
    the fastest of the three is returned. Each trial is compiled, which takes seconds for a small
    network and minutes for a large one. Sums are in another order than before, so outputs differ
    within rounding; ``ell``, ``sell`` and ``direct_convolution`` sum bfloat16 in float32.

    Async dispatch dominates the latency of a call of a few microseconds on a CPU, unless
    ``jax_cpu_enable_async_dispatch`` is off or XLA estimates the program as cheap. The fastest
    kinds depend on that setting, too. Example::

        fast = compile_sparse(Network(forward, params), images)
        logits = fast(images)

    Args:
      network: a network, as for `shrink`, possibly with forms; units that `shrink` cannot remove
        safely are kept.
      *inputs: examples, arrays or ``jax.ShapeDtypeStruct``, whose first dimension is the batch.
        Networks are timed on normal random numbers (zeros for other dtypes) of these shapes.
      kinds: the kinds to try besides ``dense``; default all.
      rounds: number of rounds in which each trial is timed, interleaved with the best so far.
      batched: as for `shrink`.
      measure: ``measure(functions, inputs)`` returns the seconds that a call of each function
        takes. Default: interleaved medians of ``rounds`` on the clock of this machine.

    Returns:
      The compiled network, with the chosen kinds and the measured times.

    Raises:
      TypeError: ``network`` is not a `Network`; its parameters are traced or not arrays.
      ValueError: ``network`` is compiled already; ``kinds`` has an unknown one; ``rounds`` is less
        than 1. Calling the result: inputs of shapes that need another computation.
    """
    check_network(network, "compile_sparse")
    network = decode_network(network, *inputs)
    _check(kinds, rounds)
    tried = [kind for kind in KINDS if kind != DENSE and (kinds is None or kind in kinds)]
    small = shrink(network, *inputs, keep_unsupported=True, batched=batched)
    program = Program(small.function, small.params, inputs, batched)
    examples = jax.tree.map(_example, inputs)
    timed = measure or median_seconds(rounds)
    search = Search(program, lambda trials: timed(trials, examples))
    search.try_all_layers(tried)
    search.try_each_layer(tried)
    functions = {
        "given": jit_without_params(network),
        "shrunk": jit_without_params(small),
        "sparse": search.best,
    }
    trials = [partial(function, ()) for function in functions.values()]
    seconds = dict(zip(functions, map(float, timed(trials, examples)), strict=True))
    chosen = fastest(seconds)
    taken = search.kinds if chosen == "sparse" else {}
    found = {layer.name: taken.get(layer.equation, DENSE) for layer in program.layers}
    return Compiled(functions[chosen], (), found, seconds, chosen)


def fastest(seconds: Mapping[str, float]) -> str:
    """Return the name with the fewest seconds; the first one of equal ones."""
    return min(seconds, key=lambda name: seconds[name])


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
