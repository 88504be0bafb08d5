"""Calibration: the Gram matrices of the inputs of all kernels, summed over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from sparsejax._dtypes import at_least_float32
from sparsejax._names import leaves_by_name
from sparsejax._where import Where, refuse_tied, resolve_where
from sparsejax.graph import abstract, concrete_leaves
from sparsejax.oneshot._analysis import traced, uses_of
from sparsejax.oneshot._batches import check_function, checked
from sparsejax.oneshot._calibration import Calibration, KernelInputs
from sparsejax.oneshot._gram import Sums, empty, whole
from sparsejax.oneshot._levels import Level, level_of
from sparsejax.oneshot._plan import Plan, make_plan
from sparsejax.oneshot._program import Program, State


def calibrate(
    function: Callable[[PyTree, PyTree], PyTree],
    params: PyTree,
    batches: Iterable[PyTree],
    where: Where = None,
) -> Calibration:
    r"""Compute for each kernel the Gram matrix of the inputs that it is multiplied with.

    .. math:: G = \sum_n x_n x_n^\top

    The products of parameters with values that depend on the batch are found in the traced
    computation: dense layers, sums over several axes, convolutions, and layers in a ``scan``. A
    parameter may be reshaped, transposed, converted, and sliced along its output axes or along an
    axis of stacked layers before. Gram matrices of a kernel that is used several times are added.
    What no Gram matrix depends on is not computed, such as the logits of a language model when only
    its layers are chosen. The batches may be sharded, and so may the parameters.

    Args:
      function: ``function(params, batch)``, a pure function that JAX can trace; a batch that is a
        tuple is one argument.
      params: pytree of arrays.
      batches: iterable of batches, each a pytree of arrays or numbers. Every shape of a batch takes
        a compilation.
      where: the parameters to calibrate; kernels and embeddings by default, see
        ``sparsejax.chosen``.

    Returns:
      The Gram matrix and the number of rows of each kernel, in float32, or float64 for inputs in
      float64. ``print`` shows a table, with the chosen parameters that have no Gram matrix and why.

    Raises:
      TypeError: ``function`` cannot be called, ``batches`` is an array or no iterable of batches,
        or a leaf of the parameters or of a batch is traced or is not an array.
      ValueError: there are no batches, or a batch has no rows; ``function`` cannot be traced, or
        multiplies activations by no chosen parameter; ``where`` does not fit ``params``, or chooses
        an array that stands at two places; or inputs of a kernel are NaN or infinite, in which case
        the error names the first such kernel.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.oneshot import calibrate
      >>> params = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
      >>> def function(params, x):
      ...     return x @ params["dense"]["kernel"] + params["dense"]["bias"]
      >>> calibration = calibrate(function, params, [jnp.eye(3), 2 * jnp.eye(3)])
      >>> print(calibration)
      kernel        matrices  outputs  inputs  rows
      dense/kernel         1        2       3     6
      >>> print(calibration.inputs["dense/kernel"].gram[0])
      [[5. 0. 0.]
       [0. 5. 0.]
       [0. 0. 5.]]
    """
    check_function(function)
    given = checked(batches)
    leaves = concrete_leaves(params)
    names = list(leaves_by_name(params))
    mask = resolve_where(params, where)
    refuse_tied(params, mask)
    chosen = jax.tree.leaves(mask)
    programs: dict[Any, _Compiled] = {}
    first: _Compiled | None = None
    state: State = {}
    number = -1
    for number, batch in enumerate(given):
        shapes = abstract(batch)
        key = jax.tree.structure(shapes), tuple((s.shape, s.dtype) for s in jax.tree.leaves(shapes))
        if key not in programs:
            programs[key] = _compile(function, params, batch, chosen)
        compiled = programs[key]
        check_rows(compiled.plan, names, number)
        if first is None:
            first = compiled
            state = compiled.empty()
        elif not _agree(first.plan, compiled.plan):
            raise ValueError(
                f"all batches must give the same kernels inputs; batch {number}, of shapes "
                f"{[leaf.shape for leaf in jax.tree.leaves(batch)]}, makes another computation of "
                "function"
            )
        state = compiled.run(state, leaves, jax.tree.leaves(batch))
    if first is None:
        raise ValueError("batches must hold at least one batch; there is none")
    return _calibration(first.plan, names, state)


class _Compiled(NamedTuple):
    """The program for one shape of a batch."""

    plan: Plan
    dtypes: list[Any]
    """The dtype of each total."""
    run: Callable[[State, Sequence[Any], Sequence[Any]], State]
    sharding: NamedSharding | None
    """Where the sums are if there are several devices: whole on each of them."""

    def empty(self) -> State:
        """Return sums of no batch."""
        sizes = [(t.batch, t.inputs, d) for t, d in zip(self.plan.totals, self.dtypes, strict=True)]
        make = jax.jit(lambda: dict(enumerate(empty(*one) for one in sizes)))
        state: State = make() if self.sharding is None else jax.device_put(make(), self.sharding)
        return state


def _compile(
    function: Callable[[PyTree, PyTree], PyTree],
    params: PyTree,
    batch: PyTree,
    chosen: Sequence[bool],
) -> _Compiled:
    """Trace a function, and return the program that adds the Gram matrices of a batch."""
    graph = traced(function, params, batch)
    level, arrays = level_of(graph), jax.tree.leaves(params)
    uses = uses_of(level, arrays, chosen)
    plan = make_plan(uses, [graph.shapes[value] for value in graph.leaves])
    levels = {one.number: one for one in level.levels()}
    dtypes = [_dtype(total.terms, levels) for total in plan.totals]
    program = Program(level, plan)
    sharding = whole_sums([*arrays, *jax.tree.leaves(batch)])
    run = jax.jit(_on_mesh(program, sharding), donate_argnums=0)
    return _Compiled(plan, dtypes, run, sharding)


def _dtype(terms: Iterable[Any], levels: Mapping[int, Level]) -> Any:
    found = [levels[term.site.level].graph.dtypes[term.site.value] for term in terms]
    return at_least_float32(*(dtype for dtype in found if jnp.issubdtype(dtype, jnp.floating)))


def whole_sums(arrays: Sequence[Any]) -> NamedSharding | None:
    """Return the sharding of sums that are whole on every device of the arrays' mesh."""
    shardings = [array.sharding for array in arrays if isinstance(array, jax.Array)]
    meshes = [one.mesh for one in shardings if isinstance(one, NamedSharding)]
    mesh = next((mesh for mesh in meshes if mesh.size > 1), None)
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def _on_mesh(program: Program, sharding: NamedSharding | None) -> Callable[..., State]:
    """Return the program with its sums on a mesh, whose axes are automatic inside of it."""
    if sharding is None:
        return program

    def run(state: State, leaves: Sequence[Any], inputs: Sequence[Any]) -> State:
        found: State = jax.lax.with_sharding_constraint(program(state, leaves, inputs), sharding)
        return found

    if AxisType.Explicit not in sharding.mesh.axis_types:
        return run
    automatic: Callable[..., State] = jax.sharding.auto_axes(program, out_sharding=sharding)
    return automatic


def check_rows(plan: Plan, names: Sequence[str], number: int) -> None:
    for leaf, total in plan.total_of.items():
        for term in plan.totals[total].terms:
            if not term.site.count(term.site.rows):
                raise ValueError(
                    f"each batch must have rows; batch {number} has none for {names[leaf]}"
                )
    if not plan.total_of:
        reasons = "; ".join(f"{names[leaf]}: {why}" for leaf, why in plan.skipped.items())
        raise ValueError(
            "function must multiply values that depend on the batch by a chosen parameter in a way "
            f"that can be calibrated; it multiplies by none in such a way ({reasons})"
        )


def _agree(one: Plan, other: Plan) -> bool:
    sizes = [[total[:2] for total in plan.totals] for plan in (one, other)]
    return (*sizes[:1], one.layouts, one.total_of) == (*sizes[1:], other.layouts, other.total_of)


def _calibration(plan: Plan, names: Sequence[str], state: State) -> Calibration:
    """Return the Gram matrices of the sums, which are freed one after another."""
    kernels: dict[int, list[int]] = {}
    for leaf, place in plan.total_of.items():
        kernels.setdefault(place, []).append(leaf)
    found: dict[int, KernelInputs] = {}
    skipped = dict(plan.skipped)
    for number, total in enumerate(plan.totals):
        sums = state.pop(number)
        check_finite(sums, [names[leaf] for leaf in sorted(kernels[number])])
        rows = np.ravel(sums.rows)
        if not rows.all():
            why = f"{(rows == 0).sum()} of its {len(rows)} matrices are never multiplied"
            skipped |= dict.fromkeys(kernels[number], why)
            continue
        gram = whole(sums.strips).reshape(len(rows), total.inputs, total.inputs)
        for leaf in kernels[number]:
            found[leaf] = KernelInputs(gram, sums.rows.reshape(-1))
    order = sorted(found)
    return Calibration(
        {names[leaf]: found[leaf] for leaf in order},
        {names[leaf]: plan.layouts[leaf] for leaf in order},
        {names[leaf]: skipped[leaf] for leaf in sorted(skipped)},
    )


@jax.jit
def _finite(sums: Sums) -> jax.Array:
    """Return for each matrix whether all of its entries are finite."""
    batch = sums.rows.ndim
    finite = [jnp.isfinite(s).all(axis=tuple(range(batch, s.ndim))) for s in sums.strips]
    return jnp.stack(finite).all(axis=0)


def check_finite(sums: Sums, names: Sequence[str]) -> None:
    finite = np.asarray(_finite(sums))
    if finite.all():
        return
    entry = np.argwhere(~finite)[0].tolist()
    where = f", of matrix {entry[0] if len(entry) == 1 else entry}," if entry else ""
    raise ValueError(
        f"activations must be finite; the inputs of {' and '.join(names)}{where} are NaN or "
        "infinite, or their squares overflow"
    )
