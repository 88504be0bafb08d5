"""The C steps of learning-compression: a projection or proximal map, weighted by mu."""

from sparsejax.compression.base import Compression
from sparsejax.compression.blocks import blocks
from sparsejax.compression.l0_ball import l0_ball, l0_ball_l2
from sparsejax.compression.l1_ball import l1_ball
from sparsejax.compression.n_m import n_m
from sparsejax.compression.penalties import l0_penalty, l1_penalty
from sparsejax.compression.units import units

__all__ = [
    "Compression",
    "blocks",
    "l0_ball",
    "l0_ball_l2",
    "l0_penalty",
    "l1_ball",
    "l1_penalty",
    "n_m",
    "units",
]
