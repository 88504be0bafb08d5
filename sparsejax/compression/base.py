"""What every C step is: a pair of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from chex import Numeric

from sparsejax import _checks
from sparsejax._where import Chosen, PyTree, choose, everything


class Compression(NamedTuple):
    r"""The C step of learning-compression: the compressed weights nearest to given ones.

    .. math:: \theta = \arg\min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 + P(\theta)

    Any pair of functions with these shapes is a compression; ``learning_compression`` asks for no
    more.

    Attributes:
      init: ``weights -> state``. ``weights`` is a pytree that holds just the leaves to compress
        (``learning_compression`` puts ``optax.MaskedNode()`` in the place of the others). The
        state is a pytree of arrays: hyperparameters live there, so that changing one recompiles
        nothing and several can be run at once under ``vmap``.
      project: ``(weights, mu, state) -> (theta, state)``, pure and jittable, ``mu`` a traced
        positive scalar; ``theta`` has the structure, shapes and dtypes of ``weights``.
    """

    init: Callable[[PyTree], PyTree]
    project: Callable[[PyTree, jax.Array, PyTree], tuple[PyTree, PyTree]]


class ScalarState(NamedTuple):
    """State of a compression with one hyperparameter."""

    value: jax.Array


def with_scalar(
    name: str, value: Numeric, nearest: Callable[[PyTree, jax.Array, jax.Array], PyTree]
) -> Compression:
    """The compression with one hyperparameter >= 0 and ``theta = nearest(weights, mu, value)``."""
    value = _checks.scalar_at_least_zero(name, value)

    def init(weights):
        check_weights(weights)
        return ScalarState(value)

    def project(weights, mu, state):
        return nearest(weights, mu, state.value), state

    return Compression(init, project)


def with_count(
    name: str, value: Numeric, nearest: Callable[[PyTree, jax.Array], PyTree]
) -> Compression:
    """The compression with one count >= 0 and ``theta = nearest(weights, value)``.

    ``nearest`` checks the count against the weights where both are known.
    """
    count = _checks.scalar_count(name, value)

    def init(weights):
        check_weights(weights)
        jax.eval_shape(lambda w: nearest(w, value), weights)  # for its checks
        return ScalarState(count)

    def project(weights, mu, state):
        del mu  # the nearest point of a set does not depend on the weight of the distance
        return nearest(weights, state.value), state

    return Compression(init, project)


def check_weights(weights: PyTree) -> Chosen:
    """The weights there are to compress; raises ValueError where they hold NaN."""
    chosen = choose(weights, everything)
    _checks.no_nan("weights", chosen.paths, chosen.leaves)
    return chosen
