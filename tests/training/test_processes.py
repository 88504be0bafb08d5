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


def run_two(*folders, die=0):
    """Start both, wait for the end of both, and return their exit codes and what they said.

    They train in one folder after another. Where process 1 is to die in the last one, process 0 is
    killed afterwards: it would wait for it for minutes.
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
        command = [sys.executable, str(script), str(STEPS), str(die), *map(str, folders)]
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


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs on two processes: uninterrupted, killed and resumed, and begun on eight devices.

    Two runs in each start, since starting and compiling take longer than training.
    """
    root = tmp_path_factory.mktemp("runs")
    names = ("whole", "resumed", "killed", "eight")
    whole, resumed, killed, eight = (root / name for name in names)
    codes, said = run_two(whole, resumed, die=DIES)
    assert codes == [-9, -9], said
    assert f"process 1 dies after step {DIES}" in said[1]
    shutil.copytree(resumed, killed)
    train_on_eight_devices(eight)
    codes, said = run_two(resumed, eight)
    assert codes == [0, 0], said
    return dict(zip(names, (whole, resumed, killed, eight), strict=True))


def train_on_eight_devices(folder):
    """The first steps, on the eight devices of this process."""
    step, params, optimizer = build()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    specs = fsdp_specs(params, mesh, smallest=240)
    state = init_state(params, optimizer, jax.random.key(3), mesh, specs)
    checkpoints = Checkpoints(init_run_dir(folder, {}, resume=False) / "checkpoints")
    fit(step, state, BATCHES, steps=SAVED, checkpoints=checkpoints)
    checkpoints.close()


@pytest.mark.long
def test_a_kill_leaves_whole_checkpoints_and_one_process_goes_on(folders, on_one_device, tmp_path):
    killed = shutil.copytree(folders["killed"], tmp_path / "killed")
    assert sorted(int(path.stem) for path in (killed / "checkpoints/sums").iterdir()) == [7, 14]
    steps = [row["step"] for row in read_metrics(killed)]
    # Process 0 may report once more.
    assert steps in (list(range(1, DIES)), list(range(1, DIES + 1)))
    checkpoints = Checkpoints(killed / "checkpoints")
    final = fit(build()[0], start(), BATCHES, steps=STEPS, checkpoints=checkpoints)
    assert_close(final, on_one_device)


def test_two_processes_resume_to_the_same_bits(folders, on_one_device):
    resumed, whole = (saved(folders[name], STEPS) for name in ("resumed", "whole"))
    assert_close(whole, on_one_device)
    for new, old in zip(
        jax.tree.leaves(resumed.params), jax.tree.leaves(whole.params), strict=True
    ):
        np.testing.assert_array_equal(new, old)
    rows = [read_metrics(folders[name]) for name in ("resumed", "whole")]
    for one in rows:
        assert [row["step"] for row in one] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]


def test_a_checkpoint_of_eight_devices_resumes_on_two_processes(folders, on_one_device):
    assert [row["step"] for row in read_metrics(folders["eight"])] == [*range(SAVED + 1, STEPS + 1)]
    assert_close(saved(folders["eight"], STEPS), on_one_device)


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
