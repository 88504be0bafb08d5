"""The C step that leaves few different values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from sparsejax import _checks, _encoding
from sparsejax._codebooks import check_codebook, check_k
from sparsejax._dtypes import at_least_float32
from sparsejax._where import everything
from sparsejax.compression._base import Compression, check_weights, each_leaf, stateless
from sparsejax.compression._scaled_groups import SCALE_DTYPE, Groups, fit, normalised
from sparsejax.projections import project_codebook, project_k_means


class QuantizeState(NamedTuple):
    """State of `quantize` with a codebook that is learned."""

    codebook: PyTree
    """The rising codebook [k] of the last C step; a tree of them where each leaf has its own."""
    scales: PyTree | None = None
    """With ``group_size``: for each leaf the scales of its groups, in the dtype of the codebook."""


def quantize(
    codebook: int | Any,
    *,
    per_leaf: bool = False,
    exact: bool = True,
    zeros: bool = True,
    group_size: int | None = None,
    axis: int = -2,
) -> Compression:
    r"""Weights that take the values of a codebook, learned or given.

    Given an integer k, the codebook c and the assignment a are both chosen:

    .. math:: \min_{c \in \mathbb{R}^k, a} \sum_i (w_i - c_{a_i})^2

    Given the values, such as powers of two or (-1, 0, 1), each weight takes the nearest one.

    With ``group_size`` neighbouring weights share a scale, as in the 4-bit formats of language
    models, and the values are relative to it:

    .. math:: \min_{s \ge 0, a} \sum_i (w_i - s_{g(i)} c_{a_i})^2

    The codebook is then given, or that of the weights divided by the largest magnitude of their
    group. A local optimum of the scales is found, rounded to bfloat16.

    Args:
      codebook: k, a Python integer in ``[1, 2**16]``; or the values, a vector.
      per_leaf: learn a codebook for each leaf, in place of one for all leaves together.
      exact: find the optimal codebook, which sorts the weights (see
        `sparsejax.projections.project_k_means`), or a local optimum by Lloyd's iteration from the
        codebook of the last C step, which costs a few passes and gathers no sharded weights. The
        first C step then starts from the optimum for a histogram of the weights.
      zeros: quantise weights that are zero, too. With ``False`` they stay zero and have no say in
        the codebook, for weights that are pruned.
      group_size: the number of weights that share a scale, along ``axis``; the last group of an
        axis may have fewer. Default: no scales.
      axis: the axis of the groups; by default that of the inputs of a kernel [..., in, out].

    Returns:
      A `Compression`. Its state holds the codebook, where it is learned.

    Raises:
      TypeError: ``codebook`` is a number but no integer, or ``group_size`` is no integer.
      ValueError: k is out of range, the values are not finite or no vector, ``group_size`` is less
        than 1; in ``init``: the weights hold NaN, or a leaf does not have the axis.

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
    if group_size is not None:
        groups = Groups(_checks.python_integer("group_size", group_size, 1), axis)
        return _grouped(codebook, groups, per_leaf, exact, zeros)
    if np.ndim(codebook) > 0:
        return _given(codebook, per_leaf, zeros)
    k = check_k(codebook)

    def quantised(
        weights: PyTree[Array], codebook: jax.Array | None = None
    ) -> tuple[PyTree[Array], jax.Array]:
        warm = None if exact else codebook
        theta, found = project_k_means(
            weights, k, everything, exact=exact, warm_start=warm, zeros=zeros, with_codebook=True
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


def _given(codebook: Any, per_leaf: bool, zeros: bool) -> Compression:
    values = check_codebook(codebook)

    def nearest(weights: PyTree[Array]) -> PyTree[Array]:
        found = project_codebook(weights, values, everything)
        if zeros:
            return found
        return jax.tree.map(lambda w, value: jnp.where(w == 0, w, value), weights, found)

    return stateless(
        lambda weights, mu: nearest(weights),
        encode=lambda theta: _encoding.quantized(theta, per_leaf),
    )


def _grouped(
    codebook: Any, groups: Groups, per_leaf: bool, exact: bool, zeros: bool
) -> Compression:
    given = check_codebook(codebook) if np.ndim(codebook) > 0 else None
    k = check_k(codebook) if given is None else given.size
    separate = per_leaf and given is None

    def learned(weights: PyTree[Array], before: jax.Array | None = None) -> jax.Array:
        if given is not None:
            return given.astype(at_least_float32(*jax.tree.leaves(weights)))
        relative = jax.tree.map(lambda w: normalised(w, groups), weights)
        warm = None if exact else before
        _, found = project_k_means(
            relative, k, everything, exact=exact, warm_start=warm, zeros=zeros, with_codebook=True
        )
        return jnp.asarray(found)

    def of_each(codebooks: PyTree, weights: PyTree[Array]) -> PyTree[Array]:
        return codebooks if separate else jax.tree.map(lambda _: codebooks, weights)

    def fitted(weights: PyTree[Array], codebooks: PyTree) -> tuple[PyTree[Array], QuantizeState]:
        pairs = jax.tree.map(
            lambda w, values: fit(w, values, groups, zeros), weights, of_each(codebooks, weights)
        )
        outer, inner = jax.tree.structure(weights), jax.tree.structure((0, 0))
        theta, scales = jax.tree.transpose(outer, inner, pairs)
        return theta, QuantizeState(codebooks, scales)

    def init(weights: PyTree[Array]) -> QuantizeState:
        chosen = check_weights(weights)
        for path, leaf in zip(chosen.paths, chosen.leaves, strict=True):
            groups.check(path, leaf)
        start = _no_codebook(k) if exact and given is None else learned
        codebooks = each_leaf(start, weights, separate)
        _, shapes = jax.eval_shape(fitted, weights, codebooks)
        scales = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes.scales)
        return QuantizeState(codebooks, scales)

    def project(
        weights: PyTree[Array], mu: Float[ArrayLike, ""], state: QuantizeState
    ) -> tuple[PyTree[Array], QuantizeState]:
        del mu
        if separate:
            return fitted(weights, jax.tree.map(learned, weights, state.codebook))
        return fitted(weights, learned(weights, state.codebook))

    def encode(theta: PyTree[Array], state: QuantizeState) -> PyTree:
        # What stands for a leaf of another C step may differ in theta and in the state.
        leaves, structure = jax.tree.flatten(theta)
        codebooks = jax.tree.leaves(state.codebook) * (1 if separate else len(leaves))
        found = [
            _encoding.scaled(leaf, values, scales, groups.axis, groups.size, SCALE_DTYPE)
            for leaf, values, scales in zip(
                leaves, codebooks, jax.tree.leaves(state.scales), strict=True
            )
        ]
        return jax.tree.unflatten(structure, found)

    return Compression(init, project, encode)
