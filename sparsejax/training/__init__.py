"""The jitted loop: step, fit, checkpoint and resume, metrics.

`Checkpoints`, `MetricLog` and `ProgressBar` need packages of the ``experiments`` extra.
"""

from sparsejax._train_state import TrainState
from sparsejax.training._batches import ArrayData, Batches, BatchSource
from sparsejax.training._callbacks import Callback, StopWhen, Writer, report, revise
from sparsejax.training._checkpoints import CheckpointError, Checkpoints, write_json
from sparsejax.training._fit import TrainingDivergedError, fit
from sparsejax.training._folder import init_run_dir
from sparsejax.training._make_step import StepFunction, make_step
from sparsejax.training._meshes import fsdp_specs
from sparsejax.training._metrics import MetricLog, ProgressBar, read_metrics
from sparsejax.training._processes import initialize_distributed
from sparsejax.training._state import init_state

__all__ = [
    "ArrayData",
    "BatchSource",
    "Batches",
    "Callback",
    "CheckpointError",
    "Checkpoints",
    "MetricLog",
    "ProgressBar",
    "StepFunction",
    "StopWhen",
    "TrainState",
    "TrainingDivergedError",
    "Writer",
    "fit",
    "fsdp_specs",
    "init_run_dir",
    "init_state",
    "initialize_distributed",
    "make_step",
    "read_metrics",
    "report",
    "revise",
    "write_json",
]
