"""The engine of all methods with masks, around any optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, PyTree

from sparsejax import _checks
from sparsejax._dtypes import promoted
from sparsejax._extra_args import accepting_extra_args
from sparsejax._masks import masked_leaf
from sparsejax._misfit import misfit
from sparsejax._states import fresh
from sparsejax._variables import Path
from sparsejax._where import Chosen, Where, choose, refuse_tied
from sparsejax.transforms._fresh_moments import check_moments, single_leaves
from sparsejax.transforms._packed_masks import MaskDtype
from sparsejax.transforms._sparse_method import (
    SparseMethod,
    SparsifyState,
    Weights,
    as_bool,
    key_data,
    key_like,
    stored,
    weights_of,
)


def sparsify(
    optimizer: optax.GradientTransformation,
    method: SparseMethod,
    *,
    where: Where = None,
    mask_dtype: MaskDtype = "bool",
) -> optax.GradientTransformationExtraArgs:
    r"""Train with a mask that a method chooses and renews, around any optimizer.

    .. math:: u = \mathrm{optimizer}(m \wedge m' \odot g), \qquad
              w \leftarrow (m \wedge m') \odot (w + u)

    The mask m is part of the state. At updates where the method says so it is renewed, to m', from
    the weights w, their gradients g and the state of the optimizer, all before this update. Then

    - weights in both masks move by the update of the optimizer, which sees their gradients only;
    - weights that leave the mask become exactly zero, as do all others outside of it, if they are
      finite;
    - weights that enter the mask start at zero, and at this update they do not move;
    - the entries of the optimizer's state that belong to single weights, such as moments and
      momenta, are set back to what ``optimizer.init`` gives for all weights that are not in both
      masks, before the optimizer is asked. They are found by the structure of the state, whatever
      the optimizer. Statistics that several weights share, such as the rows and columns of
      ``optax.adafactor``, stay.

    Renewals run only when they are due, also under ``vmap``, where members may be at different
    steps; so ``update`` has no reverse-mode derivative. No step is left out. The result is exact
    and does not depend on how the weights are sharded.

    A method that starts sparse (`static_sparse`, `set`, `rigl`) chooses a mask in ``init``. Start
    from ``params = masked_params(state, params)``, so that the first gradient is that of the sparse
    network, too; otherwise the first update makes the weights sparse.

    ``sparsify`` goes around the whole optimizer, clipping and weight decay included. Around
    ``optax.lookahead`` or behind other wrappers with copies of the weights, use `hold_zeros`.

    Args:
      optimizer: the optimizer that moves the weights.
      method: the method, such as ``magnitude_pruning(0.9, polynomial(1_000, 20_000, every=100))``.
      where: the leaves that are sparsified; all others are trained as without ``sparsify``.
      mask_dtype: ``"bool"`` for masks with a byte for each weight, or ``"packed"`` for a bit.

    Returns:
      A ``GradientTransformationExtraArgs`` whose ``update`` needs ``params`` and passes extra
      arguments on. The updates of sparsified leaves have the dtype to which gradient and parameter
      promote.

    Raises:
      TypeError: ``method`` is no `SparseMethod`; in ``init``: a chosen leaf is not floating point.
      ValueError: ``mask_dtype`` is neither; in ``init``: ``where`` chooses nothing, an array occurs
        at several places of the parameters, the budget cannot be met, or the optimizer keeps the
        moments of all weights in one array; in ``update``: ``params`` is missing, or ``updates``
        lack a leaf of it.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from sparsejax.transforms import magnitude_pruning, sparsify
      >>> params = {"kernel": jnp.array([[4.0, 1.0], [-3.0, 2.0]])}
      >>> optimizer = sparsify(optax.sgd(0.5), magnitude_pruning(0.5))
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update({"kernel": jnp.ones((2, 2))}, state, params)
      >>> print(optax.apply_updates(params, updates)["kernel"])
      [[ 3.5  0. ]
       [-3.5  0. ]]
    """
    if not isinstance(method, SparseMethod):
        raise TypeError(
            "method must be made by magnitude_pruning or one of its siblings; got "
            f"{method!r} ({type(method).__name__}){_checks.call_it(method)}"
        )
    if mask_dtype not in ("bool", "packed"):
        raise ValueError(f"mask_dtype must be 'bool' or 'packed'; got {mask_dtype!r}")
    inner = accepting_extra_args(optimizer)

    def as_stored(masks: list[jax.Array]) -> list[jax.Array]:
        return [stored(mask, mask_dtype) for mask in masks]

    def init(params: optax.Params) -> SparsifyState:
        _refuse_lookahead(params)
        refuse_tied(params, where)
        chosen = choose(params, where)
        shapes = jax.eval_shape(inner.init, params)
        check_moments(shapes, params, sum(leaf.size for leaf in jax.tree.leaves(params)))
        step = jnp.asarray(0, jnp.int32)
        key = key_data(method.key)
        weights = weights_of(params, chosen, [], shapes, step, _key_before(method.key, key, 0))
        masks = method.first_mask(weights)
        inner_state = inner.init(chosen.put_back(_masked(masks, chosen.leaves)))
        tree = chosen.put_back(as_stored(masks), others=optax.MaskedNode())
        return SparsifyState(step, fresh(tree), fresh(key), inner_state)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, SparsifyState]:
        if params is None:
            raise ValueError("params must be passed to update, since sparsify needs them")
        chosen = choose(params, where)
        gradient = chosen._replace(tree_leaves=jax.tree.leaves(updates))
        if len(gradient.tree_leaves) != len(chosen.tree_leaves):
            raise ValueError(
                f"updates must have a leaf for each of params; {misfit(updates, params, 'params')}"
            )
        grads = chosen.of(gradient.tree_leaves)
        kept, inner_state = jax.tree.leaves(state.mask), state.inner_state
        masks = _as_bools(kept, chosen.leaves)
        if method.is_due is not None:
            key = _key_before(method.key, state.key, state.step + 1)
            weights = weights_of(params, chosen, grads, inner_state, state.step, key)
            kept, masks, inner_state = renewed(method.is_due(state.step), weights, chosen, kept)
        seen = gradient.put_back(_masked(masks, grads))
        moved, inner_state = inner.update(seen, inner_state, params, **extra_args)
        moves = chosen._replace(tree_leaves=jax.tree.leaves(moved))
        pairs = zip(masks, chosen.leaves, chosen.of(moves.tree_leaves), strict=True)
        held = moves.put_back([_hold(mask, w, u) for mask, w, u in pairs])
        tree = chosen.put_back(kept, others=optax.MaskedNode())
        step = jnp.asarray(optax.safe_increment(state.step))
        return held, SparsifyState(step, tree, state.key, inner_state)

    def renewed(
        due: Bool[Array, ""], weights: Weights, chosen: Chosen, kept: list[jax.Array]
    ) -> tuple[list[jax.Array], list[jax.Array], PyTree]:
        """Return stored masks, what is in the old and the new ones, and the optimizer's state."""
        leaves, treedef = jax.tree.flatten(weights.opt_state)
        structure: Any = treedef
        fixed, varying = single_leaves(inner.init, weights)

        def init_leaves(masks: list[jax.Array]) -> list[jax.Array]:
            return jax.tree.leaves(inner.init(chosen.put_back(_masked(masks, weights.leaves))))

        def reset(places: dict[int, Path], masks: list[jax.Array], leaves: Any) -> Any:
            """Set the entries outside of masks back to what the optimizer starts with."""
            initial, of_path = init_leaves(masks), dict(zip(weights.paths, masks, strict=True))
            return {
                place: jnp.where(of_path[path], leaves[place], initial[place])
                for place, path in places.items()
            }

        def renew(carry: Any) -> Any:
            _, kept, _, moments = carry
            before = _as_bools(kept, weights.leaves)
            after = method.next_mask(weights, before)
            both = [m & n for m, n in zip(before, after, strict=True)]
            moments = reset(varying, both, moments) if varying else moments
            stay = as_stored(both) if method.regrows else []
            return jnp.zeros_like(due), as_stored(after), stay, moments

        # A loop of at most one trip: `lax.cond` would run the renewal at each update of a vmap. The
        # intersection comes out of it, at the cost of a copy of the masks at each update; to read
        # the old masks after the loop would cost two. A method that only prunes needs neither.
        stay = kept if method.regrows else []
        carry = due, kept, stay, {place: leaves[place] for place in varying}
        _, new, stay, moments = lax.while_loop(lambda carry: carry[0], renew, carry)
        both = _as_bools(stay if method.regrows else new, weights.leaves)
        # Constants outside of both masks are there already unless the masks are new. To write them
        # at each update is part of the optimizer's pass over the moments; the loop would copy them.
        moments |= reset(fixed, both, leaves)
        found = [moments.get(place, leaf) for place, leaf in enumerate(leaves)]
        return new, both, structure.unflatten(found)

    # optax's type of states leaves out None, which the key may be.
    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def _as_bools(masks: list[jax.Array], leaves: Sequence[jax.Array]) -> list[jax.Array]:
    return [as_bool(mask, leaf) for mask, leaf in zip(masks, leaves, strict=True)]


def _masked(masks: Sequence[jax.Array], leaves: Sequence[jax.Array]) -> list[jax.Array]:
    return [masked_leaf(leaf, mask) for leaf, mask in zip(leaves, masks, strict=True)]


def _hold(mask: jax.Array, w: jax.Array, u: jax.Array) -> jax.Array:
    """Return the update that leaves exactly zero outside of the mask."""
    dtype = promoted(w, u)
    return jnp.where(mask, jnp.asarray(u, dtype), -jnp.asarray(w, dtype))


def _key_before(key: Any, data: Any, number: Any) -> Any:
    """Return the key of a choice of masks: of the first one, 0, or of one after an update."""
    return None if key is None else jax.random.fold_in(key_like(key, data), number)


def _refuse_lookahead(params: PyTree) -> None:
    if isinstance(params, optax.LookaheadParams):
        raise ValueError(
            "optimizer must not be optax.lookahead, whose slow weights would be sparsified as "
            "layers of their own; use optax.lookahead(sparsify(...)) and evaluate "
            "masked_params(opt_state, params.slow), or use hold_zeros"
        )
