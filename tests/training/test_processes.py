"""Two real processes on loopback, four simulated devices each."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from sparsejax.training import (
    Batches,
    Checkpoints,
    fit,
    fsdp_specs,
    init_run_dir,
    init_state,
    initialize_distributed,
    read_metrics,
)
from tests import flags
from tests.training import mlp
from tests.training.mlp import assert_close, build

STEPS, SAVED, DIES = 23, 14, 17
HUNG = 1800  # seconds after which processes are taken to wait for each other for ever
BATCHES = Batches(mlp.arrays(1000), 64)
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def on_one_device():
    return fit(build()[0], start(), BATCHES, steps=STEPS)


def start():
    _, params, optimizer = build()
    return init_state(params, optimizer, jax.random.key(3))


def run_two(folder, steps=STEPS, die=0):
    """Start both, wait for the end of both, and return their exit codes and what they said.

    Where process 1 is to die, process 0 is killed afterwards: it would wait for it for minutes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes, outputs = [], []
    for number in range(2):
        environment = os.environ | {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_COORDINATOR_BIND_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(number),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags.for_commands()} --xla_force_host_platform_device_count=4",
            "PYTHONPATH": str(ROOT),
        }
        script = pathlib.Path(__file__).with_name("run_process.py")
        command = [sys.executable, str(script), str(folder), str(steps), str(die)]
        outputs.append(tempfile.TemporaryFile())  # noqa: SIM115  closed below
        processes.append(
            subprocess.Popen(command, env=environment, stdout=outputs[-1], stderr=subprocess.STDOUT)
        )
    try:
        processes[1].wait(HUNG)
        if die:
            processes[0].kill()
        processes[0].wait(HUNG)
    finally:
        said = []
        for process, output in zip(processes, outputs, strict=True):
            process.kill()
            output.seek(0)
            said.append(output.read().decode())
            output.close()
    return [process.wait() for process in processes], said


def saved(folder, step):
    """The state in the newest checkpoint of a run, on one device."""
    checkpoints = Checkpoints(folder / "checkpoints")
    restored = checkpoints.restore(start())
    checkpoints.close()
    assert restored.step == step
    return restored.state


def test_killed_and_resumed_on_two_processes_and_on_one(on_one_device, tmp_path):
    killed, whole, alone = (tmp_path / name for name in ("killed", "whole", "alone"))
    codes, said = run_two(killed, die=DIES)
    assert codes == [-9, -9], said
    assert f"process 1 dies after step {DIES}" in said[1]
    assert sorted(int(path.stem) for path in (killed / "checkpoints/sums").iterdir()) == [7, 14]
    steps = [row["step"] for row in read_metrics(killed)]
    assert steps in (
        list(range(1, DIES)),
        list(range(1, DIES + 1)),
    )  # process 0 may report once more
    shutil.copytree(killed, alone)
    final = fit(
        build()[0], start(), BATCHES, steps=STEPS,
        checkpoints=Checkpoints(alone / "checkpoints"),
    )  # fmt: skip
    assert_close(final, on_one_device)

    codes, said = run_two(killed)
    assert codes == [0, 0], said
    codes, said = run_two(whole)
    assert codes == [0, 0], said
    resumed, uninterrupted = saved(killed, STEPS), saved(whole, STEPS)
    assert_close(uninterrupted, on_one_device)
    for new, old in zip(
        jax.tree.leaves(resumed.params), jax.tree.leaves(uninterrupted.params), strict=True
    ):
        np.testing.assert_array_equal(new, old)
    for folder in (killed, whole):
        rows = read_metrics(folder)
        assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    losses = [[row["loss"] for row in read_metrics(folder)] for folder in (killed, whole)]
    assert losses[0] == losses[1]


def test_a_checkpoint_of_eight_devices_resumes_on_two_processes(on_one_device, tmp_path):
    step, params, optimizer = build()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    specs = fsdp_specs(params, mesh, smallest=240)
    state = init_state(params, optimizer, jax.random.key(3), mesh, specs)
    checkpoints = Checkpoints(init_run_dir(tmp_path, {}, resume=False) / "checkpoints")
    fit(step, state, BATCHES, steps=SAVED, checkpoints=checkpoints)
    codes, said = run_two(tmp_path)
    assert codes == [0, 0], said
    assert_close(saved(tmp_path, STEPS), on_one_device)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"JAX_NUM_PROCESSES": "2"},
            "JAX_NUM_PROCESSES set, but not JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID",
        ),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1",
                "JAX_NUM_PROCESSES": "two",
                "JAX_PROCESS_ID": "0",
            },
            "JAX_NUM_PROCESSES must be an integer >= 0; got 'two'",
        ),
    ],
)
def test_a_wrong_environment_is_named(given, message, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        initialize_distributed()


def test_alone_there_is_nothing_to_start():
    assert initialize_distributed() == (0, 1)
