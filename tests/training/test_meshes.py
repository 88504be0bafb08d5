"""Training on a mesh of eight simulated devices: the same numbers as on one."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from sparsejax.training import Batches, Checkpoints, fit, fsdp_specs, init_state
from tests.training.mlp import arrays, assert_close, build

STEPS = 30  # of 15 an epoch; the C steps come at 10, 20 and 30
STEP, PARAMS, OPTIMIZER = build()  # one step, so that its programs are compiled once


def mesh(shape=(8,), names=("data",), explicit=False):
    if explicit:
        return jax.make_mesh(shape, names)
    return Mesh(np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape), names)


MESHES = {
    "data parallel": (mesh(), None, ["python"]),
    "fully sharded": (mesh(), "fsdp", ["scan", "python"]),
    "sharded on one axis of two": (mesh((2, 4), ("data", "fsdp")), "fsdp", ["python"]),
    "explicit axes": (mesh((2, 4), ("data", "fsdp"), explicit=True), "fsdp", ["python"]),
}


DATA = arrays(1000)


@pytest.fixture(scope="module")
def on_one_device():
    return fit(STEP, start(), Batches(DATA, 64), steps=STEPS, loop="python")


def start(on=None, kind="fsdp"):
    """The first state, on a mesh or on one device."""
    specs = None if on is None else specs_for(on, kind, PARAMS)
    return init_state(PARAMS, OPTIMIZER, jax.random.key(3), on, specs)


def specs_for(on, kind, params):
    return (
        None
        if kind is None
        else fsdp_specs(params, on, [n for n in on.axis_names if n == "fsdp"] or None, 240)
    )


@pytest.mark.parametrize(
    ("name", "loop"),
    [(name, loop) for name, (_, _, loops) in MESHES.items() for loop in loops],
)
def test_a_mesh_gives_the_numbers_of_one_device(name, loop, on_one_device):
    on, kind, _ = MESHES[name]
    state = start(on, kind)
    batches = Batches(DATA, 64, device_bytes=2**31 if loop == "scan" else 0)
    final = fit(STEP, state, batches, steps=STEPS, loop=loop)
    assert_close(final, on_one_device)
    for new, old in zip(jax.tree.leaves(final), jax.tree.leaves(state), strict=True):
        assert new.sharding.is_equivalent_to(old.sharding, new.ndim)


def test_a_source_of_batches_is_dealt_out_over_the_mesh(on_one_device):
    batches = Batches(DATA, 64)

    class Source:
        batch_size, steps_per_epoch, block = 64, batches.steps_per_epoch, batches.block

    state = start(mesh(), None)
    assert_close(fit(STEP, state, Source(), steps=STEPS, loop="python"), on_one_device)


def test_a_users_pmap_loop(on_one_device):
    """Replicated state, a part of the batch on each device, gradients averaged."""
    _, params, optimizer = build()
    step, _, _ = build(axis_name="batch")
    state = init_state(params, optimizer, jax.random.key(3))
    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (8, *leaf.shape)), state)
    mapped = jax.pmap(step, axis_name="batch")
    for number in range(STEPS):
        epoch, position = divmod(number, 1000 // 64)
        order = np.random.default_rng([0, epoch]).permutation(1000)
        rows = order[position * 64 : (position + 1) * 64].reshape(8, 8)
        state, metrics = mapped(state, {name: array[rows] for name, array in DATA.items()})
    assert metrics["loss"].shape == (8,)
    for leaf in jax.tree.leaves(state.params):
        np.testing.assert_array_equal(leaf[0], leaf[7])
    assert_close(jax.tree.map(lambda leaf: leaf[0], state), on_one_device)


@pytest.fixture(scope="module")
def of_eight_devices(tmp_path_factory):
    """The folder of a run that ended at step 14."""
    folder = tmp_path_factory.mktemp("eight")
    checkpoints = Checkpoints(folder)
    batches = Batches(DATA, 64, device_bytes=0)
    fit(STEP, start(mesh()), batches, steps=14, loop="python", checkpoints=checkpoints)
    return folder


@pytest.mark.parametrize("devices", [1, 4])
def test_a_checkpoint_of_eight_devices_resumes_on_fewer(
    devices, of_eight_devices, on_one_device, tmp_path
):
    target = start(mesh((devices,)) if devices > 1 else None)
    checkpoints = Checkpoints(shutil.copytree(of_eight_devices, tmp_path / "copy"))
    assert checkpoints.steps() == [14]
    batches = Batches(DATA, 64)
    final = fit(STEP, target, batches, steps=STEPS, loop="python", checkpoints=checkpoints)
    assert_close(final, on_one_device)
    for new, old in zip(jax.tree.leaves(final), jax.tree.leaves(target), strict=True):
        assert new.sharding.is_equivalent_to(old.sharding, new.ndim)
