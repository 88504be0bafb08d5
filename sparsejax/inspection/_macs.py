"""Multiply-accumulates of a forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, PyTree

from sparsejax._forms import without_forms
from sparsejax.graph import (
    RULES,
    Equation,
    Graph,
    abstract,
    batched_inputs,
    fixed_values,
    trace,
    with_batch,
)

COUNTS = ("products", "published")


def macs(
    function: Callable[..., PyTree[Array]],
    params: PyTree[Array],
    *inputs: PyTree[Array],
    count: Literal["products", "published"] = "products",
    batched: PyTree[bool] | None = None,
) -> int:
    r"""Count the multiply-accumulates of one example's forward pass in the function's jaxpr.

    Matrix products (``dot_general``) and convolutions are counted with all of their weights,
    including zeros; those of a convolution at each position of its output, and those of a ``scan``
    in each of its steps. For a pruned network,
    count the result of ``sparsejax.deploy.shrink`` (``macs(small.function, small.params,
    images)``). Nothing is computed.

    Papers on pruning count differently. ``"products"`` is the number of multiplications in
    products. ``"published"`` is the count of constrained L0 (Gallego-Posada et al., 2022): the
    products, plus one for each entry that a bias is added to, that a ReLU is applied to, and that a
    pooling returns:

    .. math:: \sum_l \left(k_l n_l + n_l [\text{bias}] + n_l [\text{ReLU}]\right) + \sum_p n_p

    with :math:`n_l` entries of the output of layer :math:`l`, each a sum of :math:`k_l` products,
    and :math:`n_p` those of pooling :math:`p`. The dense networks of that paper have

    ========================  ==========  ===========
    network                   products    published
    ========================  ==========  ===========
    MLP 784-300-100-10        266,200     267,010
    LeNet5 20-50-500-10       2,293,000   2,327,130
    ========================  ==========  ===========

    where LeNet5 applies ReLU before it pools. `sparsejax.models.LeNet5` pools first, which is the
    same function with a ReLU of fewer entries: 2,316,090.

    Args:
      function: ``function(params, *inputs)``, pure.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``. Forms of compressed arrays count as
        their arrays; to count factors as two products, pass what
        ``sparsejax.deploy.decode_network`` returns.
      *inputs: arrays or ``jax.ShapeDtypeStruct``; the first dimension is the batch, of which one
        example is counted.
      count: what is counted. For ``"published"``, a bias is an array, computed from parameters
        alone, that is added or subtracted; a ReLU is a maximum with 0; a pooling is a reduction
        over windows.
      batched: which inputs have a batch as their first dimension: a bool for each input, or a tree
        of bools that is a prefix of ``inputs``; ``False`` counts a whole call. By default, as in
        ``sparsejax.deploy.export_onnx``.

    Returns:
      The number of multiply-accumulates.

    Raises:
      ValueError: there are products in a ``while`` loop or a branch; ``count`` is unknown; it is
        not clear which inputs have a batch; ``function`` cannot be traced for one example.

    References:
      Gallego-Posada et al., Controlled sparsity via constrained optimization or: how I learned to
      stop tuning penalties and love constraints, NeurIPS 2022.
    """
    if count not in COUNTS:
        raise ValueError(f"count must be one of {COUNTS}; got {count!r}")
    params = without_forms(params)
    one = with_batch(inputs, _batched(function, params, inputs, batched), 1)
    try:
        graph = trace(function, params, one)
    except Exception as error:
        raise ValueError(
            f"function cannot be traced for one example ({type(error).__name__}: {error}); "
            "batched=False counts a whole call with the inputs as they are"
        ) from error
    total = _total(graph.equations, lambda equation: _products(graph, equation))
    return total if count == "products" else total + _others(graph)


def _batched(
    function: Callable[..., PyTree], params: PyTree, inputs: Sequence[PyTree], batched: PyTree
) -> Sequence[bool]:
    leaves = jax.tree.leaves(abstract(list(inputs)))
    if batched is None and not any(leaf.shape for leaf in leaves):
        return [False] * len(leaves)
    return batched_inputs(function, params, inputs, batched)


def _total(equations: Sequence[Equation], count: Callable[[Equation], int]) -> int:
    """Return the sum of the counts of equations; those of a scan count in each of its steps."""
    total = 0
    for equation in equations:
        if equation.body is None:
            total += count(equation)
        else:
            total += int(equation.params["length"]) * _total(equation.body.equations, count)
    return total


def _products(graph: Graph, equation: Equation) -> int:
    rule = RULES.get(equation.name)
    if rule is not None and rule.multiply_accumulates is not None:
        return rule.multiply_accumulates(graph, equation)
    if _holds_products(equation.params):
        raise ValueError(
            f"function holds products in a {equation.name}; macs counts only those that are "
            "computed once each"
        )
    return 0


def _is_product(name: str) -> bool:
    return name in RULES and RULES[name].multiply_accumulates is not None


def _holds_products(params: dict[str, Any]) -> bool:
    """Return whether there are products in the jaxprs that a primitive runs."""
    return any(
        _is_product(inner.primitive.name) or _holds_products(inner.params)
        for jaxpr in jax.tree.leaves(params)
        for inner in getattr(jaxpr, "eqns", ())
    )


def _others(graph: Graph) -> int:
    """Count the entries that a bias is added to, of a ReLU and of the output of a pooling."""
    fixed = fixed_values(graph)

    def is_bias(value: int) -> bool:
        return fixed[value] and graph.shapes[value] != ()

    def is_zero(value: int) -> bool:
        number = graph.literals.get(value)
        return number is not None and bool(np.asarray(number) == 0)

    def counted(equation: Equation) -> int:
        computed = not all(fixed[value] for value in equation.ins)
        if computed and (
            (equation.name in ("add", "sub") and any(map(is_bias, equation.ins)))
            or (equation.name == "max" and any(map(is_zero, equation.ins)))
            or equation.name.startswith("reduce_window_")
        ):
            return math.prod(graph.shapes[equation.outs[0]])
        return 0

    return _total(graph.equations, counted)
