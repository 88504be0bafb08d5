"""Which leaves of a pytree are sparsified: the one meaning of ``where`` in the library."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax._roles import Role, Roles
from sparsejax._tree_layers import is_array, is_floating, layer_leaves

PyTree = Any
Value = TypeVar("Value")
Where = Callable[[tuple[Any, ...], Any], bool] | PyTree | None
"""Which leaves of a tree are sparsified.

A callable ``(path, leaf) -> bool`` (``path`` as in ``jax.tree_util.tree_map_with_path``), a pytree
of bools (or a prefix of one, as in ``optax.masked``), or ``None`` for the default, which chooses
kernels and embeddings; ``sparsejax.chosen`` states the rule and shows what it chooses."""

_warned: set[str] = set()


def everything(path: tuple[Any, ...], leaf: Any) -> bool:
    """A ``where`` that chooses every leaf."""
    del path, leaf
    return True


class Chosen(NamedTuple):
    """The chosen leaves of a tree, each array once, and what is needed to put them back.

    An array that a tree holds at two places (the same Python object: tied parameters) is one leaf
    here, and `put_back` puts one result into both places, so that it stays tied. Under ``jit`` that
    is unknown: each argument is an array of its own there.
    """

    paths: list[str]
    """Of each leaf; of a tied one all paths, joined by "and"."""
    leaves: list[jax.Array]
    places: list[int | None]
    """For each leaf of the tree the index of its array in ``leaves``, None if it is not chosen."""
    tree_leaves: list[Any]
    """All leaves of the tree, in order."""
    treedef: Any

    @property
    def size(self) -> int:
        """How many entries the chosen leaves have together."""
        return sum(leaf.size for leaf in self.leaves)

    def of(self, values: Sequence[Value]) -> list[Value]:
        """Those of ``values``, one for each leaf of the tree, that belong to ``leaves``."""
        first = {place: n for n, place in reversed(list(enumerate(self.places)))}
        return [values[first[place]] for place in range(len(self.leaves))]

    def put_back(self, leaves: Sequence[Any], others: Any = ...) -> PyTree:
        """The whole tree, with ``leaves`` in the places of the chosen ones.

        Args:
          leaves: one for each of ``self.leaves``.
          others: what the other places get instead of the leaves that are there.
        """
        return self.treedef.unflatten(
            leaves[place] if place is not None else leaf if others is ... else others
            for place, leaf in zip(self.places, self.tree_leaves, strict=True)
        )


def default_roles(tree: PyTree) -> list[Role]:
    """What each leaf of a tree is, in ``jax.tree`` order; the default ``where`` chooses weights.

    Warns:
      UserWarning: once per process for a leaf whose role is doubtful.
    """
    leaves = layer_leaves(tree)
    roles = Roles(leaves)
    found = [roles.role(number) for number in range(len(leaves))]
    for leaf, role in zip(leaves, found, strict=True):
        if role.doubtful:
            warn_once(
                f"{leaf.label} of shape {leaf.shape} is left out of what is sparsified, since "
                f"{role.why}; if it is a kernel or an embedding, or to silence this, pass where"
            )
    return found


def warn_once(message: str) -> None:
    """Give a UserWarning, once per process for each message."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, UserWarning, stacklevel=3)


def resolve_where(tree: PyTree, where: Where) -> PyTree:
    """A pytree of Python bools with the structure of ``tree``.

    Raises:
      ValueError: ``where`` is a pytree that is no prefix of ``tree``, holds something that is not
        a bool, or chooses nothing from a tree that has leaves.
      TypeError: a chosen leaf is not a floating-point array, or ``where`` is the default or fails
        and a leaf is no array.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    treedef: Any = structure
    if where is None:
        for path, leaf in flat:
            _check_array(path, leaf)
        chosen = [role.kind == "weight" for role in default_roles(tree)]
    elif callable(where):
        chosen = [_ask(where, path, leaf) for path, leaf in flat]
    else:
        try:
            spread = jax.tree.broadcast(where, tree)
        except ValueError as error:
            raise ValueError(
                "where must be a callable (path, leaf) -> bool, or a pytree of bools that is a "
                f"prefix of the tree; its structure is {jax.tree.structure(where)}, the tree's is "
                f"{jax.tree.structure(tree)}"
            ) from error
        chosen = [_as_bool(value) for value in jax.tree.leaves(spread)]
    if chosen and not any(chosen):
        rule = (
            "its default, which chooses kernels and embeddings (sparsejax.chosen shows why),"
            if where is None
            else repr(where)
        )
        raise ValueError(
            f"where={rule} chooses none of the tree's {len(chosen)} leaves; at least one is needed"
        )
    for (path, leaf), is_chosen in zip(flat, chosen, strict=True):
        if is_chosen:
            _check_array(path, leaf)
            if not is_floating(leaf):
                raise TypeError(
                    f"where chooses the leaf {jax.tree_util.keystr(path)} of dtype "
                    f"{jnp.result_type(leaf)}; only floating-point leaves can be sparsified"
                )
    return treedef.unflatten(chosen)


def choose(tree: PyTree, where: Where) -> Chosen:
    """The leaves of ``tree`` that ``where`` chooses, as arrays; raises as `resolve_where` does."""
    mask = jax.tree.leaves(resolve_where(tree, where))
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
    paths: list[str] = []
    leaves: list[jax.Array] = []
    places: list[int | None] = []
    seen: dict[int, int] = {}
    for (path, leaf), is_chosen in zip(flat, mask, strict=True):
        if not is_chosen:
            places.append(None)
        elif _is_shareable(leaf) and id(leaf) in seen:
            place = seen[id(leaf)]
            places.append(place)
            paths[place] += f" and {jax.tree_util.keystr(path)}"
        else:
            places.append(len(leaves))
            seen[id(leaf)] = len(leaves)
            paths.append(jax.tree_util.keystr(path))
            leaves.append(jnp.asarray(leaf))
    return Chosen(paths, leaves, places, [leaf for _, leaf in flat], treedef)


def tied_paths(tree: PyTree) -> list[list[tuple[Any, ...]]]:
    """The paths of each array that a tree holds at two or more places (the same Python object)."""
    places: dict[int, list[tuple[Any, ...]]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if _is_shareable(leaf):
            places.setdefault(id(leaf), []).append(path)
    return [paths for paths in places.values() if len(paths) > 1]


def refuse_tied(params: PyTree, where: Where = None, name: str = "params") -> None:
    """Raise ValueError if one array stands at two of the places that ``where`` chooses.

    An optimizer updates each leaf by itself, so the two would differ after a step, and a budget
    would count them twice.
    """
    for paths in tied_paths(mask_out(params, where)):
        places = " and ".join(jax.tree_util.keystr(path) for path in paths)
        raise ValueError(
            f"{name} holds one array at {places}; an optimizer would update these leaves apart. "
            "Keep the array once in the tree and use it in both places of the function that "
            "computes the network; if they are separate parameters that start from the same "
            "values, copy the array"
        )


def is_masked(node: Any) -> bool:
    """Whether a tree has nothing here: an ``optax.MaskedNode()``, as of `mask_out`."""
    return isinstance(node, optax.MaskedNode)


def mask_out(tree: PyTree, where: Where) -> PyTree:
    """``tree`` with ``optax.MaskedNode()`` (no leaf at all) where ``where`` does not choose."""
    return jax.tree.map(
        lambda leaf, m: leaf if m else optax.MaskedNode(), tree, resolve_where(tree, where)
    )


def _as_bool(value: Any) -> bool:
    if not isinstance(value, (bool, jnp.bool_)):
        raise ValueError(f"where must hold bools; it holds {value!r} ({type(value).__name__})")
    return bool(value)


def _ask(where: Callable[[tuple[Any, ...], Any], bool], path: tuple[Any, ...], leaf: Any) -> bool:
    try:
        return bool(where(path, leaf))
    except Exception:
        _check_array(path, leaf)  # the reason, if it is one: where reads its shape
        raise


def _check_array(path: tuple[Any, ...], leaf: Any) -> None:
    if not is_array(leaf):
        raise TypeError(
            f"{jax.tree_util.keystr(path) or 'the tree'} is no array but {leaf!r} "
            f"({type(leaf).__name__}); keep such leaves out of the tree; for an Equinox module "
            "pass equinox.filter(model, equinox.is_array) or use equinox.partition"
        )


def _is_shareable(leaf: Any) -> bool:
    """Whether two places that hold this object share an array, and not just a number or a shape."""
    return isinstance(leaf, (jax.Array, np.ndarray))
