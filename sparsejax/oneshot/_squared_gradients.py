"""The mean over batches of the squared gradients of a loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PyTree

from sparsejax._dtypes import at_least_float32
from sparsejax._names import named_leaves
from sparsejax._tree_layers import is_floating
from sparsejax.graph import concrete_leaves
from sparsejax.oneshot._batches import check_function, checked
from sparsejax.oneshot._calibrate import whole_sums


def squared_gradients(
    loss: Callable[[PyTree, PyTree], Float[Array, ""]],
    params: PyTree[Array],
    batches: Iterable[PyTree],
) -> PyTree[Array]:
    r"""Compute the mean over batches of the squared gradient of a loss.

    .. math:: v = \frac1B \sum_{b=1}^{B} \Big(\frac{\partial L_b}{\partial w}\Big)^2

    It is what `prune` takes for ``comparison="loss"``. Adam's second moments are such a mean, too.
    The gradients of the rows of a batch partly cancel, so many small batches say more than a few
    large ones. The batches may be sharded, and so may the parameters.

    Args:
      loss: ``loss(params, batch)``, a pure function that JAX can differentiate and that returns a
        scalar, such as the mean over the examples of the batch.
      params: pytree of arrays.
      batches: iterable of batches, each a pytree of arrays or numbers. Every shape of a batch takes
        a compilation.

    Returns:
      A tree like ``params`` in float32, or float64 for parameters in float64. Leaves that are not
      floating point become None.

    Raises:
      TypeError: ``loss`` cannot be called, ``batches`` is no iterable of batches, or a leaf of the
        parameters or of a batch is traced or is not an array.
      ValueError: there are no batches, no parameter is floating point, ``loss`` does not return a
        scalar, or gradients are NaN or infinite, in which case the error names the first such leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.oneshot import squared_gradients
      >>> def loss(params, batch):
      ...     return batch @ params["w"]
      >>> batches = [jnp.array([1.0, 0.0]), jnp.array([3.0, 2.0])]
      >>> print(squared_gradients(loss, {"w": jnp.ones(2)}, batches)["w"])
      [5. 2.]
    """
    check_function(loss, "loss")
    given = checked(batches)
    leaves = concrete_leaves(params)
    structure: Any = jax.tree.structure(params)
    places = [place for place, leaf in enumerate(leaves) if is_floating(leaf)]
    if not places:
        raise ValueError("params must have floating-point leaves; they have none")

    def value(chosen: Sequence[Any], others: Sequence[Any], batch: PyTree) -> Any:
        whole = list(others)
        for place, leaf in zip(places, chosen, strict=True):
            whole[place] = leaf
        return _scalar(loss(structure.unflatten(whole), batch))

    def add(sums: Sequence[Any], leaves: Sequence[Any], batch: PyTree) -> list[Any]:
        gradients = jax.grad(value)([leaves[place] for place in places], leaves, batch)
        pairs = zip(sums, gradients, strict=True)
        return [total + jnp.square(one.astype(total.dtype)) for total, one in pairs]

    sums: list[Any] = []
    number, run = 0, None
    for batch in given:
        if run is None:
            shardings = _shardings([leaves[place] for place in places], jax.tree.leaves(batch))
            sums = [
                jnp.zeros(leaves[place].shape, at_least_float32(leaves[place]), device=sharding)
                for place, sharding in zip(places, shardings, strict=True)
            ]
            run = jax.jit(add, donate_argnums=0, out_shardings=shardings)
        sums = run(sums, leaves, batch)
        number += 1
    if not number:
        raise ValueError("batches must hold at least one batch; there is none")
    names = [name for name, _ in named_leaves(params)]
    for place, total in zip(places, sums, strict=True):
        if not bool(jnp.isfinite(total).all()):
            raise ValueError(
                f"gradients must be finite; those of {names[place] or 'params'} are NaN or "
                "infinite, or their squares overflow"
            )
    found: list[Any] = [None] * len(leaves)
    for place, mean in zip(places, _means(sums, float(number)), strict=True):
        found[place] = mean
    return structure.unflatten(found)


def _scalar(value: Any) -> Any:
    if is_floating(value) and jnp.shape(value) == ():
        return value
    what = f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else repr(type(value))
    raise ValueError(f"loss must return a floating-point scalar; it returns {what}")


def _shardings(arrays: Sequence[Any], inputs: Sequence[Any]) -> list[NamedSharding | None]:
    """Return the sharding of each sum: its parameter's, or replicated if that is not sharded."""
    others = whole_sums([*arrays, *inputs])
    own = [getattr(array, "sharding", None) for array in arrays]
    return [one if isinstance(one, NamedSharding) and one.mesh.size > 1 else others for one in own]


@functools.partial(jax.jit, donate_argnums=0)
def _means(sums: list[Any], number: float) -> list[Any]:
    return [total / number for total in sums]
