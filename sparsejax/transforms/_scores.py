"""Scores of weights, of which the largest are kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sparsejax._dtypes import at_least_float32
from sparsejax._states import states_in
from sparsejax.transforms._distributions import Scale
from sparsejax.transforms._fresh_moments import second_moments
from sparsejax.transforms._patterns import Pattern, random_scores
from sparsejax.transforms._sparse_method import Weights

Score: TypeAlias = Callable[[Weights], list[Float[Array, "..."]]]
"""``weights -> scores``: an array >= 0 for each leaf."""

_LEVELS = 2**14


def magnitude(weights: Weights) -> list[Float[Array, "..."]]:
    """Return abs(w)."""
    return [jnp.abs(w) for w in weights.leaves]


def saliency(weights: Weights) -> list[Float[Array, "..."]]:
    """Return abs(w g), in float32 or wider."""
    return [
        jnp.abs(w.astype(at_least_float32(w)) * g.astype(at_least_float32(w)))
        for w, g in zip(weights.leaves, weights.grads, strict=True)
    ]


def gradient(weights: Weights) -> list[Float[Array, "..."]]:
    """Return abs(g)."""
    return [jnp.abs(g) for g in weights.grads]


def chance(weights: Weights) -> list[Float[Array, "..."]]:
    """Return random scores."""
    return chance_of(Pattern("weights"))(weights)


def chance_of(pattern: Pattern) -> Score:
    """Return random scores for the items of a pattern."""

    def scores(weights: Weights) -> list[Float[Array, "..."]]:
        assert weights.key is not None
        return random_scores(weights.key, weights.leaves, pattern)

    return scores


def adam_fisher(weights: Weights) -> list[Float[Array, "..."]]:
    """Return w^2 v, in float32 or wider, with the second moment v of the optimizer."""
    moments = second_moments(weights.opt_state, weights.params)
    wide = [w.astype(at_least_float32(w)) for w in weights.leaves]
    return [
        w**2 * moments[path].astype(w.dtype) for path, w in zip(weights.paths, wide, strict=True)
    ]


def check_second_moments(weights: Weights) -> None:
    """Check that the optimizer keeps second moments of all chosen leaves.

    Raises:
      ValueError: it does not, or only after several updates.
    """
    if states_in(weights.opt_state, optax.MultiStepsState):
        raise ValueError(
            "optimizer must not be optax.MultiSteps for adam_fisher_pruning, since second moments "
            "are zero until its first step; use optax.MultiSteps(sparsify(...), ...)"
        )
    moments = second_moments(weights.opt_state, weights.params)
    for path, name in zip(weights.paths, weights.names, strict=True):
        if path not in moments:
            raise ValueError(
                "optimizer must keep second moments in a field nu, as optax.adam does, for "
                f"adam_fisher_pruning; its state has none for {name or 'the leaf'}"
            )


def normalised(values: Float[Array, "..."], scale: Scale) -> Float[Array, "..."]:
    """Divide the scores of a layer by their size, in float32 or wider."""
    wide = values.astype(at_least_float32(values))
    size = _root_mean_square(wide)
    if scale == "l2":
        size = size * math.sqrt(values.size)
    return jnp.where(size > 0, wide / jnp.where(size > 0, size, 1), wide)


def _root_mean_square(values: jax.Array) -> jax.Array:
    """Return the root mean square of values >= 0, the same for any sharding.

    The sum of squares of values that are rounded to a part of the largest is added up in integers,
    digit by digit, so that its rounding does not depend on the order.
    """
    if not values.size:
        return jnp.zeros((), values.dtype)
    finite = jnp.where(jnp.isfinite(values), values, 0)
    largest = finite.max()
    unit = jnp.maximum(largest / _LEVELS, jnp.finfo(values.dtype).tiny)
    squares = jnp.round(finite / unit).astype(jnp.uint32) ** 2  # at most 2^28
    digit = 31 - max(values.size - 1, 1).bit_length()  # so that a sum of digits stays below 2^31
    digit = min(max(digit, 1), 29)
    total = jnp.zeros((), values.dtype)
    for shift in range(0, 29, digit):
        digits = (squares >> shift) & jnp.uint32(2**digit - 1)
        total += digits.sum(dtype=jnp.uint32).astype(values.dtype) * (2.0**shift)
    return jnp.sqrt(total / values.size) * unit
