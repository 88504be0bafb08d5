"""The rule of ``sharding_constraint``: the result is the operand.

Where units have left, their number may be no multiple of that of the devices any more, so the
compiler shards the rest as it likes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sparsejax.graph._rule import Equation, SlicedGraph
from sparsejax.graph.rules.optimization_barrier import RULE


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    return list(operands)


RULES = {"sharding_constraint": dataclasses.replace(RULE, evaluate=_evaluate)}
