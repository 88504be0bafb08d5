"""Pruned weights stay at exactly zero."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sparsejax._dtypes import promoted
from sparsejax._pairs import same_shapes
from sparsejax._states import fresh, map_states, replace_leaves, states_in
from sparsejax._variables import Path, PyTree, flatten_with_path
from sparsejax._where import is_masked
from sparsejax.transforms import _wrappers
from sparsejax.transforms._masks import (
    HoldZerosState,
    held_masks,
    masks_of,
    name,
    names,
    zero_outside,
)


def hold_zeros(mask: PyTree) -> optax.GradientTransformation:
    r"""Hold the weights outside of a mask at exactly zero; the last transformation of a chain.

    .. math:: u \leftarrow \begin{cases} u & m = 1\\ -w & m = 0 \end{cases}

    What is promised: ``optax.apply_updates(params, updates)`` is exactly zero wherever the mask is
    False, after every update and for any dtypes of parameters and gradients, whatever the
    transformations before it made of momentum, Adam's moments or weight decay::

        optax.chain(optax.adamw(1e-3), hold_zeros(mask))

    The mask lives in the state, so checkpoints hold it, and `set_mask` replaces it during training
    without compiling anew. Several `hold_zeros` in one chain each hold their own leaves.

    Some wrappers of optax keep further copies of the weights, which this cannot reach from any
    place:

    - ``optax.contrib.schedule_free`` keeps an iterate z. Put ``hold_zeros`` last in the chain that
      it wraps, and start from parameters that are zero outside of the mask; `set_mask` prunes z.
      Then the evaluation parameters are zero there, too.
    - ``optax.lookahead`` keeps slow weights in the parameters. Put ``hold_zeros`` behind it:
      ``optax.chain(optax.lookahead(optimizer, 5, 0.5), hold_zeros(mask))`` holds fast and slow
      weights.
    - ``optax.contrib.mechanize`` and ``optax.contrib.sam`` move the weights themselves. Put
      ``hold_zeros`` behind them.
    - For any other average, such as one by ``optax.ema``, evaluate
      ``masked_params(opt_state, average)``.

    `set_mask` raises an error where the order is wrong. It cannot see the order inside of an
    ``optax.named_chain``, and a mask that is never replaced is not checked.

    Args:
      mask: a pytree like the parameters of boolean arrays, True for weights that are free;
        ``optax.MaskedNode()`` for a leaf, or a whole subtree, that is free (as
        ``sparsejax.projections.top_k_mask`` makes it). The state keeps a copy.

    Returns:
      A ``GradientTransformation``; ``update`` needs ``params``. Updates of held leaves have the
      dtype to which those of the update and of the parameter promote, since an update in a
      narrower dtype could not cancel the parameter.

    Raises:
      TypeError: in ``init``: the mask holds something that is not boolean.
      ValueError: in ``init``: the mask has not the structure of the parameters or the shape of a
        leaf; in ``update``: ``params`` is missing.
    """

    def init(params):
        params = _wrappers.fast_weights(params)
        return HoldZerosState(fresh(_fitted(mask, params)))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be passed to update: some of them are held at zero")

        def hold(w, u, free):
            if is_masked(free):
                return u
            dtype = promoted(w, u)
            return jnp.where(free, jnp.asarray(u, dtype), -jnp.asarray(w, dtype))

        held = _wrappers.for_each_copy(
            lambda w, u: jax.tree.map(hold, w, u, state.mask), params, updates
        )
        return held, state

    return optax.GradientTransformation(init, update)


def set_mask(opt_state: PyTree, mask: PyTree) -> PyTree:
    """Return an optimizer state whose `hold_zeros` holds other weights.

    The mask replaces that of one `hold_zeros`: the one whose mask has arrays for the same leaves.
    What else the state keeps of newly pruned weights is set to zero: theta and the multipliers of
    `learning_compression`, and the iterate z of ``optax.contrib.schedule_free``. The parameters are
    pruned by the caller, as `prune_when_accurate` does. Pure and jittable; no structure, shape or
    dtype changes, so nothing is compiled anew.

    Args:
      opt_state: an optimizer state with one or more `HoldZerosState` in it, however deeply chained
        or wrapped (that of a ``flax.nnx.Optimizer``, too).
      mask: the new mask, a pytree like the parameters of boolean arrays with ``optax.MaskedNode()``
        for leaves or subtrees that it does not concern. The result keeps a copy.

    Raises:
      TypeError: the mask holds something that is not boolean.
      ValueError: there is no such state in ``opt_state``; none, or more than one, holds these
        leaves; a shape differs; or the `hold_zeros` stands where it cannot hold the weights that
        are evaluated (the message says which order works).
    """
    states = _states(opt_state)
    new = masks_of(mask)
    matching = [state for state in states if masks_of(state.mask).keys() == new.keys()]
    if len(matching) != 1:
        if matching:
            raise ValueError(
                f"mask is for the leaves {names(new)}, which {len(matching)} hold_zeros in "
                "opt_state hold; give each of them leaves of its own"
            )
        held = "; ".join(names(masks_of(state.mask)) for state in states)
        raise ValueError(
            "mask must have arrays for just the leaves whose mask it replaces, and "
            f"optax.MaskedNode() elsewhere; it has them for {names(new)}, the hold_zeros in "
            f"opt_state hold: {held}"
        )
    for path, old in masks_of(matching[0].mask).items():
        _check_mask(path, new[path], old, of="the mask it replaces")

    def holds(node: Any) -> bool:
        return isinstance(node, HoldZerosState) and masks_of(node.mask).keys() == new.keys()

    _wrappers.check_order(opt_state, holds)

    def replace(state: HoldZerosState) -> HoldZerosState:
        if not holds(state):
            return state
        return HoldZerosState(replace_leaves(state.mask, lambda path, old: jnp.copy(new[path])))

    opt_state = map_states(replace, opt_state, HoldZerosState)
    return _wrappers.prune_copies(opt_state, new)


def masked_params(opt_state: PyTree, params: PyTree) -> PyTree:
    r"""Return ``params`` with zeros wherever a `hold_zeros` in an optimizer state holds them.

    .. math:: w \leftarrow m \odot w

    The parameters of training are zero there already; this is for other copies of them that are to
    be evaluated, such as a moving average::

        masked_params(opt_state, optax.contrib.schedule_free_eval_params(opt_state, params))

    Args:
      opt_state: an optimizer state with one or more `HoldZerosState` in it.
      params: a pytree like the parameters that the state belongs to.

    Returns:
      A tree like ``params``.

    Raises:
      ValueError: there is no such state in ``opt_state``, or it belongs to other parameters.
    """
    _states(opt_state)
    masks = held_masks(opt_state)
    absent = masks.keys() - {path for path, _ in flatten_with_path(params)}
    if absent:
        raise ValueError(
            f"params must be like the parameters of opt_state; it has no leaf {names(absent)}"
        )
    return zero_outside(params, masks)


def _states(opt_state: PyTree) -> list[HoldZerosState]:
    found = states_in(opt_state, HoldZerosState)
    if not found:
        raise ValueError("opt_state must hold a state of sparsejax.hold_zeros; it has none")
    return found


def _fitted(mask: PyTree, params: PyTree) -> PyTree:
    """The mask with the structure of the parameters, if it is one of these parameters."""
    given = dict(flatten_with_path(mask, is_leaf=is_masked))
    free = {path for path, node in given.items() if is_masked(node)}
    fitted: list[Any] = []
    for path, leaf in flatten_with_path(params):
        if _below(path, free):
            fitted.append(optax.MaskedNode())
        elif path in given:
            _check_mask(path, given[path], leaf, of="params")
            fitted.append(jnp.asarray(given[path]))
        else:
            raise ValueError(_misfit(f"mask has nothing for {name(path)}", mask, params))
    # A leaf that an optax.masked around the chain hides may still have its mask.
    places = {path for path, _ in flatten_with_path(params, is_leaf=is_masked)}
    parents = {path[:length] for path in places for length in range(len(path))}
    for path in given:
        if not _below(path, places) and path not in parents:
            raise ValueError(_misfit(f"params have no leaf {name(path)}", mask, params))
    return jax.tree.unflatten(jax.tree.structure(params), fitted)


def _check_mask(path: Path, mask: Any, leaf: Any, of: str) -> None:
    if promoted(mask) != jnp.bool_:
        raise TypeError(f"mask must be boolean; {name(path)} is of dtype {promoted(mask)}")
    same_shapes("mask", [(name(path), leaf, mask)], of=of)


def _below(path: Path, paths: set[Path]) -> bool:
    """Whether a path or one of its parents is among ``paths``."""
    return any(path[:length] in paths for length in range(len(path) + 1))


def _misfit(what: str, mask: PyTree, params: PyTree) -> str:
    structures: tuple[Any, Any] = jax.tree.structure(mask), jax.tree.structure(params)
    return (
        "mask must have the structure of params, with optax.MaskedNode() for a leaf that is free; "
        f"{what}; the structure of mask is {structures[0]}, that of params {structures[1]}"
    )
