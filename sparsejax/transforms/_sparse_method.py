"""The interface of a pruning method: pure functions that choose masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray, PyTree

from sparsejax._variables import Path, flatten_with_path
from sparsejax._where import Chosen
from sparsejax.transforms._packed_masks import MaskDtype, pack, unpack
from sparsejax.transforms._patterns import Masks


class Weights(NamedTuple):
    """The leaves that are sparsified, and all that a method may look at to choose their masks."""

    params: PyTree[Array]
    """All parameters before the update."""
    paths: Sequence[Path]
    """The path of each leaf, without the levels that wrappers add."""
    names: Sequence[str]
    """The paths as messages show them."""
    leaves: Sequence[Float[Array, "..."]]
    """The weights before the update."""
    grads: Sequence[Float[Array, "..."]]
    """Their dense gradients; empty at the start."""
    opt_state: PyTree
    """The state of the inner optimizer before the update; at the start its shapes and dtypes."""
    step: Int32[Array, ""]
    """The number of the update, counted from 0."""
    key: PRNGKeyArray | None
    """A key for this update, for methods with a key."""


class SparseMethod(NamedTuple):
    """A method for `sparsify`, made by `magnitude_pruning`, `rigl` and their siblings."""

    first_mask: Callable[[Weights], Masks]
    """Chooses the masks that training starts with."""
    next_mask: Callable[[Weights, Masks], Masks]
    """Chooses new masks from the weights and the old masks."""
    is_due: Callable[[Int32[Array, ""]], Bool[Array, ""]] | None
    """Whether masks are renewed at an update; None for never."""
    key: PRNGKeyArray | None = None
    """The key of a method with chance, typed or raw."""
    regrows: bool = True
    """Whether a new mask may have weights that the old one lacks."""


class SparsifyState(NamedTuple):
    """State of `sparsify`."""

    step: Int32[Array, ""]
    """The number of updates."""
    mask: PyTree[Array]
    """A tree with the structure of the parameters and ``optax.MaskedNode()`` for leaves that are
    not sparsified: boolean arrays, True for weights that are in use, or uint8 arrays with eight
    weights in each byte."""
    key: Array | None
    """The data of the method's key; None for methods without chance."""
    inner_state: PyTree[Array]
    """The state of the inner optimizer."""


def weights_of(
    params: PyTree[Array],
    chosen: Chosen,
    grads: Sequence[Any] = (),
    opt_state: PyTree = None,
    step: Any = 0,
    key: Any = None,
) -> Weights:
    """Return what a method may look at; the fields of `Weights` say what the arguments are."""
    paths: list[Path] = chosen.of([path for path, _ in flatten_with_path(params)])
    return Weights(params, paths, chosen.paths, chosen.leaves, grads, opt_state, step, key)


def stored(mask: Bool[Array, "..."], dtype: MaskDtype) -> Array:
    """Return a mask as a state keeps it."""
    return pack(mask) if dtype == "packed" else mask


def as_bool(mask: Array, leaf: jax.Array) -> Bool[Array, "..."]:
    """Return the mask of a leaf from what a state keeps."""
    return mask if mask.dtype == jnp.bool_ else unpack(mask, leaf)


def all_kept(weights: Weights) -> Masks:
    """Return masks that keep every weight."""
    return [jnp.ones_like(leaf, bool) for leaf in weights.leaves]


def as_key(key: Any) -> PRNGKeyArray:
    """Return a key, made from a seed if that is given.

    Raises:
      TypeError: ``key`` is neither a key nor an integer.
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(int(key))
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (typed or (dtype == jnp.uint32 and jnp.ndim(key) == 1)):
        raise TypeError(f"key must be a key of jax.random or an integer seed; got {key!r}")
    array: PRNGKeyArray = key
    return array


def key_data(key: Any) -> Array | None:
    """Return a key as a state keeps it: as plain integers, which any checkpoint can store."""
    if key is None:
        return None
    data: Array = jax.random.key_data(key) if _is_typed(key) else key
    return data


def key_like(key: Any, data: Array) -> PRNGKeyArray:
    """Return the data of a key as a key of the same kind."""
    if not _is_typed(key):
        return data
    typed: PRNGKeyArray = jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
    return typed


def _is_typed(key: Any) -> bool:
    return bool(jnp.issubdtype(key.dtype, jax.dtypes.prng_key))
