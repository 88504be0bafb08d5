"""What every C step is: a pair of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from chex import Numeric

from sparsejax import _checks
from sparsejax._where import Chosen, PyTree, choose, everything


class Compression(NamedTuple):
    r"""The C step of learning-compression: the compressed weights nearest to given ones.

    .. math:: \theta = \arg\min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 + P(\theta)

    Any pair of functions with these shapes is a compression; ``learning_compression`` asks for no
    more. Hyperparameters are arguments of the function that makes the pair. They may be traced:
    a compression that is built inside a jitted function, or under ``optax.inject_hyperparams``,
    obeys a new value without compiling anew, and ``jax.vmap`` over a function that builds it runs
    several values at once.

    Attributes:
      init: ``weights -> state``. ``weights`` is a pytree that holds just the leaves to compress
        (``learning_compression`` puts ``optax.MaskedNode()`` in the place of the others). The
        state is a pytree of arrays: what one C step remembers for the next, such as a threshold
        to start its search from.
      project: ``(weights, mu, state) -> (theta, state)``, pure and jittable, ``mu`` a traced
        positive scalar; ``theta`` has the structure, shapes and dtypes of ``weights``.
    """

    init: Callable[[PyTree], PyTree]
    project: Callable[[PyTree, jax.Array, PyTree], tuple[PyTree, PyTree]]


def with_scalar(
    name: str, value: Numeric, nearest: Callable[[PyTree, jax.Array, jax.Array], PyTree]
) -> Compression:
    """The compression with one hyperparameter >= 0 and ``theta = nearest(weights, mu, value)``."""
    value = _checks.scalar_at_least_zero(name, value)

    def init(weights):
        check_weights(weights)
        return optax.EmptyState()

    def project(weights, mu, state):
        return nearest(weights, mu, value), state

    return Compression(init, project)


def with_count(
    name: str, value: Numeric, nearest: Callable[[PyTree, Numeric], PyTree], most: int | None = None
) -> Compression:
    """The compression with one count in ``[0, most]`` and ``theta = nearest(weights, value)``.

    ``nearest`` checks the count against the weights where both are known.
    """
    _checks.scalar_count(name, value, most)

    def init(weights):
        check_weights(weights)
        jax.eval_shape(lambda w: nearest(w, value), weights)  # for its checks
        return optax.EmptyState()

    def project(weights, mu, state):
        del mu  # the nearest point of a set does not depend on the weight of the distance
        return nearest(weights, value), state

    return Compression(init, project)


def check_weights(weights: PyTree) -> Chosen:
    """The weights there are to compress; raises ValueError where they hold NaN."""
    chosen = choose(weights, everything)
    _checks.no_nan("weights", chosen.paths, chosen.leaves)
    return chosen
