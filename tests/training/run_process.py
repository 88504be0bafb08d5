"""One of two processes that `test_processes` starts: ``run_process.py STEPS DIE FOLDER...``.

It trains a small network with learning-compression in each folder, fully sharded over the devices
of all processes. After step DIE (if it is not 0) of the last one process 1 kills itself as
``kill -9`` would.
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


def main(steps: int, die: int, *folders: str) -> None:
    number, count = initialize_distributed()
    assert (count, jax.device_count(), jax.local_device_count()) == (2, 8, 4)
    step, params, optimizer = build()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    specs = fsdp_specs(params, mesh, smallest=240)
    for folder in folders:

        def evaluate(state, last=folder == folders[-1]):
            if number == 1 and last and int(state.step) == die:
                print(f"process 1 dies after step {die}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            return {}

        path = init_run_dir(folder, {}, resume=True)
        checkpoints = Checkpoints(path / "checkpoints", every=7)
        fit(
            step,
            init_state(params, optimizer, jax.random.key(3), mesh, specs),
            Batches(arrays(1000), 64),
            steps=steps,
            callbacks=[report(MetricLog(path), evaluate=evaluate, every=1)],
            checkpoints=checkpoints,
        )
        checkpoints.close()
        print(f"process {number} of {count} has ended at step {steps}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
