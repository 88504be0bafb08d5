"""The interface of a C step: a pair of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import optax
from jaxtyping import Array, ArrayLike, Float, Integer, PyTree, Real

from sparsejax import _checks
from sparsejax._where import Chosen, choose, everything

Encode: TypeAlias = Callable[[PyTree[Array], PyTree[Array]], PyTree]
"""``(theta, state) -> forms``."""


class Compression(NamedTuple):
    r"""The C step of learning-compression, which finds the nearest compressed weights.

    .. math:: \theta = \arg\min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 + P(\theta)

    Any pair of functions with these signatures is a compression. Hyperparameters are arguments of
    the function that makes the pair, and they may be traced: a compression that is built inside a
    jitted function or under ``optax.inject_hyperparams`` uses new values without recompilation, and
    ``jax.vmap`` over a function that builds it runs several values at once.

    Attributes:
      init: ``weights -> state``. ``weights`` is a pytree of the leaves to compress, with
        ``optax.MaskedNode()`` for all other leaves. The state is a pytree of arrays that one C step
        passes on to the next, such as the threshold from which the next search starts.
      project: ``(weights, mu, state) -> (theta, state)``, pure and jittable. ``mu`` is a positive
        scalar, in units of the loss per squared unit of weight, and may be traced. ``theta`` has
        the structure, shapes and dtypes of ``weights``.
      encode: None, or ``(theta, state) -> forms``, which runs on the host: the compressed weights
        as they can be stored, a tree like ``theta`` with forms such as `QuantizedArray` in place of
        its leaves, or with leaves as they are. `sparsejax.compressed_forms` calls it.
    """

    init: Callable[[PyTree[Array]], PyTree[Array]]
    project: Callable[
        [PyTree[Array], Float[ArrayLike, ""], PyTree[Array]], tuple[PyTree[Array], PyTree[Array]]
    ]
    encode: Encode | None = None


def with_scalar(
    name: str,
    value: Real[ArrayLike, ""],
    nearest: Callable[[PyTree[Array], Float[ArrayLike, ""], jax.Array], PyTree[Array]],
) -> Compression:
    """Return the compression ``theta = nearest(weights, mu, value)`` with one hyperparameter >= 0.

    Raises:
      TypeError: ``value`` is not a number.
      ValueError: ``value`` is negative, NaN or not a scalar.
    """
    hyperparameter = _checks.scalar_at_least_zero(name, value)
    return stateless(lambda weights, mu: nearest(weights, mu, hyperparameter))


def with_count(
    name: str,
    value: Integer[ArrayLike, ""],
    nearest: Callable[[PyTree[Array], Integer[ArrayLike, ""]], PyTree[Array]],
    most: int | None = None,
) -> Compression:
    """Return the compression ``theta = nearest(weights, value)`` with one count in ``[0, most]``.

    ``nearest`` checks the count against the weights where both are concrete.

    Raises:
      TypeError: ``value`` is not a number.
      ValueError: ``value`` is not an integer scalar in ``[0, most]``.
    """
    _checks.scalar_count(name, value, most)
    # The nearest point of a set does not depend on mu, the weight of the distance.
    return stateless(
        lambda weights, mu: nearest(weights, value),
        check=lambda weights: jax.eval_shape(lambda w: nearest(w, value), weights),
    )


def check_weights(weights: PyTree[Array]) -> Chosen:
    """Return the leaves to compress.

    Raises:
      TypeError: a leaf is not floating point.
      ValueError: a concrete leaf holds NaN.
    """
    chosen = choose(weights, everything)
    _checks.no_nan("weights", chosen.paths, chosen.leaves)
    return chosen


def stateless(
    nearest: Callable[[PyTree[Array], Float[ArrayLike, ""]], PyTree[Array]],
    check: Callable[[PyTree[Array]], Any] | None = None,
    encode: Callable[[PyTree[Array]], PyTree] | None = None,
) -> Compression:
    """Return the compression ``theta = nearest(weights, mu)``.

    ``check(weights)`` raises in ``init``, and ``encode(theta)`` returns the forms.
    """

    def init(weights: PyTree[Array]) -> optax.EmptyState:
        check_weights(weights)
        if check is not None:
            check(weights)
        return optax.EmptyState()

    def project(
        weights: PyTree[Array], mu: Float[ArrayLike, ""], state: optax.EmptyState
    ) -> tuple[PyTree[Array], optax.EmptyState]:
        return nearest(weights, mu), state

    return Compression(init, project, None if encode is None else lambda theta, _: encode(theta))


def encoded(compression: Any, theta: PyTree[Array], state: PyTree[Array]) -> PyTree:
    """Return the forms of compressed weights: the weights if the C step does not encode."""
    encode = getattr(compression, "encode", None)
    return theta if encode is None else encode(theta, state)


def each_leaf(
    function: Callable[[PyTree[Array]], PyTree[Array]], weights: PyTree[Array], per_leaf: bool
) -> PyTree[Array]:
    """Apply ``function`` to all weights together, or to each leaf by itself."""
    return jax.tree.map(function, weights) if per_leaf else function(weights)
