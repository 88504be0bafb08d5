"""The C step that leaves a sum of compressed parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PyTree

from sparsejax import _checks, _encoding
from sparsejax._dtypes import at_least_float32
from sparsejax._forms import SumArray, is_form
from sparsejax.compression._base import Compression, check_weights, encoded


class AdditiveState(NamedTuple):
    """State of `additive`."""

    parts: tuple[PyTree, ...]
    """The compressed parts after the last C step; the compressed weights are their sum."""
    states: tuple[PyTree, ...]
    """The state of each part's C step."""


def additive(compressions: Sequence[Compression], *, sweeps: int = 10) -> Compression:
    r"""Weights that are a sum of parts, each compressed in its own way.

    .. math:: \min_{D_1, \dots, D_K} \tfrac{\mu}{2} \Bigl\| w - \sum_k D_k \Bigr\|^2
              \;\text{s.t. each } D_k \text{ in its set (or with its penalty)}

    It is solved approximately by alternation: in each sweep every part, in the given order, becomes
    its own C step of what the others leave, D_k <- C_k(w - sum of the others). The error never
    rises. The parts start from those of the last C step, at first from zero, so **the order
    matters**: the first part takes what it can, the next ones correct it. For instance
    ``additive([quantize(2), l0_ball(2662)])`` corrects the worst errors of a codebook of two values
    by 2,662 exact weights.

    Args:
      compressions: the C steps of the parts, one or more, `additive` ones among them.
      sweeps: how often all parts are updated in a C step, a Python integer >= 1.

    Returns:
      A `Compression`, whose state holds the parts.

    Raises:
      TypeError: ``sweeps`` is not an integer, or a part is no `Compression`.
      ValueError: there are no parts, ``sweeps`` is less than 1; in ``init``: as the parts raise.

    References:
      Idelbayev and Carreira-Perpinan, More general and effective model compression via an additive
      combination of compressions, ECML PKDD 2021.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import additive, binary, l0_ball
      >>> weights = jnp.array([1.0, -1.0, 1.0, 5.0])
      >>> c_step = additive([binary(), l0_ball(1)])
      >>> theta, state = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta, state.parts[1]
      (Array([ 1., -1.,  1.,  5.], dtype=float32), Array([0., 0., 0., 4.], dtype=float32))
    """
    if hasattr(compressions, "project"):
        raise TypeError("compressions must be a sequence of C steps; got a single one")
    compressions = tuple(compressions)
    if not compressions:
        raise ValueError("compressions must hold one or more C steps; it is empty")
    for number, part in enumerate(compressions):
        _checks.compression(f"compressions[{number}]", part)
    sweeps = _checks.python_integer("sweeps", sweeps, 1)

    def init(weights: PyTree[Array]) -> AdditiveState:
        check_weights(weights)
        nothing = jax.tree.map(jnp.zeros_like, weights)
        return AdditiveState(
            parts=tuple(nothing for _ in compressions),
            states=tuple(part.init(weights) for part in compressions),
        )

    def project(
        weights: PyTree[Array], mu: Float[ArrayLike, ""], state: AdditiveState
    ) -> tuple[PyTree[Array], AdditiveState]:
        def sweep(_: jax.Array, carry: AdditiveState) -> AdditiveState:
            parts, states = list(carry.parts), list(carry.states)
            for number, compression in enumerate(compressions):
                others = parts[:number] + parts[number + 1 :]
                rest = _minus(weights, others)
                parts[number], states[number] = compression.project(rest, mu, states[number])
            return AdditiveState(tuple(parts), tuple(states))

        state = lax.fori_loop(0, sweeps, sweep, state)
        return _sum(weights, state.parts), state

    def encode(theta: PyTree[Array], state: AdditiveState) -> PyTree:
        parts = [
            encoded(compression, part, own)
            for compression, part, own in zip(compressions, state.parts, state.states, strict=True)
        ]
        flat = (jax.tree.leaves(part, is_leaf=is_form) for part in parts)
        sums = iter([SumArray(of_leaf) for of_leaf in zip(*flat, strict=True)])
        return jax.tree.map(lambda leaf: _checked(next(sums), leaf), theta)

    return Compression(init, project, encode)


def _checked(form: SumArray, leaf: jax.Array) -> Any:
    """The sum, or the leaf where it is no longer that: if `hold_zeros` has cleared some of it."""
    return form if _encoding.agrees(form, leaf) else leaf


def _minus(weights: PyTree, parts: Sequence[PyTree]) -> PyTree:
    def rest(w: jax.Array, *parts: jax.Array) -> jax.Array:
        wide = at_least_float32(w)
        value = w.astype(wide)
        for part in parts:
            value = value - part.astype(wide)
        return value.astype(w.dtype)

    return jax.tree.map(rest, weights, *parts)


def _sum(weights: PyTree, parts: Sequence[PyTree]) -> PyTree:
    def total(w: jax.Array, *parts: jax.Array) -> jax.Array:
        wide = at_least_float32(w)
        return sum((part.astype(wide) for part in parts), jnp.zeros((), wide)).astype(w.dtype)

    return jax.tree.map(total, weights, *parts)
