"""Constrained optimisation with Lagrange multipliers, for any differentiable constraint.

A dual optimizer (`dual_ascent`, `nupi`, perhaps behind `anneal_bound`) is an
``optax.GradientTransformation`` whose parameters are the multipliers and whose updates are the
constraint violations. `descent_ascent` pairs it with an optimizer of the parameters,
`constrained_step` is one training step, and `density_violation` is the constraint on the expected
density of gates.
"""

from sparsejax.constraints._anneal_bound import AnnealBoundState, anneal_bound
from sparsejax.constraints._constrained_step import constrained_step
from sparsejax.constraints._density import (
    GateGroup,
    density_violation,
    expected_density,
    gate_groups,
)
from sparsejax.constraints._descent_ascent import (
    DescentAscentState,
    current_multipliers,
    descent_ascent,
)
from sparsejax.constraints._dual_ascent import DualAscentState, dual_ascent
from sparsejax.constraints._implicit_multipliers import Implicit, implicit_multipliers
from sparsejax.constraints._indexed import Indexed, indexed
from sparsejax.constraints._lagrangian import augmented_lagrangian, lagrangian
from sparsejax.constraints._nupi import NuPIState, nupi
from sparsejax.constraints._surrogate import with_surrogate
from sparsejax.constraints._update_penalty import update_penalty

__all__ = [
    "AnnealBoundState",
    "DescentAscentState",
    "DualAscentState",
    "GateGroup",
    "Implicit",
    "Indexed",
    "NuPIState",
    "anneal_bound",
    "augmented_lagrangian",
    "constrained_step",
    "current_multipliers",
    "density_violation",
    "descent_ascent",
    "dual_ascent",
    "expected_density",
    "gate_groups",
    "implicit_multipliers",
    "indexed",
    "lagrangian",
    "nupi",
    "update_penalty",
    "with_surrogate",
]
