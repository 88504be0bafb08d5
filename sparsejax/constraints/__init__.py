"""How hard to push? Lagrange multipliers for any differentiable constraint."""

from sparsejax.constraints._anneal_bound import AnnealBoundState, anneal_bound
from sparsejax.constraints._constrained_step import constrained_step
from sparsejax.constraints._density import (
    Group,
    density_violation,
    expected_density,
    parameter_groups,
)
from sparsejax.constraints._descent_ascent import (
    DescentAscentState,
    current_multipliers,
    descent_ascent,
)
from sparsejax.constraints._dual_ascent import DualAscentState, dual_ascent
from sparsejax.constraints._lagrangian import augmented_lagrangian, lagrangian
from sparsejax.constraints._nupi import NuPIState, nupi

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
