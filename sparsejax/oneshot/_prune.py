"""Pruning of the kernels of a network, each by itself, in one call."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, cast

from jaxtyping import Array, PyTree

from sparsejax import _checks
from sparsejax._where import Where
from sparsejax.oneshot._admm import admm
from sparsejax.oneshot._calibration import Calibration
from sparsejax.oneshot._comparison import Comparison, check_comparison, divided
from sparsejax.oneshot._kernel_budgets import equal_budgets
from sparsejax.oneshot._kernels import kernels_of
from sparsejax.oneshot._magnitude import magnitude
from sparsejax.oneshot._method import Method
from sparsejax.oneshot._patterns import parse_budget, parse_pattern
from sparsejax.oneshot._progress import OnLayer, Progress
from sparsejax.oneshot._prune_kernels import prune_kernels
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
      since no weights of other outputs can compensate for them.
    - ``"inputs"``, ``"inputs/64"``: inputs of a kernel, or groups of 64 of them, such as the heads
      that an attention's output kernel reads.

    For ``"global"`` the weights of all kernels are ranked by what the error of a kernel's outputs
    grows by if a weight is pruned and the others compensate for it, which is
    :math:`w_{ij}^2 / [G^{-1}]_{jj}` (G damped by a tenth). This decides how many weights each
    kernel keeps; which, the method decides. The errors of different kernels are made comparable by
    ``comparison``:

    - ``"balanced"``: in units of the error that the kernel would have at the sparsity of the whole.
      The product of all errors is made small.
    - ``"relative"``: in units of the squared outputs of the kernel. The sum of relative errors is
      made small.
    - ``"absolute"``: as they are. The sum of squared errors is made small.
    - ``"loss"``: for each output in units of what its error costs the loss,
      :math:`S_o = \sum_i v_{oi} / \sum_i G_{ii}` with the mean squared gradients v of the weights
      (K-FAC's assumption: inputs are independent of the gradients of outputs, and rows
      uncorrelated). What the loss grows by, to second order, is made small. The method then
      minimises the squared errors of a kernel's outputs weighted by
      :math:`\sqrt{S_o / \overline{S}}`; methods that ignore the inputs, such as ``"magnitude"``,
      minimise none. The square root keeps outputs of small :math:`S_o` from losing nearly all of
      their weights, for which the second order is too little.

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
      comparison: ``"balanced"``, ``"relative"``, ``"absolute"`` or ``"loss"``; for other patterns
        than ``"global"`` there is nothing to compare, and it has to stay ``"balanced"``.
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
        ``squared_gradients`` comes without ``comparison="loss"`` or this without
        ``squared_gradients``, or a ``comparison`` is given for another pattern than ``"global"``.

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
    if shape.kind == "global":
        gradients = None
        if squared_gradients is not None:
            layouts = {kernel.name: kernel.layout for kernel in kernels.kernels}
            gradients = check_squared_gradients(squared_gradients, layouts)
        budgets = divided(kernels.kernels, cast(Fraction, sparsity), comparison, gradients)
    else:
        budgets = equal_budgets(kernels.kernels, shape, sparsity)
    report = Progress(len(kernels.kernels), on_layer, progress)
    return prune_kernels(kernels, budgets, chosen, shape, vmap_size, report)


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
