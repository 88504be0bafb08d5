"""The parts of an optimizer state that belong to single weights, found by structure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from sparsejax._variables import Path, flatten_with_path
from sparsejax.transforms._sparse_method import Weights


def owners(opt_state: PyTree, params: PyTree) -> list[Path | None]:
    """Return for each leaf of an optimizer state the path of the parameter that it belongs to.

    A leaf belongs to a parameter if its path ends with that of the parameter, as the moments of
    optax do, whatever the wrappers around them; of several such parameters the one with the longest
    path counts. Its trailing dimensions must be those of the parameter, so that each of its entries
    belongs to one weight. None stands for all other leaves.
    """
    shapes = {path: np.shape(leaf) for path, leaf in flatten_with_path(params)}
    found: list[Path | None] = []
    for path, leaf in flatten_with_path(opt_state):
        suffixes = (path[start:] for start in range(len(path) + 1))
        owner = next((suffix for suffix in suffixes if suffix in shapes), None)
        if not _is_floating(leaf):
            owner = None
        if owner is not None:
            shape = shapes[owner]
            fits = len(leaf.shape) >= len(shape) and (
                leaf.shape[len(leaf.shape) - len(shape) :] == shape
            )
            owner = owner if fits else None
        found.append(owner)
    return found


def check_moments(opt_state: PyTree, params: PyTree, size: int) -> None:
    """Check that a state does not keep the moments of all weights in one array.

    Raises:
      ValueError: it does, as that of ``optax.flatten``.
    """
    belongs = owners(opt_state, params)
    for (path, leaf), owner in zip(flatten_with_path(opt_state), belongs, strict=True):
        if owner is None and _is_floating(leaf) and math.prod(leaf.shape) >= size > 1:
            raise ValueError(
                "optimizer must keep its moments in trees like the parameters, so that those of "
                "single weights can be found and set back; its state has an array of shape "
                f"{leaf.shape} at {jax.tree_util.keystr(path)}, as that of optax.flatten has"
            )


def single_leaves(
    init: Callable[[PyTree], PyTree], weights: Weights
) -> tuple[dict[int, Path], dict[int, Path]]:
    """Return the leaves of an optimizer state whose entries belong to single chosen weights.

    Args:
      init: makes a new state from parameters.
      weights: the chosen leaves and the present state.

    Returns:
      Two dictionaries from the number of a leaf to the path of its parameter. The first one is of
      leaves that start with constants, as moments do, the second one of all others.
    """
    jaxpr = jax.make_jaxpr(init)(weights.params).jaxpr
    depends = {*map(id, jaxpr.invars)}
    for equation in jaxpr.eqns:
        if any(id(variable) in depends for variable in equation.invars):
            depends |= {*map(id, equation.outvars)}
    chosen = {
        place: path
        for place, path in enumerate(owners(weights.opt_state, weights.params))
        if path is not None and path in weights.paths
    }
    varying = {p: path for p, path in chosen.items() if id(jaxpr.outvars[p]) in depends}
    return {p: path for p, path in chosen.items() if p not in varying}, varying


def second_moments(opt_state: PyTree, params: PyTree) -> dict[Path, Array]:
    """Return the averages of squared gradients, the fields ``nu`` of optax's states, by path."""
    found: dict[Path, Array] = {}
    belongs = owners(opt_state, params)
    for (path, leaf), owner in zip(flatten_with_path(opt_state), belongs, strict=True):
        if owner is None or len(path) == len(owner):
            continue
        field = path[len(path) - len(owner) - 1]
        if getattr(field, "name", None) == "nu":
            found[owner] = leaf
    return found


def _is_floating(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jnp.floating))
