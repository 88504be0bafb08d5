"""Pruning without training: layer by layer, by the inputs that a few batches give each kernel."""

from sparsejax.oneshot._calibrate import calibrate
from sparsejax.oneshot._calibration import Calibration, KernelInputs, KernelLayout

__all__ = ["Calibration", "KernelInputs", "KernelLayout", "calibrate"]
