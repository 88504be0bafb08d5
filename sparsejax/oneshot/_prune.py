"""Pruning of the kernels of a network, each by itself, in one call."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sparsejax import _checks
from sparsejax._where import Where
from sparsejax.oneshot._admm import admm
from sparsejax.oneshot._calibration import Calibration
from sparsejax.oneshot._comparison import Comparison, check_comparison, divided
from sparsejax.oneshot._errors import relative_error
from sparsejax.oneshot._kernels import Kernel, Kernels, kernels_of
from sparsejax.oneshot._magnitude import magnitude
from sparsejax.oneshot._method import Method
from sparsejax.oneshot._patterns import Pattern, parse_budget, parse_pattern
from sparsejax.oneshot._progress import OnLayer, Progress
from sparsejax.oneshot._sensitivity import check_squared_gradients
from sparsejax.oneshot._sparsegpt import sparsegpt
from sparsejax.oneshot._swaps import swaps
from sparsejax.oneshot._wanda import wanda

METHODS: dict[str, Callable[[], Method]] = {
    "magnitude": magnitude,
    "wanda": wanda,
    "sparsegpt": sparsegpt,
    "admm": admm,
    "swaps": swaps,
}
"""The methods that a string names."""


def prune(
    params: PyTree[Array],
    calibration: Calibration,
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
) -> PyTree[Array]:
    r"""Prune a network without training it, by the inputs that its kernels had.

    .. math:: \min_{W}\ \mathrm{tr}\,(W - W_0)\, G\, (W - W_0)^\top
              \quad\text{s.t. $W$ has the pattern and the budget}, \qquad G = \tfrac1n X^\top X

    Each kernel :math:`W_0` (as a matrix [outputs, inputs]; each of stacked layers by itself) is
    pruned such that its outputs change little on the inputs X of the calibration. The methods
    differ in what they do about that: `magnitude`, `wanda`, `swaps`,
    `sparsegpt`, `admm`.

    The number of weights that are kept is exact: as many as `sparsejax.transforms.kept_weights`
    says. It is counted for each output (``pattern="row"``), for each matrix (``"layer"``), over all
    chosen kernels together (``"global"``), or of groups:

    - ``"2:4"``: at most 2 of 4 neighbouring inputs of an output; ``budget`` is None or 0.5.
    - ``"4x1"``: blocks of 4 inputs x 1 output.
    - ``"units"``, ``"units/64"``: outputs, or groups of 64 of them. Their weights stay as they are,
      since no weights of other outputs can make good for them.
    - ``"inputs"``, ``"inputs/64"``: inputs of a kernel, or groups of 64 of them, such as the heads
      that an attention's output kernel reads.

    For ``"global"`` the weights of all kernels are ranked by what the error of a kernel's outputs
    grows by if a weight is pruned and the others make good for it, :math:`w_{ij}^2 / [G^{-1}]_{jj}`
    (G damped by a tenth). This decides how many weights each kernel keeps; which, the method
    decides. The errors of different kernels are made comparable by ``comparison``:

    - ``"balanced"``: in units of the error that the kernel would have at the sparsity of the whole.
      The product of all errors is made small.
    - ``"relative"``: in units of the squared outputs of the kernel. The sum of relative errors is
      made small.
    - ``"absolute"``: as they are. The sum of squared errors is made small.
    - ``"loss"``: for each output in units of what its error costs the loss,
      :math:`S_o = \sum_i v_{oi} / \sum_i G_{ii}` with the mean squared gradients v of the weights
      (K-FAC's assumption: inputs are independent of the gradients of outputs, and rows
      uncorrelated). What the loss grows by, to second order, is made small.

    Weights of inputs that are 0 in all rows of the calibration change nothing. `swaps`, `sparsegpt`
    and `admm` set them to 0, so that a kernel with many of them may keep fewer weights than the
    budget allows.

    Methods run as one jitted program for each shape of a matrix, in which the budget is traced. The
    matrices of arrays that are sharded over several devices are given to these devices one by one,
    so the result does not depend on their number.

    Args:
      params: pytree of arrays.
      calibration: what `calibrate` returned for these parameters.
      budget: the sparsity, the fraction of weights to prune, in ``[0, 1)``.
      method: a `Method`, or ``"magnitude"``, ``"wanda"``, ``"swaps"``, ``"sparsegpt"`` or
        ``"admm"`` for the one with default options.
      pattern: what is pruned together and over which weights the budget is counted, see above.
      where: the leaves that are pruned; by default all kernels of the calibration. Each has to be
        one of them.
      comparison: ``"balanced"``, ``"relative"``, ``"absolute"`` or ``"loss"``, for
        ``pattern="global"``.
      squared_gradients: for ``comparison="loss"``, a tree like ``params`` with the mean over
        batches of the squared gradient of the loss, as `squared_gradients` or Adam's second moments
        have it; its scale does not matter. Leaves that are not pruned may be None or anything.
      vmap_size: the number of matrices of one shape that one program prunes together.
      on_layer: called with the name of each kernel and its relative error, as `layer_errors`
        defines it, in the order in which kernels are done.
      progress: whether to print a line for each kernel.

    Returns:
      A tree with the structure, shapes, dtypes and shardings of ``params``. Pruned weights are
      exactly 0.

    Raises:
      TypeError: ``params`` or ``calibration`` are traced, a chosen leaf is not floating point,
        ``budget`` or ``vmap_size`` is not a number, ``on_layer`` cannot be called, or squared
        gradients are traced or not floating point.
      ValueError: ``budget``, ``method``, ``pattern``, ``comparison`` or ``vmap_size`` is none of
        the allowed ones, the calibration has not seen a chosen leaf or saw another shape, a group
        does not divide a kernel, a weight or a Gram matrix is not finite, or squared gradients are
        missing, of another shape, not finite or negative; the message names the kernel. Or
        ``squared_gradients`` comes without ``comparison="loss"``, or this without
        ``squared_gradients`` or ``pattern="global"``.

    Warns:
      UserWarning: Gram matrices were singular in floating point and were damped more than asked
        for; all inputs of a kernel are 0, and so all its weights become 0; or all squared gradients
        of a kernel, or of one of stacked layers, are 0, and so its weights are pruned first.
    """
    shape = parse_pattern(pattern)
    sparsity = parse_budget(budget, shape)
    chosen = check_method(method)
    comparison = check_comparison(comparison, squared_gradients, pattern)
    vmap_size = _checks.python_integer("vmap_size", vmap_size, 1)
    kernels = kernels_of(params, calibration, where)
    for kernel in kernels.kernels:
        shape.check(kernel.name, kernel.layout.outputs, kernel.layout.inputs)
    if chosen.name != "magnitude":
        _warn_of_zeros(kernels.kernels)
    if shape.kind == "global":
        gradients = None
        if squared_gradients is not None:
            layouts = {kernel.name: kernel.layout for kernel in kernels.kernels}
            gradients = check_squared_gradients(squared_gradients, layouts)
        counts = divided(kernels.kernels, cast(Fraction, sparsity), comparison, gradients)
    else:
        counts = [
            [shape.kept(sparsity, layout.outputs, layout.inputs)] * layout.batch
            for layout in (kernel.layout for kernel in kernels.kernels)
        ]
    report = Progress(len(kernels.kernels), on_layer, progress)
    pruned = _prune_all(kernels, counts, chosen, shape, vmap_size, report)
    return kernels.put_back(pruned)


def _warn_of_zeros(kernels: Sequence[Kernel]) -> None:
    """Warn of matrices all of whose inputs were 0, since all of their weights become 0."""
    for kernel in kernels:
        active = jnp.diagonal(kernel.gram, axis1=1, axis2=2) > 0
        if not bool(active.any(1).all()):
            warnings.warn(
                f"the inputs of {kernel.name} are 0 in all rows of the calibration, or their "
                "squares underflow; all of its weights become 0. Leave it out by where=, or "
                "calibrate with batches that reach it",
                UserWarning,
                stacklevel=3,
            )


class _Job(NamedTuple):
    """One matrix to be pruned."""

    kernel: Kernel
    number: int
    """Which of the kernel's matrices it is."""
    arrays: tuple[jax.Array, jax.Array, jax.Array]
    """The matrix, the moments of its inputs and how many of its items are kept."""


class _Done(NamedTuple):
    """A pruned matrix."""

    weights: Float[Array, "outputs inputs"]
    damping: Float[Array, ""]
    error: Float[Array, ""]


def _prune_all(
    kernels: Kernels,
    counts: Sequence[Sequence[int]],
    method: Method,
    pattern: Pattern,
    vmap_size: int,
    report: Progress,
) -> dict[str, Float[Array, "batch outputs inputs"]]:
    """Return the pruned matrices of each kernel."""
    results: dict[str, dict[int, _Done]] = {kernel.name: {} for kernel in kernels.kernels}
    devices = itertools.cycle(kernels.devices)
    jobs = _jobs(kernels, counts, by_shape=vmap_size > 1)
    for _, same in itertools.groupby(jobs, lambda job: job.kernel.signature):
        while part := list(itertools.islice(same, vmap_size)):
            for job, done in zip(part, _run(part, method, pattern, next(devices)), strict=True):
                found = results[job.kernel.name]
                found[job.number] = done
                if report.wanted and len(found) == job.kernel.layout.batch:
                    errors = [float(one.error) for one in found.values()]
                    report(job.kernel.name, sum(errors) / len(errors))
    _check(results)
    return {
        name: jnp.stack([jax.device_put(done[n].weights, kernels.devices[0]) for n in sorted(done)])
        for name, done in results.items()
    }


def _jobs(kernels: Kernels, counts: Sequence[Sequence[int]], by_shape: bool) -> Iterator[_Job]:
    """Yield all matrices; those of a kernel are made when its first one is asked for."""
    pairs = list(zip(kernels.kernels, counts, strict=True))
    if by_shape:
        pairs.sort(key=lambda pair: pair[0].signature)
    for kernel, own in pairs:
        matrices, moments = kernel.matrices(), kernel.moments()
        for index, count in enumerate(own):
            kept = jnp.asarray(count, jnp.int32)
            yield _Job(kernel, index, (matrices[index], moments[index], kept))


def _run(jobs: Sequence[_Job], method: Method, pattern: Pattern, device: jax.Device) -> list[_Done]:
    """Prune matrices of one shape in one program."""
    inputs = [jax.device_put(job.arrays, device) for job in jobs]
    if len(jobs) == 1:
        return [_prune_one(*inputs[0], method, pattern)]
    stacked = [jnp.stack(each) for each in zip(*inputs, strict=True)]
    done = _prune_several(*stacked, method, pattern)
    return [_Done(*(each[n] for each in done)) for n in range(len(jobs))]


@functools.partial(jax.jit, static_argnames="pattern")
def _prune_one(
    weights: jax.Array, gram: jax.Array, count: jax.Array, method: Method, pattern: Pattern
) -> _Done:
    pruned, damping = method.prune(weights, gram, pattern, count)
    return _Done(pruned, damping, relative_error(weights, pruned, gram))


@functools.partial(jax.jit, static_argnames="pattern")
def _prune_several(
    weights: jax.Array, grams: jax.Array, counts: jax.Array, method: Method, pattern: Pattern
) -> _Done:
    def one(weights: jax.Array, gram: jax.Array, count: jax.Array) -> _Done:
        done: _Done = _prune_one(weights, gram, count, method, pattern)
        return done

    return jax.vmap(one)(weights, grams, counts)


def _check(results: dict[str, dict[int, _Done]]) -> None:
    """Check that all results are finite, and say which Gram matrices were singular."""
    raised: dict[str, float] = {}
    for name, found in results.items():
        for done in found.values():
            if not bool(jnp.isfinite(done.weights).all()):
                raise ValueError(
                    f"calibration must hold Gram matrices that damping makes regular; that of "
                    f"{name} leads to weights that are not finite"
                )
            raised[name] = max(raised.get(name, 0), float(done.damping))
    raised = {name: damping for name, damping in raised.items() if damping > 0}
    if raised:
        worst = max(raised, key=raised.__getitem__)
        warnings.warn(
            f"the Gram matrices of {len(raised)} kernels were singular in floating point and were "
            f"damped more than asked for, that of {worst} by {raised[worst]:g} of its mean "
            "diagonal. More calibration batches or a higher damping avoid this",
            UserWarning,
            stacklevel=3,
        )


def check_method(method: Any) -> Method:
    """Return the method that a string names, or the method itself.

    Raises:
      ValueError: it is neither.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    raise ValueError(
        f"method must be a Method or one of {tuple(METHODS)}; got {method!r}"
        f"{_checks.call_it(method)}"
    )
