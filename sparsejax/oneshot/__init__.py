"""Pruning without training: layer by layer, by the inputs that a few batches give each kernel."""

from sparsejax.oneshot._admm import admm
from sparsejax.oneshot._calibrate import calibrate
from sparsejax.oneshot._calibration import Calibration, KernelInputs, KernelLayout
from sparsejax.oneshot._errors import layer_errors
from sparsejax.oneshot._magnitude import magnitude
from sparsejax.oneshot._method import Method
from sparsejax.oneshot._prune import prune
from sparsejax.oneshot._prune_sequentially import prune_sequentially
from sparsejax.oneshot._sparsegpt import sparsegpt
from sparsejax.oneshot._squared_gradients import squared_gradients
from sparsejax.oneshot._swaps import swaps
from sparsejax.oneshot._wanda import wanda

__all__ = [
    "Calibration",
    "KernelInputs",
    "KernelLayout",
    "Method",
    "admm",
    "calibrate",
    "layer_errors",
    "magnitude",
    "prune",
    "prune_sequentially",
    "sparsegpt",
    "squared_gradients",
    "swaps",
    "wanda",
]
