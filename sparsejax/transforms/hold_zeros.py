"""Pruned weights stay at zero whatever the optimizer does."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax._pairs import pairs, same_shapes
from sparsejax._states import map_states, states_in
from sparsejax._where import PyTree


class HoldZerosState(NamedTuple):
    """State of `hold_zeros`."""

    mask: PyTree
    """Like the parameters: booleans, False where a weight is held at zero, or
    ``optax.MaskedNode()`` for a leaf that is free."""


def hold_zeros(mask: PyTree) -> optax.GradientTransformation:
    r"""Keep weights at exactly zero under any optimizer; the last link of a chain.

    .. math:: u \leftarrow \begin{cases} u & m = 1\\ -w & m = 0 \end{cases}

    so that w + u is exactly zero wherever the mask is, momentum, Adam and weight decay
    notwithstanding::

        optax.chain(optax.adamw(1e-3), hold_zeros(mask))

    The mask lives in the state, so checkpoints hold it and `with_mask` changes it in the middle of
    training without compiling anew.

    Args:
      mask: a pytree like the parameters of boolean arrays, True for weights that are free;
        ``optax.MaskedNode()`` for a leaf that is free as a whole (as
        ``sparsejax.projections.largest_mask`` makes it).

    Returns:
      A ``GradientTransformation``; ``update`` needs ``params``.

    Raises:
      TypeError: in ``init``: the mask holds something that is not boolean.
      ValueError: in ``init``: the mask has not the structure of the parameters or the shape of a
        leaf; in ``update``: ``params`` is missing.
    """

    def init(params):
        return HoldZerosState(_checked(mask, params))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be passed to update: some of them are held at zero")

        def hold(w, u, free):
            return (
                u if isinstance(free, optax.MaskedNode) else jnp.where(free, u, -w.astype(u.dtype))
            )

        return jax.tree.map(hold, params, updates, state.mask), state

    return optax.GradientTransformation(init, update)


def with_mask(opt_state: PyTree, mask: PyTree) -> PyTree:
    """An optimizer state whose `hold_zeros` holds other weights.

    Args:
      opt_state: an optimizer state with one or more `HoldZerosState` in it, however deeply chained
        or wrapped.
      mask: the new mask, with the structure and shapes of the old one.

    Raises:
      ValueError: there is no such state in ``opt_state``, or the mask does not fit it.
    """
    found = states_in(opt_state, HoldZerosState)
    if not found:
        raise ValueError("opt_state must hold a state of sparsejax.hold_zeros; it has none")
    shapes = lambda tree: [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]  # noqa: E731
    old, new = found[0].mask, mask
    structures: tuple[Any, Any] = jax.tree.structure(old), jax.tree.structure(new)
    if structures[0] != structures[1] or shapes(old) != shapes(new):
        raise ValueError(
            "mask must have the structure and shapes of the one it replaces; its structure is "
            f"{structures[1]} with shapes {shapes(new)}, the old one's {structures[0]} with "
            f"{shapes(old)}"
        )
    return map_states(lambda _: HoldZerosState(mask), opt_state, HoldZerosState)


def _checked(mask: PyTree, params: PyTree) -> PyTree:
    """The mask as arrays, if it is one of these parameters."""
    hint = "optax.MaskedNode() for a leaf that is free"
    checked = []
    for path, leaf, held in pairs("mask", mask, params, hint=hint):
        if not isinstance(held, optax.MaskedNode):
            if jnp.result_type(held) != jnp.bool_:
                dtype = jnp.result_type(held)
                raise TypeError(f"mask must be boolean; {path or 'its leaf'} is of dtype {dtype}")
            same_shapes("mask", [(path, leaf, held)])
            held = jnp.asarray(held)
        checked.append(held)
    return jax.tree.unflatten(jax.tree.structure(params), checked)
