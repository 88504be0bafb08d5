"""Training under each setting of JAX that users switch on."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sparsejax.training import (
    Batches,
    Checkpoints,
    MetricLog,
    fit,
    fsdp_specs,
    init_state,
    make_step,
    read_metrics,
    report,
)

X = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
DATA = {"x": X, "y": (X[:, 0] > 0).astype(np.int32)}


def loss(params, batch, key):
    noise = 0.01 * jax.random.normal(key, (2,), params["b"].dtype)
    logits = batch["x"].astype(params["k"].dtype) @ params["k"] + params["b"] + noise
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"error": (logits.argmax(-1) != batch["y"]).mean()}


def train(folder, dtype="float32", make_key=jax.random.key, mesh=None, shard=None):
    """A run that is interrupted, on a mesh or on none: its loss and its last kernel."""
    params = {"k": jnp.ones((8, 2), dtype), "b": jnp.zeros(2, dtype)}
    if shard is not None:
        params = {"k": shard(params["k"], "i"), "b": shard(params["b"])}
    optimizer = optax.sgd(0.1, momentum=0.9)
    specs = None if mesh is None else fsdp_specs(params, mesh, smallest=1)
    state = init_state(params, optimizer, make_key(0), mesh, specs)
    step = make_step(loss, optimizer)
    folder.mkdir(exist_ok=True)
    for steps in (5, 9):
        final = fit(
            step, state, Batches(DATA, 16), steps=steps, callbacks=[report(MetricLog(folder))],
            checkpoints=Checkpoints(folder, every=3), learning_rate=optax.constant_schedule(0.1),
        )  # fmt: skip
    assert final.params["k"].dtype == dtype
    return np.append(np.asarray(final.params["k"], np.float64), read_metrics(folder)[-1]["loss"])


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return train(tmp_path_factory.mktemp("run"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        (
            [lambda: jax.numpy_dtype_promotion("strict"), lambda: jax.debug_nans(True)],
            {"make_key": jax.random.PRNGKey},
        ),
        ([lambda: jax.enable_x64(True)], {"make_key": jax.random.PRNGKey}),
        ([lambda: jax.enable_x64(True)], {"dtype": "float64"}),
        ([], {"dtype": "bfloat16"}),
    ],
    ids=["strict debug_nans", "x64", "x64 float64", "bfloat16"],
)
def test_the_numbers_do_not_depend_on_the_settings(settings, arguments, expected, tmp_path):
    with contextlib.ExitStack() as stack:
        for setting in settings:
            stack.enter_context(setting())
        found = train(tmp_path, **arguments)
    # Under x64 the noise is drawn from other bits, in bfloat16 it is rounded.
    np.testing.assert_allclose(found, expected, atol=0.03 if arguments.get("dtype") else 1e-5)


def test_on_meshes_of_explicit_axes(expected, tmp_path):
    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Explicit,))
    told = train(tmp_path / "told", mesh=mesh, make_key=jax.random.PRNGKey)
    np.testing.assert_allclose(told, expected, atol=1e-5)
    with jax.set_mesh(mesh):

        def shard(leaf, *spec):
            return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

        found = train(tmp_path / "found", shard=shard)
    np.testing.assert_allclose(found, expected, atol=1e-5)
