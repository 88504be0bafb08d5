"""Scores of weights that can be compared between kernels, and the division of a budget by them."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsejax._counts import kept
from sparsejax._where import everything
from sparsejax.oneshot._damping import damped, inverse_diagonal
from sparsejax.oneshot._errors import output_energy
from sparsejax.oneshot._kernel_budgets import KernelBudget
from sparsejax.oneshot._kernels import Kernel
from sparsejax.oneshot._method import Gram, Weights
from sparsejax.oneshot._sensitivity import SquaredGradients, output_scales
from sparsejax.projections import top_k_mask

Comparison: TypeAlias = Literal["balanced", "relative", "absolute", "loss"]
_METRIC_DAMPING = 0.1
_MOST_ENTRIES = 2**31 - 1  # of an array that is ranked; tests lower it


def check_comparison(value: Any, squared_gradients: Any, pattern: str) -> Comparison:
    """Check the argument ``comparison`` of `sparsejax.oneshot.prune`, and return it.

    Args:
      value: the argument ``comparison``.
      squared_gradients: the argument that ``"loss"`` needs.
      pattern: the argument ``pattern``.

    Raises:
      TypeError: ``squared_gradients`` are traced.
      ValueError: ``value`` is none of the allowed ones, or does not go with the other arguments.
    """
    if value not in get_args(Comparison):
        raise ValueError(f"comparison must be one of {get_args(Comparison)}; got {value!r}")
    if value != "balanced" and pattern != "global":
        raise ValueError(
            f"comparison={value!r} divides one budget among all kernels, so pattern must be "
            f"'global'; got {pattern!r}"
        )
    if value == "loss" and squared_gradients is None:
        raise ValueError(
            "squared_gradients must be given for comparison='loss', such as what "
            "sparsejax.oneshot.squared_gradients(loss, params, batches) returns; got None"
        )
    if value != "loss" and squared_gradients is not None:
        raise ValueError(
            f"squared_gradients must come with comparison='loss' only; comparison is {value!r}"
        )
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(squared_gradients)):
        raise TypeError("squared_gradients must hold concrete arrays, outside of jit; it is traced")
    return value  # type: ignore[no-any-return]


def divided(
    kernels: Sequence[Kernel],
    sparsity: Fraction,
    comparison: Comparison,
    gradients: SquaredGradients | None,
) -> list[KernelBudget]:
    """Divide one budget among all matrices of all kernels.

    Matrices of one shape are ranked as one array, so that the program that ranks is small; as
    several, where one would have too many entries.

    Args:
      kernels: the kernels.
      sparsity: the fraction of all weights to prune.
      comparison: see `sparsejax.oneshot.prune`.
      gradients: the squared gradients, for ``"loss"``.

    Returns:
      The budget of each kernel.
    """
    stacks: dict[str, list[Float[Array, "outputs inputs"]]] = {}
    places: list[list[str]] = []  # the stack of each matrix
    scales: list[Float[Array, "batch outputs"] | None] = []
    seen: collections.Counter[tuple[int, int, str]] = collections.Counter()
    for kernel in kernels:
        outputs, inputs = kernel.layout.outputs, kernel.layout.inputs
        share = jnp.asarray(kept(outputs * inputs, sparsity, Fraction(1)), jnp.int32)
        places.append([])
        moments = kernel.moments()
        felt = gradients.felt(kernel, moments) if gradients else None
        scales.append(None if felt is None else output_scales(felt))
        by_matrix = itertools.repeat(None, kernel.layout.batch) if felt is None else felt
        for matrix, gram, own in zip(kernel.matrices(), moments, by_matrix, strict=True):
            number = seen[kernel.signature] // max(1, _MOST_ENTRIES // matrix.size)
            seen[kernel.signature] += 1
            places[-1].append(f"{kernel.signature} {number}")
            scores = _scores(matrix, gram, share, comparison, own)
            stacks.setdefault(places[-1][-1], []).append(scores)
    arrays = {key: jnp.stack(found) for key, found in stacks.items()}
    total = sum(array.size for array in arrays.values())
    masks = top_k_mask(arrays, kept(total, sparsity, Fraction(1)), where=everything)
    counts = {key: iter(mask.sum((1, 2)).tolist()) for key, mask in masks.items()}
    return [
        KernelBudget([next(counts[place]) for place in own], scale)
        for own, scale in zip(places, scales, strict=True)
    ]


@functools.partial(jax.jit, static_argnames="comparison")
def _scores(
    weights: Weights,
    gram: Gram,
    count: jax.Array,
    comparison: Comparison,
    felt: Float[Array, " outputs"] | None,
) -> Weights:
    """Return what the error grows by when a weight is pruned, in the unit of the comparison.

    Args:
      weights: a matrix.
      gram: the moments of its inputs.
      count: how many weights it keeps at the sparsity of the whole.
      comparison: see `sparsejax.oneshot.prune`.
      felt: how much the loss feels each output, for ``"loss"``.
    """
    diagonal = jnp.diagonal(gram)
    diagonal = jnp.where(diagonal > 0, diagonal, 1)
    price = 1 / inverse_diagonal(damped(gram, diagonal, _METRIC_DAMPING))
    scores = jnp.where(jnp.diagonal(gram) > 0, jnp.square(weights) * price, 0)
    if felt is not None:
        return scores * felt[:, None]
    if comparison == "absolute":
        unit = jnp.ones((), scores.dtype)
    elif comparison == "relative":
        unit = output_energy(weights, gram)
    else:
        mask = top_k_mask(scores, count, where=everything)
        unit = jnp.where(mask, 0, scores).sum()
    return scores / jnp.where(unit > 0, unit, 1)
