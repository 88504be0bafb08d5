"""How hard to push? Lagrange multipliers for any differentiable constraint."""

from sparsejax.constraints.anneal_bound import AnnealBoundState, anneal_bound
from sparsejax.constraints.constrained_step import constrained_step
from sparsejax.constraints.density import (
    Group,
    density_violation,
    expected_density,
    parameter_groups,
)
from sparsejax.constraints.descent_ascent import (
    DescentAscentState,
    current_multipliers,
    descent_ascent,
)
from sparsejax.constraints.dual_ascent import DualAscentState, dual_ascent
from sparsejax.constraints.lagrangian import augmented_lagrangian, lagrangian
from sparsejax.constraints.nupi import NuPIState, nupi

__all__ = [
    "AnnealBoundState",
    "DescentAscentState",
    "DualAscentState",
    "Group",
    "NuPIState",
    "anneal_bound",
    "augmented_lagrangian",
    "constrained_step",
    "current_multipliers",
    "density_violation",
    "descent_ascent",
    "dual_ascent",
    "expected_density",
    "lagrangian",
    "nupi",
    "parameter_groups",
]
