import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.constraints import GateGroup, density_violation, expected_density, gate_groups
from tests.reference import shard

# The published MLP: a gate for each input of a layer, which removes a row of its kernel.
MLP = {
    "dense1": GateGroup(np.full(784, 0.25), cost_per_gate=300, ungated_cost=300),
    "dense2": GateGroup(np.full(300, 0.5), cost_per_gate=100, ungated_cost=100),
    "dense3": GateGroup(np.full(100, 1.0), cost_per_gate=10, ungated_cost=10),
}
ACTIVE = {
    "dense1": 196 * 300 + 300,
    "dense2": 150 * 100 + 100,
    "dense3": 100 * 10 + 10,
}
TOTAL = {"dense1": 785 * 300, "dense2": 301 * 100, "dense3": 101 * 10}


def test_a_number_constrains_the_model():
    density = sum(ACTIVE.values()) / 266_610
    np.testing.assert_allclose(expected_density(MLP), density, rtol=1e-6)
    violation = density_violation(MLP, 0.2)
    assert violation.shape == ()
    np.testing.assert_allclose(violation, density - 0.2, rtol=1e-5)


def test_a_tree_constrains_each_layer_or_block():
    target = {"dense1": 0.3, "dense2": 0.3, "dense3": 1.0}
    violation = density_violation(MLP, target)
    for name, epsilon in target.items():
        expected = ACTIVE[name] / TOTAL[name] - epsilon
        np.testing.assert_allclose(violation[name], expected, rtol=1e-4, atol=1e-6)
    blocks = {"body": {"dense1": MLP["dense1"], "dense2": MLP["dense2"]}, "head": MLP["dense3"]}
    violation = density_violation(blocks, {"body": 0.25, "head": 1.0})
    body = (ACTIVE["dense1"] + ACTIVE["dense2"]) / (TOTAL["dense1"] + TOTAL["dense2"])
    np.testing.assert_allclose(violation["body"], body - 0.25, rtol=1e-4)
    same = jax.tree.map(lambda _: 0.3, MLP, is_leaf=lambda node: isinstance(node, GateGroup))
    assert same == dict.fromkeys(MLP, 0.3)


def test_a_plain_tree_has_one_parameter_a_gate():
    probabilities = {"a": jnp.full((3, 2), 0.5), "b": jnp.array([1.0, 0.0])}
    np.testing.assert_allclose(expected_density(probabilities), 4 / 8)
    np.testing.assert_allclose(density_violation(probabilities, {"a": 0.25, "b": 0.25})["b"], 0.25)
    np.testing.assert_allclose(expected_density(jnp.array([0.5, 0.25])), 0.375)


def test_sizes_may_differ_from_gate_to_gate_and_parts_be_ungated():
    p = jnp.array([[0.5, 1.0], [0.25, 0.0]])
    np.testing.assert_allclose(
        expected_density(
            {
                "a": GateGroup(p, np.array([[1.0], [4.0]])),
                "rest": GateGroup(np.zeros(0), ungated_cost=5),
            }
        ),
        (0.5 + 1 + 4 * 0.25 + 5) / (2 + 8 + 5),
        rtol=1e-6,
    )


def test_groups_are_counted_from_the_shapes():
    masked = optax.MaskedNode()
    params = {
        "conv": {"kernel": np.ones((5, 5, 3, 8)), "bias": np.ones(8)},
        "dense": {"kernel": np.ones((20, 10)), "bias": np.ones(10)},
        "norm": np.ones(()),
    }
    channel = np.linspace(0, 1, 8, dtype=np.float32)
    probability = {
        "conv": {"kernel": channel.reshape(1, 1, 1, 8), "bias": channel},
        "dense": {"kernel": np.full((20, 1), 0.25, np.float32), "bias": masked},
        "norm": masked,
    }
    activity = gate_groups(params, probability)
    conv, dense = (608, channel.sum() * 76), (210, 50 + 10)
    np.testing.assert_allclose(
        expected_density(activity), (conv[1] + dense[1] + 1) / (conv[0] + dense[0] + 1), rtol=1e-6
    )
    violation = density_violation(activity, {"conv": 0.3, "dense": 0.3, "norm": 1.0})
    np.testing.assert_allclose(violation["conv"], conv[1] / conv[0] - 0.3, rtol=1e-5)
    np.testing.assert_allclose(violation["dense"], dense[1] / dense[0] - 0.3, rtol=1e-5)
    slope = jax.jit(jax.grad(lambda p: expected_density(gate_groups(params, p))))(probability)
    np.testing.assert_allclose(slope["dense"]["kernel"], 10 / 819, rtol=1e-6)
    with pytest.raises(ValueError, match=r"target\['dense'\] must be at least 0.04762, the small"):
        density_violation(activity, {"conv": 0.3, "dense": 0.04, "norm": 1.0})
    with pytest.raises(ValueError, match=r"probability\['a'\] must broadcast to .* \(2, 3\)"):
        gate_groups({"a": jnp.ones((2, 3))}, {"a": jnp.ones(2)})
    with pytest.raises(ValueError, match="active_probability must have the structure of params"):
        gate_groups({"a": jnp.ones((2, 3))}, {"b": jnp.ones(3)})


def test_gradients_are_the_share_of_each_gate():
    p = np.linspace(0, 1, 7, dtype=np.float32)
    sizes = np.arange(7)
    slope = jax.jit(jax.grad(lambda p: density_violation(GateGroup(p, sizes, 4), 0.5)))(p)
    np.testing.assert_allclose(slope, sizes / 25, rtol=1e-6)
    plain = jax.jit(jax.grad(lambda p: expected_density({"a": p, "b": p})))(p)
    np.testing.assert_allclose(plain, np.full(7, 1 / 7), rtol=1e-6)


def test_bfloat16_probabilities_are_summed_in_float32():
    p = jnp.full(50_000, 0.5, jnp.bfloat16)
    density = expected_density(GateGroup(p, 3, 7))
    assert density.dtype == jnp.float32
    np.testing.assert_allclose(density, (75_000 + 7) / (150_000 + 7), rtol=1e-6)


def test_jit_vmap_and_shards_agree_and_targets_and_sizes_may_be_traced():
    p = np.random.default_rng(0).uniform(size=(16, 8)).astype(np.float32)
    run = lambda p, target, size, always: density_violation(GateGroup(p, size, always), target)  # noqa: E731
    expected = run(p, 0.5, 3, 20)
    np.testing.assert_allclose(jax.jit(run)(p, 0.5, 3, 20), expected, rtol=1e-5)
    np.testing.assert_allclose(run(shard(p, "a", "b"), 0.5, 3, 20), expected, rtol=1e-5)
    together = jax.vmap(lambda target: run(p, target, 3, 20))(jnp.array([0.5, 0.75]))
    np.testing.assert_allclose(together, [expected, expected - 0.25], rtol=1e-5)


@pytest.mark.parametrize("target", [0.0, -0.1, 1.1, np.nan])
def test_targets_that_are_no_density_are_named(target):
    with pytest.raises(ValueError, match=rf"target must be a density in \(0, 1\]; got {target}"):
        density_violation(MLP, target)
    with pytest.raises(ValueError, match=r"target\['dense2'\] must be a density in \(0, 1\]; got"):
        density_violation(MLP, {"dense1": 0.5, "dense2": target, "dense3": 0.5})


def test_infeasible_targets_come_with_the_smallest_feasible_one():
    activity = {"a": GateGroup(jnp.full(10, 0.5), 10, 50), "b": jnp.full(50, 0.5)}
    with pytest.raises(ValueError, match="at least 0.25, the smallest .* 50 of 200 .*; got 0.2"):
        density_violation(activity, 0.2)
    with pytest.raises(ValueError, match=r"target\['a'\] must be at least 0.333334, .*; got 0.3$"):
        density_violation(activity, {"a": 0.3, "b": 0.1})
    density_violation(activity, {"a": 0.333334, "b": 0.1})
    density_violation(activity, 0.25)

    @jax.jit  # sizes are known there, too, if they are not arguments
    def violation(p):
        return density_violation(GateGroup(p, 10, 50), 0.3)

    with pytest.raises(ValueError, match=r"at least 0.333334"):
        violation(jnp.full(10, 0.5))


@pytest.mark.parametrize(
    ("active_probability", "message"),
    [
        ({}, " must hold at least one parameter"),
        ({"a": jnp.zeros((0, 3))}, " must hold at least one parameter"),
        ({"a": jnp.array([0.5, 1.5])}, r"\['a'\] must hold probabilities .* it holds 1.5"),
        ({"a": jnp.array([0.5, jnp.nan])}, r"\['a'\] must hold .* it holds nan"),
        (GateGroup(jnp.ones(3), -1), ".cost_per_gate must be finite and >= 0; got -1"),
        (GateGroup(jnp.ones(3), 1, np.inf), ".ungated_cost must be finite and >= 0; got inf"),
        (GateGroup(jnp.ones(3), np.ones(2)), r".cost_per_gate must broadcast to the shape \(3,\)"),
        (GateGroup(jnp.ones(3), np.ones((2, 3))), r" must broadcast .* got shape \(2, 3\)"),
        (GateGroup(jnp.ones(3), 1, np.ones(3)), r".ungated_cost must be a number; .* \(3,\)"),
    ],
)
def test_what_cannot_be_counted_is_named(active_probability, message):
    with pytest.raises(ValueError, match="active_probability.*" + message):
        expected_density(active_probability)


def test_a_target_may_be_rounded_to_its_dtype():
    """0.7 in float32 is a little less than 7 of 10."""
    groups = {"a": GateGroup(jnp.ones(3), ungated_cost=7)}
    for target in (0.7, np.float32(0.7), jnp.asarray(0.7, jnp.bfloat16)):
        np.testing.assert_allclose(density_violation(groups, target), 0.3, atol=2e-3)


def test_costs_may_be_traced_and_known_under_strict_promotion():
    def found(cost):
        return expected_density([GateGroup(jnp.ones(2), cost), GateGroup(jnp.zeros(2), 3)])

    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        np.testing.assert_allclose(jax.jit(found)(jnp.float32(2)), 0.4, rtol=1e-6)


def test_targets_that_are_no_prefix_are_named():
    with pytest.raises(ValueError, match="target must be a number, or a pytree of numbers that is"):
        density_violation(MLP, {"dense1": 0.5})


def test_traced_sizes_that_are_all_zero_give_a_density_of_zero():
    def density(size, p):
        return expected_density({"a": GateGroup(p, size)})

    value, slope = jax.jit(jax.value_and_grad(density, argnums=1))(jnp.zeros(()), jnp.ones(3))
    assert value == 0
    np.testing.assert_array_equal(slope, np.zeros(3))
