"""Different C steps for different leaves."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from sparsejax import _checks
from sparsejax._misfit import misfit
from sparsejax._where import is_function, is_masked
from sparsejax.compression._base import Compression, encoded


class PartitionState(NamedTuple):
    """State of `partition`."""

    states: dict[Hashable, PyTree]
    """The state of each label's C step."""


def partition(
    compressions: Mapping[Any, Compression],
    labels: PyTree | Callable[[Any, jax.Array], Hashable],
) -> Compression:
    r"""Compress different leaves in different ways.

    The leaves with one label are compressed together, by the C step of that label:

    .. math:: \min_\theta \sum_l \Bigl( \tfrac{\mu}{2} \|w_l - \theta_l\|^2 + P_l(\theta_l) \Bigr)

    Args:
      compressions: a C step for each label.
      labels: a pytree of labels that is a prefix of the weights, or a function ``(path, leaf) ->
        label`` (``path`` as in ``jax.tree_util.tree_map_with_path``).

    Returns:
      A `Compression`, whose state holds that of each label.

    Raises:
      ValueError: in ``init``: ``labels`` is no prefix of the weights, gives a label without a C
        step, or gives a label to no leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import binary, l0_ball, partition
      >>> weights = {"first": jnp.array([3.0, 1.0]), "last": jnp.array([0.5, -2.0])}
      >>> c_step = partition(
      ...     {"prune": l0_ball(1), "sign": binary()}, {"first": "prune", "last": "sign"}
      ... )
      >>> c_step.project(weights, 1.0, c_step.init(weights))[0]
      {'first': Array([3., 0.], dtype=float32), 'last': Array([ 1., -1.], dtype=float32)}
    """
    compressions = dict(compressions)
    for label, c_step in compressions.items():
        _checks.compression(f"compressions[{label!r}]", c_step)

    def label_of(weights: PyTree[Array]) -> PyTree[Hashable]:
        if is_function(labels):
            found = jax.tree_util.tree_map_with_path(labels, weights)
        else:
            found = _broadcast(labels, weights)
        structure: Any = jax.tree.structure(weights)
        given = set(structure.flatten_up_to(found))  # a label may be a tuple
        unknown, unused = given - compressions.keys(), compressions.keys() - given
        if unknown:
            raise ValueError(
                f"labels gives {sorted(map(repr, unknown))}, but compressions has only "
                f"{sorted(map(repr, compressions))}"
            )
        if unused:
            raise ValueError(f"labels gives {sorted(map(repr, unused))} to no leaf")
        return found

    def split(weights: PyTree[Array]) -> dict[Hashable, PyTree[Array]]:
        found = label_of(weights)

        def part(label: Hashable) -> PyTree[Array]:
            return jax.tree.map(
                lambda w, own: w if own == label else optax.MaskedNode(), weights, found
            )

        return {label: part(label) for label in compressions}

    def init(weights: PyTree[Array]) -> PartitionState:
        parts = split(weights)
        return PartitionState({label: compressions[label].init(parts[label]) for label in parts})

    def project(
        weights: PyTree[Array], mu: Float[ArrayLike, ""], state: PartitionState
    ) -> tuple[PyTree[Array], PartitionState]:
        parts = split(weights)
        thetas, states = [], {}
        for label, compression in compressions.items():
            theta, states[label] = compression.project(parts[label], mu, state.states[label])
            thetas.append(theta)
        return _merged(weights, thetas), PartitionState(states)

    def encode(theta: PyTree[Array], state: PartitionState) -> PyTree:
        forms = [
            encoded(compressions[label], part, state.states[label])
            for label, part in split(theta).items()
        ]
        return _merged(theta, forms)

    return Compression(init, project, encode)


def _broadcast(labels: PyTree, weights: PyTree) -> PyTree:
    try:
        return jax.tree.broadcast(labels, weights)
    except ValueError as error:
        raise ValueError(
            "labels must be a function (path, leaf) -> label or a pytree that is a prefix of the "
            f"weights; {misfit(labels, weights, 'the weights', is_masked)}"
        ) from error


def _merged(weights: PyTree, thetas: list[PyTree]) -> PyTree:
    """Each leaf from the tree that has it."""

    def pick(w: Any, *candidates: Any) -> Any:
        return next((c for c in candidates if not is_masked(c)), w)

    return jax.tree.map(pick, weights, *thetas, is_leaf=is_masked)
