"""The sharding of states, batches and C steps over a mesh of eight simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import sparsejax
from sparsejax.compression import l0_ball
from sparsejax.training import fsdp_specs, init_state
from sparsejax.training._meshes import batch_sharding, place, specs_like
from tests.training.mlp import build


def mesh(shape=(8,), names=("data",)):
    return Mesh(np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape), names)


def test_fully_sharded_means_that_no_device_holds_more_than_its_part():
    _, params, optimizer = build()
    on = mesh()
    specs = fsdp_specs(params, on, smallest=240)
    state = init_state(params, optimizer, jax.random.key(3), on, specs)
    kernels = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 2]
    assert len(kernels) == 3 * 4  # parameters, momentum, theta and multipliers
    for leaf in kernels:
        assert leaf.addressable_shards[0].data.size == leaf.size / 8


def test_a_step_on_a_mesh_gathers_no_theta():
    """Weights are gathered to be multiplied; what only the C step sees is not."""
    _, params, optimizer = build()
    on = mesh()
    state = init_state(
        params, optimizer, jax.random.key(3), on, fsdp_specs(params, on, smallest=240)
    )
    project = jax.jit(optimizer.update).lower(state.params, state.opt_state, state.params).compile()
    assert "all-reduce" in project.as_text()
    assert not any(op in project.as_text() for op in ("all-gather", "all-to-all"))


def test_a_users_shard_map_loop_with_theta_cut_up():
    """The C step is told by specs what its piece of the weights is a piece of."""
    on = mesh()
    weights = {"kernel": jax.random.normal(jax.random.key(0), (64, 30))}
    specs = {"kernel": P("data")}
    optimizer = optax.chain(
        sparsejax.learning_compression(l0_ball(100, specs=specs), 0.1, 2), optax.sgd(0.1)
    )
    alone = optax.chain(sparsejax.learning_compression(l0_ball(100), 0.1, 2), optax.sgd(0.1))

    def train(params, optimizer):
        state = optimizer.init(params)
        for _ in range(5):
            updates, state = optimizer.update(jax.tree.map(jnp.sin, params), state, params)
            params = optax.apply_updates(params, updates)
        return sparsejax.compressed_params(state, params)

    mapped = jax.shard_map(
        lambda params: train(params, optimizer), mesh=on, in_specs=(specs,), out_specs=specs
    )
    cut = jax.jit(mapped)(weights)
    whole = jax.jit(lambda params: train(params, alone))(weights)
    np.testing.assert_array_equal(cut["kernel"], whole["kernel"])


def test_fsdp_specs_cut_the_longest_dimension_that_fits():
    shapes = {
        "wide": jax.ShapeDtypeStruct((64, 512), jnp.float32),
        "odd": jax.ShapeDtypeStruct((63, 513), jnp.float32),
        "small": jax.ShapeDtypeStruct((8, 8), jnp.float32),
        "scalar": jax.ShapeDtypeStruct((), jnp.float32),
    }
    specs = fsdp_specs(shapes, mesh((2, 4), ("a", "b")), smallest=1000)
    assert specs == {"wide": P(None, ("a", "b")), "odd": P(), "small": P(), "scalar": P()}
    assert fsdp_specs(shapes, mesh((2, 4), ("a", "b")), "b", 64)["small"] == P(("b",))


def test_an_optimizer_state_lies_as_its_parameters():
    params = {"a": {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(8)}, "kernel": jnp.zeros((2, 4))}
    specs = {"a": {"kernel": P("data"), "bias": P()}, "kernel": P(None, "data")}
    state = optax.chain(
        sparsejax.learning_compression(l0_ball(3), 1.0, 2), optax.adam(optax.constant_schedule(1.0))
    ).init(params)
    found = specs_like(state, params, specs)
    assert found[0].theta["a"]["kernel"] == P("data")
    assert found[0].theta["kernel"] == P(None, "data")
    assert found[0].multipliers["a"]["kernel"] == P("data")
    assert found[0].mu == P()
    assert found[1][0].mu == found[1][0].nu == specs
    assert found[1][0].count == P()


def test_bad_arguments_are_named():
    start = lambda params, *rest, **more: init_state(  # noqa: E731
        params, optax.sgd(1.0), jax.random.key(0), *rest, **more
    )
    with pytest.raises(ValueError, match="specs are of no use without a mesh"):
        start({"a": jnp.ones(2)}, specs=P())
    with pytest.raises(ValueError, match=r"specs shards \['a'\] of shape \(6, 2\)"):
        start({"a": jnp.ones((6, 2))}, mesh(), P("data"))
    with pytest.raises(ValueError, match="batch_size must be a multiple of 8, .*; got 60"):
        batch_sharding(mesh(), None, 60)
    with pytest.raises(ValueError, match=r"axes must be among the mesh's \('data',\)"):
        batch_sharding(mesh(), "model", 64)


def test_place_keeps_values_and_keys():
    tree = {"a": np.arange(16.0).reshape(8, 2), "key": jax.random.key(5)}
    placed = place(tree, mesh(), {"a": P("data"), "key": P()})
    np.testing.assert_array_equal(placed["a"], tree["a"])
    assert placed["a"].sharding.spec == P("data")
    np.testing.assert_array_equal(
        jax.random.key_data(placed["key"]), jax.random.key_data(tree["key"])
    )
