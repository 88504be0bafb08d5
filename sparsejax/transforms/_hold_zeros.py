"""A gradient transformation that holds pruned weights at exactly zero."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from sparsejax._dtypes import promoted
from sparsejax._masks import apply_mask_by_path
from sparsejax._pairs import same_shapes
from sparsejax._states import fresh, has_none, map_states, replace_leaves, states_in
from sparsejax._variables import Path, flatten_with_path
from sparsejax._where import check_array, is_masked
from sparsejax.transforms import _wrappers
from sparsejax.transforms._masks import (
    HoldZerosState,
    held_masks,
    masks_of,
    name,
    names,
)
from sparsejax.transforms._sparse_method import SparsifyState

_MISFIT = (
    "mask must have the structure of params, with optax.MaskedNode() for a leaf without mask; "
)


def hold_zeros(mask: PyTree[Bool[Array, "..."]]) -> optax.GradientTransformation:
    r"""Hold the weights outside of a mask at exactly zero, as the last transformation of a chain.

    .. math:: u \leftarrow \begin{cases} u & m = 1\\ -w & m = 0 \end{cases}

    ``optax.apply_updates(params, updates)`` is exactly zero wherever the mask is False, after every
    update, for any dtypes of parameters and gradients, and for any momentum, moments or weight
    decay of the transformations before it.

    The mask of a network that is pruned already is ``top_k_mask(params, report(params).nonzeros)``.
    A mask of all entries that are not zero would hold new biases at zero, too.

    The mask is part of the state. So checkpoints contain it, and `set_mask` replaces it during
    training without recompilation. A chain may hold several `hold_zeros` with leaves of their own.

    Some wrappers in optax keep further copies of the weights, and the order of the transformations
    matters:

    - ``optax.contrib.schedule_free`` keeps an iterate z. Place ``hold_zeros`` last in the chain
      that it wraps, and start from parameters that are zero outside of the mask; `set_mask` prunes
      z. Then the evaluation parameters are zero outside of the mask, too.
    - ``optax.lookahead`` keeps slow weights in the parameters. Place ``hold_zeros`` behind it:
      ``optax.chain(optax.lookahead(optimizer, 5, 0.5), hold_zeros(mask))`` holds the fast and the
      slow weights.
    - ``optax.contrib.mechanize`` and ``optax.contrib.sam`` move the weights themselves. Place
      ``hold_zeros`` behind them.
    - For any other average of the weights, such as ``optax.ema``, evaluate
      ``masked_params(opt_state, average)``.

    `set_mask` raises an error if the order is wrong. It cannot see the order inside an
    ``optax.named_chain``, and the order for a mask that is never replaced is not checked.

    Args:
      mask: a pytree with the structure of the parameters: boolean arrays of the shapes of the
        leaves, True for weights that may change, and ``optax.MaskedNode()`` for a leaf or a whole
        subtree without a mask (as ``sparsejax.projections.top_k_mask`` returns it). The state keeps
        a copy.

    Returns:
      A ``GradientTransformation`` whose ``update`` needs ``params``. The update of a masked leaf
      has the dtype to which the dtypes of the update and the parameter promote, since an update in
      a narrower dtype could not cancel the parameter.

    Raises:
      TypeError: in ``init``: the mask holds an array that is not boolean, or the parameters hold
        something else than arrays for which the mask has nothing.
      ValueError: in ``init``: the mask does not have the structure of the parameters or the shape
        of a leaf; in ``update``: ``params`` is missing.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from sparsejax import hold_zeros
      >>> params = {"kernel": jnp.array([[1.0, 2.0]])}
      >>> mask = {"kernel": jnp.array([[False, True]])}
      >>> optimizer = optax.chain(optax.sgd(0.5), hold_zeros(mask))
      >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"]
      Array([[0., 1.]], dtype=float32)
    """

    def init(params: optax.Params) -> HoldZerosState:
        return HoldZerosState(fresh(_fitted(mask, _wrappers.fast_weights(params))))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, HoldZerosState]:
        if params is None:
            raise ValueError("params must be passed to update, since hold_zeros needs them")

        def hold(w: jax.Array, u: jax.Array, free: Any) -> jax.Array:
            if is_masked(free):
                return u
            dtype = promoted(w, u)
            return jnp.where(free, jnp.asarray(u, dtype), -jnp.asarray(w, dtype))

        held = _wrappers.for_each_copy(
            lambda w, u: jax.tree.map(hold, w, u, state.mask), params, updates
        )
        return held, state

    return optax.GradientTransformation(init, update)


def set_mask(opt_state: PyTree, mask: PyTree[Bool[Array, "..."]]) -> PyTree:
    """Replace the mask of a `hold_zeros` in an optimizer state.

    The new mask replaces that of the one `hold_zeros` whose mask has arrays for the same leaves.
    Other copies of newly pruned weights in the state are set to zero: theta and the multipliers of
    `learning_compression`, and the iterate z of ``optax.contrib.schedule_free``. The caller prunes
    the parameters, as `prune_when_accurate` does. The function is pure and jittable, and changes no
    structure, shape or dtype, so nothing is recompiled.

    Args:
      opt_state: an optimizer state that holds one or more `HoldZerosState`, at any depth of chains
        and wrappers; also the state of a ``flax.nnx.Optimizer``.
      mask: the new mask, a pytree with the structure of the parameters: boolean arrays, and
        ``optax.MaskedNode()`` for leaves or subtrees without a mask. The result keeps a copy.

    Returns:
      An optimizer state with the structure, shapes and dtypes of ``opt_state``.

    Raises:
      TypeError: the mask holds an array that is not boolean.
      ValueError: ``opt_state`` holds no `HoldZerosState`; none or several of them have masks for
        the same leaves; a shape differs; or the `hold_zeros` stands where it cannot hold the
        weights that are evaluated (the message names an order that works).
    """
    states = _states(opt_state)
    new = masks_of(mask)
    matching = [state for state in states if masks_of(state.mask).keys() == new.keys()]
    if len(matching) != 1:
        if matching:
            raise ValueError(
                f"mask must have arrays for the leaves of one hold_zeros; {len(matching)} in "
                f"opt_state have masks for {names(new)}. Give each of them leaves of its own"
            )
        held = "; ".join(names(masks_of(state.mask)) for state in states)
        raise ValueError(
            "mask must have arrays for the leaves of one hold_zeros and optax.MaskedNode() "
            f"elsewhere; it has arrays for {names(new)}, and the hold_zeros in opt_state have "
            f"masks for: {held}"
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


def masked_params(opt_state: PyTree, params: PyTree[Array]) -> PyTree[Array]:
    r"""Return ``params`` with zeros outside of all masks in an optimizer state.

    .. math:: w \leftarrow m \odot w

    The masks are those of `hold_zeros` and `sparsify`. During training the parameters are zero
    outside of them already. The function is for the start of training with a sparse mask, and for
    other copies of the parameters that are evaluated, such as a moving average or the result of
    ``optax.contrib.schedule_free_eval_params``.

    Args:
      opt_state: an optimizer state that holds one or more `HoldZerosState` or `SparsifyState`, at
        any depth of chains and wrappers.
      params: a pytree with the structure of the parameters that the state belongs to.

    Returns:
      A tree with the structure, shapes and dtypes of ``params``.

    Raises:
      ValueError: ``opt_state`` holds neither, or it belongs to other parameters.
    """
    masks = held_masks(opt_state, params)
    if not masks:
        raise ValueError(
            "opt_state must hold a state of sparsejax.hold_zeros or of sparsify; "
            + has_none(opt_state, params, (HoldZerosState, SparsifyState))
        )
    return apply_mask_by_path(params, masks)


def _states(opt_state: PyTree) -> list[HoldZerosState]:
    found = states_in(opt_state, HoldZerosState)
    if not found:
        raise ValueError("opt_state must hold a state of sparsejax.hold_zeros; it has none")
    return found


def _fitted(mask: PyTree, params: PyTree) -> PyTree:
    """Return the mask in the structure of the parameters, and check that it fits them."""
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
            check_array(name(path), leaf)
            raise ValueError(_MISFIT + f"it has nothing for {name(path)}")
    # An optax.masked around the chain may hide a leaf for which the mask has an array.
    places = {path for path, _ in flatten_with_path(params, is_leaf=is_masked)}
    parents = {path[:length] for path in places for length in range(len(path))}
    for path in given:
        if not _below(path, places) and path not in parents:
            raise ValueError(_MISFIT + f"params have no leaf {name(path)}, which it has")
    return jax.tree.unflatten(jax.tree.structure(params), fitted)


def _check_mask(path: Path, mask: Any, leaf: Any, of: str) -> None:
    if promoted(mask) != jnp.bool_:
        raise TypeError(f"mask must be boolean; {name(path)} has dtype {promoted(mask)}")
    same_shapes("mask", [(name(path), leaf, mask)], of=of)


def _below(path: Path, paths: set[Path]) -> bool:
    """Whether a path or one of its parents is among ``paths``."""
    return any(path[:length] in paths for length in range(len(path) + 1))
