"""Scores divided by the size of their layer, against NumPy in float64 and bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax.transforms import all_together, project_sparsity
from sparsejax.transforms._scores import normalised

SIZES = {"rms": lambda q: np.sqrt((q**2).mean()), "l2": np.linalg.norm}
RNG = np.random.default_rng(3)
SCORES = {
    "normal": abs(RNG.normal(size=(40, 25))),
    "few are large": np.exp(3 * RNG.normal(size=(300, 7))),
    "one is by far the largest": np.array([1.0, *[1e-4] * 3000]),
    "one": np.array(0.3),
    "huge": np.array([3e36, 1e36, 1e31]),
    "tiny": np.array([3e-36, 1e-36, 2e-37]),
    "bfloat16": np.asarray(jnp.asarray(abs(RNG.normal(size=50)), jnp.bfloat16)),
}


@pytest.mark.parametrize("scale", SIZES)
@pytest.mark.parametrize("name", SCORES)
def test_the_size_is_that_of_float64(scale, name):
    scores = SCORES[name]
    given = scores if scores.dtype == jnp.bfloat16 else scores.astype(np.float32)
    found = normalised(jnp.asarray(given), scale)
    wanted = given.astype(np.float64) / SIZES[scale](given.astype(np.float64))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=4e-7)


def test_scores_without_a_size():
    np.testing.assert_array_equal(normalised(jnp.zeros(3), "l2"), [0, 0, 0])
    assert normalised(jnp.zeros((0, 4)), "rms").shape == (0, 4)
    found = normalised(jnp.array([3.0, jnp.inf, 4.0, jnp.nan]), "l2")
    np.testing.assert_allclose(found, [0.6, np.inf, 0.8, np.nan], rtol=1e-6)


@pytest.mark.parametrize("scale", SIZES)
@pytest.mark.parametrize("shape", [(8,), (4, 2), (1000,), (64, 24)])
def test_every_program_finds_the_same_bits(scale, shape):
    """Step by step, compiled, as members of a population, and cut over eight devices."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    spec = PartitionSpec(("x", "y")) if len(shape) == 1 else PartitionSpec("x", "y")
    members = jnp.asarray(abs(np.random.default_rng(1).normal(size=(5, *shape))), jnp.float32)
    of = jax.jit(lambda scores: normalised(scores, scale))
    together = jax.jit(jax.vmap(lambda scores: normalised(scores, scale)))(members)
    for member, one in zip(together, members, strict=True):
        wanted = normalised(one, scale)
        np.testing.assert_array_equal(of(one), wanted)
        np.testing.assert_array_equal(member, wanted)
        np.testing.assert_array_equal(of(jax.device_put(one, NamedSharding(mesh, spec))), wanted)


def test_layers_of_nearly_equal_size_are_told_apart():
    first, second = 8000.49 / 16384, 8000.2 / 16384  # 1.731250 and 1.731289 after the division
    params = {"a": jnp.array([[1.0]] + [[first]] * 7), "b": jnp.array([[1.0]] + [[second]] * 7)}
    found = project_sparsity(params, 0.95, all_together("rms"))
    assert (int((found["a"] != 0).sum()), int((found["b"] != 0).sum())) == (0, 1)


def test_leaves_of_more_than_two_to_the_31_weights():
    huge = {"kernel": jax.ShapeDtypeStruct((65536, 98304), jnp.float32)}
    project = lambda params: project_sparsity(params, 0.5, all_together("l2"), "channels")  # noqa: E731
    assert jax.eval_shape(project, huge)["kernel"].shape == (65536, 98304)


def test_a_sum_over_the_last_axis_first(monkeypatch):
    """As for leaves of 2^30 entries and more."""
    scores = jnp.asarray(SCORES["few are large"], jnp.float32)
    at_once = normalised(scores, "l2")
    monkeypatch.setattr("sparsejax.transforms._scores._AT_ONCE", 100)
    np.testing.assert_allclose(normalised(scores, "l2"), at_once, rtol=3e-7)
