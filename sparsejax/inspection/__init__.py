"""Inspection of sparse networks: non-zeros, live units, multiply-accumulates and bytes.

`sparsejax.inspection.figures` draws figures of them (it needs matplotlib).
"""

from sparsejax.inspection._live_units import live_unit_masks, live_units
from sparsejax.inspection._macs import macs
from sparsejax.inspection._report import LeafReport, Report, bzip2_bytes, report
from sparsejax.inspection._storage_bits import LeafBits, StorageBits, storage_bits

__all__ = [
    "LeafBits",
    "LeafReport",
    "Report",
    "StorageBits",
    "bzip2_bytes",
    "live_unit_masks",
    "live_units",
    "macs",
    "report",
    "storage_bits",
]
