"""Scores of weights, of which the largest are kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt32

from sparsejax._dtypes import at_least_float32
from sparsejax._states import states_in
from sparsejax.transforms._distributions import Scale
from sparsejax.transforms._fresh_moments import second_moments
from sparsejax.transforms._sparse_method import Weights

_AT_ONCE = 2**30
"""The number of integers whose digits can be added up without an overflow, one bit at a time."""

Score: TypeAlias = Callable[[Weights], list[Float[Array, "..."]]]
"""``weights -> scores``: an array >= 0 for each leaf."""


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
    """Divide the scores of a layer by their size, in float32 or wider.

    The sum of squares is that of integers, so its rounding does not depend on the order of the
    terms. All other operations round alike in every program: multiplications by powers of two, and
    one reciprocal, where a compiler may replace a division of all scores by something else.
    """
    wide = values.astype(at_least_float32(values))
    finite = jnp.where(jnp.isfinite(wide), wide, 0)
    unit = _power_of_two(finite.max(initial=0))
    integers = jnp.round(finite * unit * 2.0**22).astype(jnp.uint32)  # at most 2^24
    high, low = integers >> 12, integers & jnp.uint32(2**12 - 1)
    squares = [(_sum(part, bits), power) for part, bits, power in (
        (low * low, 24, -44), (high * low * jnp.uint32(2), 26, -32), (high * high, 25, -20)
    )]  # fmt: skip
    total = sum(
        (2.0**power * part.astype(wide.dtype) for part, power in squares), jnp.zeros((), wide.dtype)
    )
    mean = total if scale == "l2" else total * (1 / max(1, values.size))
    # Without barriers a compiler may take a reciprocal root, or divide, which rounds otherwise.
    size = jax.lax.optimization_barrier(jnp.sqrt(jnp.where(total > 0, mean, 1)))
    limits = jnp.finfo(wide.dtype)
    factor = jnp.clip(unit * (1 / size), limits.tiny, limits.max)
    found: jax.Array = wide * jax.lax.optimization_barrier(factor)
    return found


def _power_of_two(largest: jax.Array) -> jax.Array:
    """Return the power of two that brings a number >= 0 to [2, 4), or the largest one."""
    stored = jnp.finfo(largest.dtype).nmant
    word = jnp.uint32 if largest.dtype.itemsize == 4 else jnp.uint64
    exponent = jax.lax.bitcast_convert_type(largest, word) >> word(stored)
    bias = int(jnp.finfo(largest.dtype).maxexp) - 1
    raised = word(2 * bias + 1) - jnp.maximum(exponent, word(1))
    found: jax.Array = jax.lax.bitcast_convert_type(raised << word(stored), largest.dtype)
    return found


def _sum(values: UInt32[Array, "..."], bits: int) -> Float[Array, ""]:
    """Return the sum of integers below 2^bits, which are added up digit by digit."""
    axes = tuple(range(values.ndim)) if values.size < _AT_ONCE else (values.ndim - 1,)
    terms = math.prod(values.shape[axis] for axis in axes)
    width = max(1, 31 - max(terms - 1, 1).bit_length())  # so that sums stay below 2^31
    total = jnp.zeros((), jnp.float32)
    for shift in range(0, bits, width):
        digits = (values >> shift) & jnp.uint32(2**width - 1)
        part = digits.sum(axes, dtype=jnp.uint32)
        total += 2.0**shift * (_sum(part, 31) if part.ndim else part.astype(jnp.float32))
    return total
