"""Networks with compressed weights as networks with plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax._forms import LowRankArray, decode, has_forms, is_form, without_forms
from sparsejax._matrices import Matrices
from sparsejax._where import PyTree
from sparsejax.deploy._network import Network, check_network
from sparsejax.deploy._rewritten_function import RewrittenFunction
from sparsejax.graph import Factored, abstract, evaluate_factored, find_factored, trace


def decode_network(network: Network, *inputs: PyTree) -> Network:
    r"""Return a network with plain arrays in place of the forms of compressed weights.

    A kernel of low rank becomes two layers, :math:`x W = (x A) B`, where these take fewer
    multiply-accumulates than the kernel: :math:`r (m + n) < m n` for a dense kernel. A convolution
    becomes two: by the scheme ``"channel"`` one with r outputs and one with a window of one pixel,
    by the scheme ``"spatial"`` a horizontal and a vertical one. In ``params`` its place is taken by
    ``{"left": A, "right": B}``, kernels in the shapes of `sparsejax.projections.low_rank_factors`.

    How a kernel is used is inferred from the jaxpr: it may be reshaped, transposed and converted on
    its way to products (``dot_general``) and convolutions in one group, and be used several times.
    Kernels that are used in another way, those of stacked layers, and all other forms, sums among
    them, become arrays.

    `shrink`, `compile_sparse` and the exports do this by themselves. Custom derivatives are lost,
    as in `shrink`.

    Args:
      network: a network whose ``params`` hold forms, as `sparsejax.compressed_forms` returns them,
        where its function takes arrays.
      *inputs: examples, arrays or ``jax.ShapeDtypeStruct``; only shapes and dtypes are used. The
        result takes inputs of other shapes, too.

    Returns:
      A network that computes the same up to rounding; the same object if it holds no forms.

    Raises:
      TypeError: ``network`` is not a `Network`.
    """
    check_network(network, "decode_network", needs_params=False)
    if not has_forms(network.params):
        return network
    leaves, found = jax.tree.flatten(network.params, is_leaf=is_form)
    structure: Any = found
    shapes = abstract(without_forms(network.params))
    graph = trace(network.function, shapes, inputs)
    kernels = {
        value: Matrices(leaf.scheme).kernels(
            jnp.asarray(leaf.left), jnp.asarray(leaf.right), leaf.shape
        )
        for value, leaf in zip(graph.leaves, leaves, strict=True)
        if isinstance(leaf, LowRankArray) and leaf.rank and not leaf.stacked
    }
    chosen = find_factored(
        graph, {value: jax.eval_shape(_factored, pair) for value, pair in kernels.items()}
    )
    params = [
        dict(zip(_NAMES, kernels[value], strict=True)) if value in chosen else decode(leaf)
        for value, leaf in zip(graph.leaves, leaves, strict=True)
    ]
    function = network.function
    if chosen:
        factored = tuple(value in chosen for value in graph.leaves)
        function = RewrittenFunction(function, shapes, factored, _read, evaluate_factored)
    return Network(function, structure.unflatten(params))


_NAMES = ("left", "right")


def _read(kernels: dict[str, jax.Array]) -> Factored:
    return _factored([kernels[name] for name in _NAMES])


def _factored(kernels: Sequence[jax.Array]) -> Factored:
    """The kernel that is the product of those of two layers."""
    first, second = kernels
    if first.ndim == 2:
        return Factored(first, second, (False, True))
    if second.shape[:2] == (1, 1):
        return Factored(first, lax.squeeze(second, (0, 1)), (False, False, False, True))
    right = jnp.transpose(lax.squeeze(second, (1,)), (1, 0, 2))
    return Factored(lax.squeeze(first, (0,)), right, (True, False, False, True))
