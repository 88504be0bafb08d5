"""The C step that leaves few different values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from sparsejax import _encoding
from sparsejax._codebooks import check_codebook, check_k
from sparsejax._dtypes import at_least_float32
from sparsejax._where import everything
from sparsejax.compression._base import Compression, check_weights, each_leaf, stateless
from sparsejax.projections import project_codebook, project_k_means


class QuantizeState(NamedTuple):
    """State of `quantize` with a codebook that is learned."""

    codebook: PyTree
    """The rising codebook [k] of the last C step; a tree of them where each leaf has its own."""


def quantize(codebook: int | Any, *, per_leaf: bool = False, exact: bool = True) -> Compression:
    r"""Weights that take the values of a codebook, learned or given.

    Given an integer k, the codebook c and the assignment a are both chosen:

    .. math:: \min_{c \in \mathbb{R}^k, a} \sum_i (w_i - c_{a_i})^2

    Given the values, such as powers of two or (-1, 0, 1), each weight takes the nearest one.

    Args:
      codebook: k, a Python integer in ``[1, 2**16]``; or the values, a vector.
      per_leaf: learn a codebook for each leaf, in place of one for all leaves together.
      exact: find the optimal codebook, which sorts the weights (see
        `sparsejax.projections.project_k_means`), or a local optimum by Lloyd's iteration from the
        codebook of the last C step, which costs a few passes and gathers no sharded weights. The
        first C step then starts from the optimum for a histogram of the weights.

    Returns:
      A `Compression`. Its state holds the codebook, where it is learned.

    Raises:
      TypeError: ``codebook`` is a number but no integer.
      ValueError: k is out of range, the values are not finite or no vector; in ``init``: the
        weights hold NaN.

    References:
      Carreira-Perpinan and Idelbayev, Model compression as constrained optimization, with
      application to neural nets. Part II: quantization, 2017.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import quantize
      >>> weights = jnp.array([1.0, 2.0, 5.0, 7.0])
      >>> c_step = quantize(2)
      >>> theta, state = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta, state.codebook
      (Array([1.5, 1.5, 6. , 6. ], dtype=float32), Array([1.5, 6. ], dtype=float32))
    """
    if np.ndim(codebook) > 0:
        return _given(codebook, per_leaf)
    k = check_k(codebook)

    def quantised(
        weights: PyTree[Array], codebook: jax.Array | None = None
    ) -> tuple[PyTree[Array], jax.Array]:
        warm = None if exact else codebook
        theta, found = project_k_means(
            weights, k, everything, exact=exact, warm_start=warm, with_codebook=True
        )
        return theta, found

    def init(weights: PyTree[Array]) -> QuantizeState:
        check_weights(weights)
        if exact:
            return QuantizeState(each_leaf(_no_codebook(k), weights, per_leaf))
        return QuantizeState(each_leaf(lambda w: quantised(w)[1], weights, per_leaf))

    def project(
        weights: PyTree[Array], mu: Float[ArrayLike, ""], state: QuantizeState
    ) -> tuple[PyTree[Array], QuantizeState]:
        del mu  # the nearest point of a set does not depend on the weight of the distance
        if not per_leaf:
            theta, found = quantised(weights, state.codebook)
            return theta, QuantizeState(found)
        pairs = jax.tree.map(quantised, weights, state.codebook)
        outer, inner = jax.tree.structure(weights), jax.tree.structure((0, 0))
        theta, found = jax.tree.transpose(outer, inner, pairs)
        return theta, QuantizeState(found)

    return Compression(init, project, lambda theta, _: _encoding.quantized(theta, per_leaf))


def _no_codebook(k: int) -> Callable[[PyTree[Array]], jax.Array]:
    return lambda weights: jnp.zeros(k, at_least_float32(*jax.tree.leaves(weights)))


def _given(codebook: Any, per_leaf: bool) -> Compression:
    values = check_codebook(codebook)
    return stateless(
        lambda weights, mu: project_codebook(weights, values, everything),
        encode=lambda theta: _encoding.quantized(theta, per_leaf),
    )
