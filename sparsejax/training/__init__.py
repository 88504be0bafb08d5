"""The jitted loop: step, fit, checkpoint and resume, metrics. Needs the ``experiments`` extra."""

from sparsejax.training._batches import ArrayData, Batches, BatchSource
from sparsejax.training._checkpoints import CheckpointError, Checkpoints, write_json
from sparsejax.training._folder import init_run_dir
from sparsejax.training._loop import TrainingDivergedError, fit
from sparsejax.training._meshes import fsdp_specs
from sparsejax.training._metrics import MetricLog, read_metrics
from sparsejax.training._processes import initialize_distributed
from sparsejax.training._state import StepFunction, TrainState, init_state, make_step

__all__ = [
    "ArrayData",
    "BatchSource",
    "Batches",
    "CheckpointError",
    "Checkpoints",
    "MetricLog",
    "StepFunction",
    "TrainState",
    "TrainingDivergedError",
    "fit",
    "fsdp_specs",
    "init_run_dir",
    "init_state",
    "initialize_distributed",
    "make_step",
    "read_metrics",
    "write_json",
]
