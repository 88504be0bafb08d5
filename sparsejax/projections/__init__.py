"""Which theta is nearest to w? Exact, jittable projections and proximal maps of pytrees."""

from sparsejax.projections.blocks import project_blocks
from sparsejax.projections.l0_ball import project_l0_ball
from sparsejax.projections.l1_ball import project_l1_ball
from sparsejax.projections.n_m import project_n_m
from sparsejax.projections.thresholds import hard_threshold, soft_threshold
from sparsejax.projections.top_k_mask import top_k_mask
from sparsejax.projections.units import project_units

__all__ = [
    "hard_threshold",
    "project_blocks",
    "project_l0_ball",
    "project_l1_ball",
    "project_n_m",
    "project_units",
    "soft_threshold",
    "top_k_mask",
]
