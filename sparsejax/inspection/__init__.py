"""What is left? Counts, live units, sizes; ``sparsejax.inspection.figures`` draws them."""

from sparsejax.inspection.live_units import live_unit_masks, live_units
from sparsejax.inspection.macs import macs
from sparsejax.inspection.report import LeafReport, Report, bzip2_bytes, report

__all__ = [
    "LeafReport",
    "Report",
    "bzip2_bytes",
    "live_unit_masks",
    "live_units",
    "macs",
    "report",
]
