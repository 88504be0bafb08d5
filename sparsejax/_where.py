"""Resolution of the argument ``where``, which chooses the leaves that are sparsified."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from jaxtyping import PyTree as PyTree

from sparsejax._misfit import few, misfit
from sparsejax._roles import Role, Roles
from sparsejax._tree_layers import is_array, is_floating, layer_leaves
from sparsejax._variables import Path

Value = TypeVar("Value")
Where: TypeAlias = Callable[[Path, Any], bool] | PyTree[bool] | None
"""The leaves of a tree that are sparsified.

Either a callable ``(path, leaf) -> bool``, with ``path`` as in
``jax.tree_util.tree_map_with_path``; or a pytree of bools or a prefix of one, as in
``optax.masked``; or None for the default, which chooses kernels and embeddings.
``sparsejax.chosen`` states the default rule and shows what it chooses."""

_ALLOWED = (
    "where must be a callable (path, leaf) -> bool, or a pytree of bools that is a prefix of the "
    "tree"
)

_warned: set[str] = set()


def everything(path: Path, leaf: Any) -> bool:
    """Choose every leaf; a value for ``where``."""
    del path, leaf
    return True


class Chosen(NamedTuple):
    """The chosen leaves of a tree, each array once, and the rest of the tree.

    An array that occurs at several places of the tree (the same Python object: tied parameters) is
    one leaf here, and `put_back` puts one result into all of these places, so that it stays tied.
    Under ``jit`` ties are unknown, since every argument is an array of its own.
    """

    paths: list[str]
    """The path of each leaf; the paths of a tied leaf are joined by "and"."""
    leaves: list[Float[Array, "..."]]
    places: list[int | None]
    """For each leaf of the tree the index of its array in ``leaves``, or None if not chosen."""
    tree_leaves: list[Any]
    """All leaves of the tree, in order."""
    treedef: Any
    """The structure of the tree."""

    @property
    def size(self) -> int:
        """The total number of entries of the chosen leaves."""
        return sum(leaf.size for leaf in self.leaves)

    def of(self, values: Sequence[Value]) -> list[Value]:
        """Pick from ``values``, one for each leaf of the tree, those of the chosen leaves."""
        first = {place: n for n, place in reversed(list(enumerate(self.places)))}
        return [values[first[place]] for place in range(len(self.leaves))]

    def put_back(self, leaves: Sequence[Any], others: Any = ...) -> PyTree:
        """Return the whole tree with ``leaves`` in the places of the chosen leaves.

        Args:
          leaves: one value for each of ``self.leaves``.
          others: a value for all other places; by default the leaves of the tree.
        """
        return self.treedef.unflatten(
            leaves[place] if place is not None else leaf if others is ... else others
            for place, leaf in zip(self.places, self.tree_leaves, strict=True)
        )


def default_roles(roles: Roles) -> list[Role]:
    """Return the role of each leaf in ``jax.tree`` order; the default ``where`` chooses weights.

    Warns:
      UserWarning: a role is doubtful; once per process for each leaf.
    """
    found = [roles.role(number) for number in range(len(roles.leaves))]
    for leaf, role in zip(roles.leaves, found, strict=True):
        if role.doubtful:
            warn_once(
                f"{leaf.label} of shape {leaf.shape} is not sparsified, since {role.why}; pass "
                "where if it is a kernel or an embedding, or to silence this warning"
            )
    return found


def warn_once(message: str) -> None:
    """Issue a UserWarning, once per process for each message."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, UserWarning, stacklevel=3)


def resolve_where(tree: PyTree, where: Where, roles: Roles | None = None) -> PyTree[bool]:
    """Return a pytree of Python bools with the structure of ``tree``.

    Args:
      tree: pytree of arrays.
      where: the choice of leaves.
      roles: the roles of the leaves of ``tree``, if the caller has them already.

    Raises:
      ValueError: ``where`` is a pytree that is not a prefix of ``tree``, holds something other than
        bools, or chooses nothing from a tree that has leaves.
      TypeError: a chosen leaf is not a floating-point array; or ``where`` is the default, or it
        raises, and a leaf is not an array.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    treedef: Any = structure
    if where is None:
        for path, leaf in flat:
            check_array(_label(path), leaf)
        roles = roles or Roles(layer_leaves(tree))
        chosen = [role.kind == "weight" for role in default_roles(roles)]
    elif is_function(where):
        chosen = [_ask(where, path, leaf) for path, leaf in flat]
    else:
        try:
            spread = jax.tree.broadcast(where, tree)
        except ValueError as error:
            raise ValueError(f"{_ALLOWED}; {misfit(where, tree, 'the tree')}") from error
        chosen = [_as_bool(value) for value in jax.tree.leaves(spread)]
    if chosen and not any(chosen):
        names = [jax.tree_util.keystr(path) or "the tree itself" for path, _ in flat]
        if where is None and roles is not None:
            kinds = [roles.role(number).why for number in range(len(flat))]
            names = [f"{name} ({why})" for name, why in zip(names, kinds, strict=True)]
        rule = "None, the default for kernels and embeddings," if where is None else repr(where)
        raise ValueError(
            f"where must choose at least one leaf; where={rule} chooses none of the tree's "
            f"{len(chosen)} leaves, {few(names)}"
            + ". Pass where to choose others" * (where is None)
            + ". In a callable, jax.tree_util.keystr(path) is the path as it is written here"
            * is_function(where)
        )
    for (path, leaf), is_chosen in zip(flat, chosen, strict=True):
        if is_chosen:
            check_array(_label(path), leaf)
            if not is_floating(leaf):
                raise TypeError(
                    "where must choose only floating-point leaves; it chooses the leaf "
                    f"{jax.tree_util.keystr(path)} of dtype {jnp.result_type(leaf)}"
                )
    return treedef.unflatten(chosen)


def is_function(argument: Any) -> TypeGuard[Callable[..., Any]]:
    """Whether an argument is a function and not a pytree, which may be a module with a call."""
    leaves = jax.tree.leaves(argument)
    of_tree = bool(leaves) and not any(map(callable, leaves))
    return callable(argument) and (isinstance(argument, jax.tree_util.Partial) or not of_tree)


def choose(tree: PyTree, where: Where) -> Chosen:
    """Return the leaves of ``tree`` that ``where`` chooses; raises as `resolve_where` does."""
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


def tied_paths(tree: PyTree) -> list[list[Path]]:
    """Return the paths of each array (Python object) that a tree holds at several places."""
    places: dict[int, list[Path]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if _is_shareable(leaf):
            places.setdefault(id(leaf), []).append(path)
    return [paths for paths in places.values() if len(paths) > 1]


def refuse_tied(params: PyTree, where: Where = None, name: str = "params") -> None:
    """Check that no array occurs at several of the places that ``where`` chooses.

    An optimizer updates each leaf by itself, so tied leaves would differ after a step, and a budget
    would count them several times.

    Raises:
      ValueError: an array occurs at several places.
    """
    for paths in tied_paths(mask_out(params, where)):
        places = " and ".join(jax.tree_util.keystr(path) for path in paths)
        raise ValueError(
            f"{name} must hold each array once; it holds one array at {places}, and an optimizer "
            "would update these leaves separately. Keep one of them in the tree and use it twice "
            "in the function that computes the network. For separate parameters that start from "
            "the same values, copy the array"
        )


def is_masked(node: Any) -> bool:
    """Whether a node is an ``optax.MaskedNode()``, which stands for an absent leaf."""
    return isinstance(node, optax.MaskedNode)


def mask_out(tree: PyTree, where: Where) -> PyTree:
    """Replace the leaves that ``where`` does not choose by ``optax.MaskedNode()``."""
    return jax.tree.map(
        lambda leaf, m: leaf if m else optax.MaskedNode(), tree, resolve_where(tree, where)
    )


def _as_bool(value: Any) -> bool:
    if not isinstance(value, (bool, jnp.bool_)):
        raise ValueError(f"{_ALLOWED}; it holds {value!r} ({type(value).__name__})")
    return bool(value)


def _ask(where: Callable[[Path, Any], bool], path: Path, leaf: Any) -> bool:
    try:
        return bool(where(path, leaf))
    except Exception as error:
        check_array(_label(path), leaf)  # a leaf without a shape is the likely reason
        error.add_note(
            f"where was called with the path of {_label(path)}. The parts of a path differ from "
            "framework to framework; jax.tree_util.keystr(path) writes it as it stands here"
        )
        raise


def _label(path: Path) -> str:
    return jax.tree_util.keystr(path) or "the tree"


def check_array(label: str, leaf: Any) -> None:
    """Check that a leaf is an array or a number.

    Args:
      label: the name of the leaf, for the error.
      leaf: the leaf.

    Raises:
      TypeError: it is something else, such as an activation function of a module.
    """
    if not is_array(leaf):
        raise TypeError(
            f"the leaves of the tree must be arrays; {label} is {leaf!r} ({type(leaf).__name__}). "
            "Remove such leaves from the tree; for an Equinox module pass "
            "equinox.filter(model, equinox.is_array) or use equinox.partition"
        )


def _is_shareable(leaf: Any) -> bool:
    """Whether two places that hold this object share an array, not only a number or a shape."""
    return isinstance(leaf, (jax.Array, np.ndarray))
