"""The rules of ``sort``, with all operands in the order of the first ones, and ``top_k``.

Units that change their order are unsupported; those of which the largest are chosen, such as
experts, are numbered and stay.
"""

from __future__ import annotations

from sparsejax.graph._rule import AxisConstants, ConstantFinder, Equation, GroupBuilder, Rule


def _axis(equation: Equation) -> int:
    """Return the dimension along which entries change their order."""
    name = "dimension" if equation.name == "sort" else "axis"
    return int(equation.params[name])


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    first, axis = equation.ins[0], _axis(equation)
    if equation.name == "sort":
        builder.unsupported(equation, first, [axis])
    else:
        builder.keep_whole(first, [axis])
    for value in (*equation.ins[1:], *equation.outs):
        for other in range(len(builder.graph.shapes[first])):
            if other != axis or equation.name == "sort":
                builder.same(first, other, value, other)
            else:
                builder.keep_whole(value, [axis])


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    """A unit of equal entries stays one, whatever their order."""
    axis = _axis(equation)
    values = equation.ins if equation.name == "sort" else equation.ins[:1]
    found: list[AxisConstants] = [
        {a: units for a, units in finder.all_along(value).items() if a != axis} for value in values
    ]
    return found if equation.name == "sort" else [*found, {}]  # the indices are left out


RULES = {
    "sort": Rule(groups=_groups, constants=_constants),
    "top_k": Rule(groups=_groups, constants=_constants),
}
