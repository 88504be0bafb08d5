"""The jitted loop: step, fit, checkpoint and resume, metrics. Needs the ``experiments`` extra."""

from sparsejax.training.batches import Batches, BatchSource
from sparsejax.training.checkpoints import CheckpointError, Checkpoints, write_json
from sparsejax.training.folder import init_run_dir
from sparsejax.training.loop import TrainingDivergedError, fit
from sparsejax.training.meshes import fsdp_specs
from sparsejax.training.metrics import MetricLog, read_metrics
from sparsejax.training.processes import initialize_distributed
from sparsejax.training.state import TrainState, init_state, make_step

__all__ = [
    "BatchSource",
    "Batches",
    "CheckpointError",
    "Checkpoints",
    "MetricLog",
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
