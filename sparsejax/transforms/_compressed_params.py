"""The compressed weights in an optimizer state, in place of the parameters."""

from __future__ import annotations

import jax
from jaxtyping import Array, PyTree

from sparsejax._masks import apply_mask_by_path
from sparsejax._states import has_none, replace_leaves, states_in
from sparsejax._variables import Path, flatten_with_path
from sparsejax.transforms._learning_compression import LearningCompressionState
from sparsejax.transforms._masks import held_masks, name, names


def compressed_params(opt_state: PyTree, params: PyTree[Array]) -> PyTree[Array]:
    """Return ``params`` with theta in place of the compressed weights.

    Weights that a `hold_zeros` or a `sparsify` in the same state holds at zero are zero in the
    result.

    Args:
      opt_state: an optimizer state that holds one or more `LearningCompressionState`, at any depth
        of chains, masks and wrappers; also the state of a ``flax.nnx.Optimizer``.
      params: pytree of arrays, the parameters that the state belongs to.

    Returns:
      A tree with the structure, shapes and dtypes of ``params``: theta for compressed leaves, and
      the leaf itself for all others.

    Raises:
      ValueError: ``opt_state`` holds no `LearningCompressionState`, several of them compress the
        same leaf, or they belong to other parameters.
    """
    thetas: dict[Path, jax.Array] = {}
    for _, leaves in compressed_leaves(opt_state, params):
        thetas.update(leaves)
    return replace_leaves(params, lambda path, w: thetas.get(path, w))


def compressed_leaves(
    opt_state: PyTree, params: PyTree[Array]
) -> list[tuple[LearningCompressionState, dict[Path, jax.Array]]]:
    """Return each state of a `learning_compression` with its theta by path, zero where held.

    Raises:
      ValueError: as `compressed_params` raises.
    """
    states = states_in(opt_state, LearningCompressionState)
    masks = held_masks(opt_state, params)
    if not states:
        raise ValueError(
            "opt_state must hold a state of sparsejax.learning_compression; "
            + has_none(opt_state, params, LearningCompressionState)
            + (". With sparsify or hold_zeros the parameters are sparse already" * bool(masks))
        )
    known = {path for path, _ in flatten_with_path(params)}
    found: list[tuple[LearningCompressionState, dict[Path, jax.Array]]] = []
    seen: set[Path] = set()
    for state in states:
        theta = apply_mask_by_path(state.theta, masks)
        thetas = dict(flatten_with_path(theta))
        for path in thetas:
            if path in seen:
                raise ValueError(
                    "opt_state must hold one learning_compression for each leaf; it has two for "
                    f"{name(path)}. Give each of them leaves of its own by where"
                )
        seen |= thetas.keys()
        found.append((state, thetas))
    if seen - known:
        raise ValueError(
            "params must have the structure of the parameters of opt_state; it has no leaf "
            f"{names(seen - known)}"
        )
    return found
