"""Several processes that run the same program: initialisation, barriers, broadcasts."""

from __future__ import annotations

import os
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils


def initialize_distributed() -> tuple[int, int]:
    """Join the other processes of this run, if the environment names them.

    Call it before anything else of JAX. The variables ``JAX_COORDINATOR_ADDRESS`` (host:port of
    process 0), ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` name the processes; with the address
    alone, JAX asks the cluster (Slurm, Open MPI, Kubernetes, Cloud TPU) for the rest. Other
    variables that ``jax.distributed.initialize`` reads, such as
    ``JAX_COORDINATOR_BIND_ADDRESS``, have their usual effect.

    Returns:
      ``(index, count)``: the index of this process and the number of processes; ``(0, 1)`` where
      there is one.

    Raises:
      ValueError: one of the three variables is missing or not an integer.
    """
    names = ["JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"]
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    if len(given) == len(names):
        address, count, number = given.values()
        jax.distributed.initialize(address, _integer(names[1], count), _integer(names[2], number))
    elif list(given) == names[:1]:
        jax.distributed.initialize()
    elif given:
        missing = ", ".join(sorted(set(names) - given.keys()))
        raise ValueError(f"{' and '.join(sorted(given))} set, but not {missing}")
    return jax.process_index(), jax.process_count()


def is_main_process() -> bool:
    """Whether this is the main process, which writes what is written once."""
    return jax.process_index() == 0


def barrier(what: str) -> None:
    """Wait until every process has reached this point; ``what`` must be the same in all."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def broadcast_from_main(decide: Callable[[], int]) -> int:
    """Call ``decide`` in the main process and return its result in all processes.

    Raises:
      RuntimeError: in the other processes, if it raised in the main one (which raises that error).
    """
    if jax.process_count() == 1:
        return decide()
    answer, error = 0, None
    if is_main_process():
        try:
            answer = decide()
        except Exception as raised:
            error = raised
    message = np.asarray([answer, error is not None], np.int32)
    answer, failed = (int(x) for x in multihost_utils.broadcast_one_to_all(message))
    if error is not None:
        raise error
    if failed:
        raise RuntimeError("process 0 has stopped with an error; its message says why")
    return answer


def _integer(name: str, value: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"{name} must be an integer >= 0; got {value!r}")
    return int(value)
