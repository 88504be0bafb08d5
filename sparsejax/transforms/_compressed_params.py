"""The compressed weights in an optimizer state, in place of the parameters."""

from __future__ import annotations

import jax
from jaxtyping import Array, PyTree

from sparsejax._masks import apply_mask_by_path
from sparsejax._states import replace_leaves, states_in
from sparsejax._variables import Path, flatten_with_path
from sparsejax.transforms._learning_compression import LearningCompressionState
from sparsejax.transforms._masks import held_masks, name, names


def compressed_params(opt_state: PyTree, params: PyTree[Array]) -> PyTree[Array]:
    """Return ``params`` with theta in place of the compressed weights.

    Weights that a `hold_zeros` in the same state holds at zero are zero in the result.

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
    found = states_in(opt_state, LearningCompressionState)
    if not found:
        raise ValueError(
            "opt_state must hold a state of sparsejax.learning_compression; it has none"
        )
    thetas: dict[Path, jax.Array] = {}
    for state in found:
        for path, theta in flatten_with_path(state.theta):
            if path in thetas:
                raise ValueError(
                    "opt_state must hold one learning_compression for each leaf; it has two for "
                    f"{name(path)}. Give each of them leaves of its own by where"
                )
            thetas[path] = theta
    absent = thetas.keys() - {path for path, _ in flatten_with_path(params)}
    if absent:
        raise ValueError(
            "params must have the structure of the parameters of opt_state; it has no leaf "
            f"{names(absent)}"
        )
    masks = held_masks(opt_state)
    held = {path: masks[path] for path in thetas.keys() & masks.keys()}
    compressed = replace_leaves(params, lambda path, w: thetas.get(path, w))
    return apply_mask_by_path(compressed, held)
