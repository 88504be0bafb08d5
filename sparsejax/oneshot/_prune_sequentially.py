"""Pruning of one layer after another, each by the inputs that the pruned layers before it give."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jaxtyping import Array, PyTree

from sparsejax import _checks
from sparsejax._names import leaves_by_name
from sparsejax._where import Where, refuse_tied, resolve_where
from sparsejax.graph import concrete_leaves
from sparsejax.oneshot._batches import check_function, checked
from sparsejax.oneshot._calibrate import calibrate
from sparsejax.oneshot._comparison import Comparison, check_comparison
from sparsejax.oneshot._divided_budget import budgets_of_parts
from sparsejax.oneshot._flow import Flow
from sparsejax.oneshot._flows import Flows
from sparsejax.oneshot._kernel_budgets import KernelBudget, equal_budgets
from sparsejax.oneshot._kernels import kernels_of
from sparsejax.oneshot._method import Method
from sparsejax.oneshot._patterns import parse_budget, parse_pattern
from sparsejax.oneshot._progress import OnLayer, Progress
from sparsejax.oneshot._prune import check_method
from sparsejax.oneshot._prune_kernels import prune_kernels
from sparsejax.oneshot._sensitivity import check_squared_gradients
from sparsejax.oneshot._stages import Part
from sparsejax.oneshot._store import Store, fingerprint


def prune_sequentially(
    function: Callable[[PyTree, PyTree], PyTree],
    params: PyTree[Array],
    batches: Iterable[PyTree],
    budget: float | Fraction | None,
    method: str | Method = "admm",
    pattern: str = "layer",
    where: Where = None,
    *,
    comparison: Comparison = "balanced",
    squared_gradients: PyTree | None = None,
    vmap_size: int = 1,
    on_layer: OnLayer | None = None,
    progress: bool = False,
    directory: str | os.PathLike[str] | None = None,
) -> PyTree[Array]:
    r"""Prune a network layer by layer, each layer for the outputs of the pruned layers before it.

    .. math:: \min_{W_l}\ \lVert (W_l - W_l^0)\, X_l \rVert^2, \qquad
              X_l = \text{inputs of layer } l \text{ behind the pruned layers } 1, \dots, l - 1

    `calibrate` and `prune` do this with the inputs in the dense network, all layers at once. Here a
    layer is pruned, and only then the batches go on through it. Kernels that do not depend on one
    another, such as those of queries, keys and values, are pruned together. Scans over layers are
    written out, and a program is compiled once for layers that compute alike. Between layers the
    values that are still needed are kept for all batches, such as the residual stream.

    Args:
      function: ``function(params, batch)``, a pure function that JAX can trace; a batch that is a
        tuple is one argument.
      params: pytree of arrays.
      batches: iterable of batches, each a pytree of arrays or numbers.
      budget: the sparsity, the fraction of weights to prune, in ``[0, 1)``.
      method: as for `prune`.
      pattern: as for `prune`. For ``"global"`` the budget is divided among the kernels by their
        inputs in the dense network, which takes a calibration of it first.
      where: the leaves that are pruned; by default all of ``sparsejax.chosen`` that activations are
        multiplied with.
      comparison: as for `prune`, for ``pattern="global"``.
      squared_gradients: as for `prune`, for ``comparison="loss"``; those of the dense network.
      vmap_size: the number of matrices of one shape that one program prunes together.
      on_layer: called with the name and the relative error of each kernel when it is pruned. Of
        stacked layers each has an index behind the name, such as ``layers/kernel[3]``.
      progress: whether to print a line for each kernel.
      directory: a folder for the kernels that are done. A call with the same arguments that finds
        them there goes on after them, and returns the same as one that was not interrupted. The
        computation of ``function`` counts as an argument; ``vmap_size``, ``on_layer`` and
        ``progress`` may differ.

    Returns:
      A tree with the structure, shapes, dtypes and shardings of ``params``. Pruned weights are
      exactly 0.

    Raises:
      TypeError: as for `calibrate` and `prune`; or ``directory`` is not a path.
      ValueError: as for `calibrate` and `prune`; ``directory`` is a file, or holds damaged kernels
        or those of a call with other arguments; or ``where`` chooses a leaf that activations are
        not multiplied with.

    Warns:
      UserWarning: as for `prune`.

    References:
      Frantar & Alistarh, SparseGPT: massive language models can be accurately pruned in one-shot,
      ICML 2023.
    """
    shape = parse_pattern(pattern)
    sparsity = parse_budget(budget, shape)
    comparison = check_comparison(comparison, squared_gradients, pattern)
    chosen_method = check_method(method)
    vmap_size = _checks.python_integer("vmap_size", vmap_size, 1)
    check_function(function)
    originals = concrete_leaves(params)
    names = list(leaves_by_name(params))
    mask = resolve_where(params, where)
    refuse_tied(params, mask)
    chosen = jax.tree.leaves(mask)
    structure: Any = jax.tree.structure(params)
    leaves = [_automatic(leaf) for leaf in originals]
    given = [jax.tree.map(_automatic, batch) for batch in checked(batches)]
    flows = Flows(function, structure.unflatten(leaves), given, chosen, names)
    parts = flows.parts()
    for part in parts:
        shape.check(part.label(names), part.layout.outputs, part.layout.inputs)
    if where is not None:
        _check_seen(flows.first, names)
    gradients = None
    if squared_gradients is not None:
        layouts = {names[part.leaf]: flows.first.plan.layouts[part.leaf] for part in parts}
        gradients = check_squared_gradients(squared_gradients, layouts)
    store = None
    if directory is not None:
        text = _text(chosen_method)
        call = (sparsity, text, shape, comparison, chosen, flows.first.operations)
        trees = (params, given, flows.first.constants, gradients.leaves if gradients else {})
        store = Store(directory, fingerprint(call, trees))
    budgets: dict[str, KernelBudget] = {}
    if shape.kind == "global":
        dense = calibrate(function, structure.unflatten(leaves), given, mask)
        whole = cast(Fraction, sparsity)
        budgets = budgets_of_parts(params, dense, whole, comparison, parts, names, gradients)
        del dense
    report = Progress(len(parts), on_layer, progress)
    owned: set[int] = set()
    for number, stage in enumerate(flows.first.stages):
        flows.advance(number, leaves)
        labels = [part.label(names) for part in stage.parts]
        pruned: Mapping[str, Any] | None = store.load(number) if store else None
        if pruned is None:
            pairs = zip(labels, stage.parts, strict=True)
            tree = {label: _read(leaves[part.leaf], part) for label, part in pairs}
            kernels = kernels_of(tree, flows.calibration(number, leaves, labels), None)
            if budgets:
                own = [budgets[kernel.name] for kernel in kernels.kernels]
            else:
                own = equal_budgets(kernels.kernels, shape, sparsity)
            pruned = prune_kernels(kernels, own, chosen_method, shape, vmap_size, report)
            if store is not None:
                store.save(number, pruned)
        else:
            report.done += len(labels)
        for label, part in zip(labels, stage.parts, strict=True):
            leaves[part.leaf] = _write(leaves[part.leaf], pruned[label], part, owned)
    return structure.unflatten(
        _placed(leaf, original) for leaf, original in zip(leaves, originals, strict=True)
    )


def _check_seen(flow: Flow, names: Sequence[str]) -> None:
    for leaf, why in flow.plan.skipped.items():
        raise ValueError(
            f"where must choose kernels that activations are multiplied with; {names[leaf]} is "
            f"none, since {why}. Leave it out"
        )


def _text(method: Any) -> str:
    """Return what tells methods (and their options) apart in another process, too."""
    if not isinstance(method, Method):
        return str(method)
    numbers = [_text(number) for number in method.numbers]
    return f"{method.name}{method.options}{numbers}"


def _read(leaf: Any, part: Part) -> Any:
    """Return the entries of a kernel that a part consists of."""
    if part.layout.shape == jnp.shape(leaf):
        return leaf
    return lax.dynamic_slice(leaf, part.start, part.layout.shape)


def _write(leaf: Any, kernel: Any, part: Part, owned: set[int]) -> Any:
    """Return a kernel with the entries of a part replaced, in place once the kernel is a copy."""
    if part.layout.shape == jnp.shape(leaf):
        return kernel
    update = _updated_in_place if part.leaf in owned else _updated
    owned.add(part.leaf)
    return update(leaf, kernel, part.start)


def _update(leaf: jax.Array, kernel: jax.Array, start: Sequence[Any]) -> jax.Array:
    return lax.dynamic_update_slice(leaf, kernel, start)


_updated = jax.jit(_update)
_updated_in_place = jax.jit(_update, donate_argnums=0)


def _automatic(leaf: Any) -> Any:
    """Return an array on a mesh with explicit axes as one on a mesh with automatic axes."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or AxisType.Explicit not in sharding.mesh.axis_types:
        return leaf
    return jax.device_put(leaf, NamedSharding(_automatic_mesh(sharding.mesh), sharding.spec))


@functools.lru_cache
def _automatic_mesh(mesh: Mesh) -> Mesh:
    kinds = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)


def _placed(leaf: Any, original: Any) -> Any:
    if isinstance(original, jax.Array):
        return jax.device_put(leaf, original.sharding)
    return leaf
