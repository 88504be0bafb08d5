"""What is left? Counts, live units, sizes; ``sparsejax.inspection.figures`` draws them."""

from sparsejax.inspection.expand import expand
from sparsejax.inspection.live_units import live_unit_masks, live_units
from sparsejax.inspection.macs import macs
from sparsejax.inspection.purge import Purged, purge
from sparsejax.inspection.report import LeafReport, Report, bzip2_bytes, report

__all__ = [
    "LeafReport",
    "Purged",
    "Report",
    "bzip2_bytes",
    "expand",
    "live_unit_masks",
    "live_units",
    "macs",
    "purge",
    "report",
]
