"""One of two processes that `test_processes` starts: ``run_process.py FOLDER STEPS DIE``.

It trains a small network with learning-compression, fully sharded over the devices of all
processes. After step DIE (if it is not 0) process 1 kills itself as ``kill -9`` would.
"""

import os
import signal
import sys

import jax
import numpy as np
from jax.sharding import Mesh

from sparsejax.training import (
    Batches,
    Checkpoints,
    MetricLog,
    fit,
    fsdp_specs,
    init_run_dir,
    init_state,
    initialize_distributed,
    report,
)
from tests.training.mlp import arrays, build


def main(folder: str, steps: int, die: int) -> None:
    number, count = initialize_distributed()
    assert (count, jax.device_count(), jax.local_device_count()) == (2, 8, 4)

    def evaluate(state):
        if number == 1 and int(state.step) == die:
            print(f"process 1 dies after step {die}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    step, params, optimizer = build()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    specs = fsdp_specs(params, mesh, smallest=240)
    path = init_run_dir(folder, {}, resume=True)
    fit(
        step,
        init_state(params, optimizer, jax.random.key(3), mesh, specs),
        Batches(arrays(1000), 64),
        steps=steps,
        callbacks=[report(MetricLog(path), evaluate=evaluate, every=1)],
        checkpoints=Checkpoints(path / "checkpoints", every=7),
    )
    print(f"process {number} of {count} has ended at step {steps}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
