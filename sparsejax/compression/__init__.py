"""The C steps of learning-compression, and the forms of the weights that they compress.

A C step is a projection or a proximal map weighted by mu.
"""

from sparsejax._forms import (
    LowRankArray,
    QuantizedArray,
    RoundedArray,
    ScaledArray,
    SumArray,
    decode,
)
from sparsejax.compression._additive import AdditiveState, additive
from sparsejax.compression._base import Compression
from sparsejax.compression._binary import binary
from sparsejax.compression._blocks import blocks
from sparsejax.compression._l0_ball import l0_ball
from sparsejax.compression._l0_ball_l2 import l0_ball_l2
from sparsejax.compression._l1_ball import l1_ball
from sparsejax.compression._low_rank import low_rank
from sparsejax.compression._n_m import n_m
from sparsejax.compression._partition import PartitionState, partition
from sparsejax.compression._penalties import l0_penalty, l1_penalty
from sparsejax.compression._quantize import QuantizeState, quantize
from sparsejax.compression._rank_selection import RankSelectionState, rank_selection
from sparsejax.compression._ternary import ternary
from sparsejax.compression._units import units

__all__ = [
    "AdditiveState",
    "Compression",
    "LowRankArray",
    "PartitionState",
    "QuantizeState",
    "QuantizedArray",
    "RankSelectionState",
    "RoundedArray",
    "ScaledArray",
    "SumArray",
    "additive",
    "binary",
    "blocks",
    "decode",
    "l0_ball",
    "l0_ball_l2",
    "l0_penalty",
    "l1_ball",
    "l1_penalty",
    "low_rank",
    "n_m",
    "partition",
    "quantize",
    "rank_selection",
    "ternary",
    "units",
]
