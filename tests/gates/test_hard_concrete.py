import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, special

from sparsejax.gates import LOG_ALPHA_RANGE, clip_params, hard_concrete, per_input, per_output
from tests.reference import shard

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
everything = lambda path, leaf: True  # noqa: E731
GATES = hard_concrete(where=everything)


def reference(log_alpha, u):
    """The definition, in float64."""
    s = special.expit((np.log(u) - np.log1p(-u) + log_alpha) / BETA)
    return np.clip(s * (ZETA - GAMMA) + GAMMA, 0, 1)


def moment(log_alpha, power):
    """E z^power by quadrature over u, in float64."""
    # Where s leaves [0, 1], so that the quadrature sees smooth pieces.
    edges = [special.expit(BETA * special.logit((e - GAMMA) / (ZETA - GAMMA)) - log_alpha)
             for e in (0, 1)]  # fmt: skip
    value, _ = integrate.quad(lambda u: reference(log_alpha, u) ** power, 0, 1, points=edges)
    return value


@pytest.mark.parametrize("log_alpha", [-4.6, -2.0, 0.0, 0.7, 3.0, 4.6])
def test_samples_have_the_moments_of_the_distribution(log_alpha):
    phi = {"gate": jnp.full((200_000,), log_alpha)}
    z = np.asarray(jax.jit(GATES.sample)(phi, jax.random.key(0))["gate"], np.float64)
    assert ((z >= 0) & (z <= 1)).all()
    for power in (1, 2):
        spread = (z**power).std() / math.sqrt(z.size)
        assert abs((z**power).mean() - moment(log_alpha, power)) < 4 * spread + 1e-6
    active = special.expit(log_alpha - BETA * math.log(-GAMMA / ZETA))
    tolerance = 4 * math.sqrt(active * (1 - active) / z.size) + 1e-6
    assert abs((z > 0).mean() - active) < tolerance
    probability = GATES.active_probability(phi)["gate"]
    np.testing.assert_allclose(probability, active, rtol=1e-5)


@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 3.0])
def test_the_gradient_of_a_sample_is_that_of_the_moments(log_alpha):
    """Averaged over samples, against finite differences of the quadrature."""

    def mean(value):
        z = GATES.sample({"gate": jnp.full((200_000,), value)}, jax.random.key(1))["gate"]
        return z.mean(), (z**2).mean()

    gradients = jax.jit(jax.jacrev(mean))(log_alpha)
    for power, gradient in zip((1, 2), gradients, strict=True):
        step = 1e-3
        expected = (moment(log_alpha + step, power) - moment(log_alpha - step, power)) / (2 * step)
        np.testing.assert_allclose(gradient, expected, atol=2e-3)


def test_gradients_match_finite_differences_of_the_same_sample():
    with jax.enable_x64(True):
        phi = jax.random.normal(jax.random.key(0), (50,), jnp.float64)

        def total(phi):
            z = GATES.sample({"gate": phi}, jax.random.key(2))["gate"]
            return (jnp.sin(3 * z)).sum() + GATES.active_probability({"gate": phi})["gate"].sum()

        gradient = jax.grad(total)(phi)
        step = 1e-6
        for place in range(0, 50, 7):
            moved = jnp.zeros(50).at[place].set(step)
            expected = (total(phi + moved) - total(phi - moved)) / (2 * step)
            np.testing.assert_allclose(gradient[place], expected, atol=1e-7)


def test_the_median_is_the_definition_at_one_half():
    log_alpha = np.linspace(-6, 6, 101)
    z = GATES.median({"gate": jnp.asarray(log_alpha, jnp.float32)})["gate"]
    np.testing.assert_allclose(z, reference(log_alpha, 0.5), atol=1e-6)
    mask = GATES.binarize({"gate": jnp.asarray(log_alpha, jnp.float32)})["gate"]
    np.testing.assert_array_equal(mask, np.asarray(z) > 0)
    assert 0 < mask.sum() < 101


@pytest.mark.parametrize("drop_rate", [0.2, 0.5, 0.9])
def test_starts_at_the_drop_rate(drop_rate):
    gates = hard_concrete(drop_rate=drop_rate)
    params = {"kernel": jnp.ones((300, 100)), "bias": jnp.ones(100)}
    phi = gates.init(jax.random.key(0), params)
    assert isinstance(phi["bias"], optax.MaskedNode)
    assert phi["kernel"].shape == (300, 100)
    assert phi["kernel"].mean() == pytest.approx(math.log((1 - drop_rate) / drop_rate), abs=1e-3)
    assert phi["kernel"].std() == pytest.approx(0.01, rel=0.05)
    scaled = gates.rescale(params)
    np.testing.assert_allclose(scaled["kernel"], 1 / (1 - drop_rate), rtol=1e-6)
    np.testing.assert_array_equal(scaled["bias"], params["bias"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_log_alphas_are_safe(dtype):
    """Also for bfloat16 parameters, whose gates are float32."""
    params = {"kernel": jnp.ones((2, 3), dtype)}
    gates = hard_concrete()
    assert gates.init(jax.random.key(0), params)["kernel"].dtype == jnp.float32
    phi = {"kernel": jnp.asarray([[-1e30, -100, -20], [20, 100, 1e30]], dtype)}
    z = gates.sample(phi, jax.random.key(0))["kernel"]
    np.testing.assert_array_equal(z, [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(gates.median(phi)["kernel"], [[0, 0, 0], [1, 1, 1]])
    gradient = jax.grad(
        lambda phi: (
            gates.sample(phi, jax.random.key(0))["kernel"].sum()
            + gates.active_probability(phi)["kernel"].sum()
        )
    )(phi)
    assert jnp.isfinite(gradient["kernel"]).all()


def test_sampling_under_vmap_and_sharded_gives_the_same_gates():
    phi = {"gate": jax.random.normal(jax.random.key(0), (16, 8))}
    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.jit(jax.vmap(GATES.sample, in_axes=(None, 0)))(phi, keys)["gate"]
    for number, key in enumerate(keys):
        alone = GATES.sample(phi, key)["gate"]
        np.testing.assert_allclose(together[number], alone, atol=1e-6)
    cut = {"gate": shard(phi["gate"], "a", "b")}
    np.testing.assert_allclose(
        jax.jit(GATES.sample)(cut, keys[0])["gate"], GATES.sample(phi, keys[0])["gate"], atol=1e-6
    )
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature must be a positive number; got 0"),
        ({"stretch": (0.0, 1.1)}, r"stretch must be \(gamma < 0, zeta > 1\)"),
        ({"stretch": (-0.1, 1.0)}, r"stretch must be \(gamma < 0, zeta > 1\)"),
        ({"drop_rate": 1.0}, r"drop_rate must be in \(0, 1\); got 1.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        hard_concrete(**arguments)


@pytest.mark.parametrize(
    ("grouping", "leaf", "message"),
    [
        (per_input, jnp.ones(3), r"grouping cannot gate \['w'\]: per_input gates kernels"),
        (per_output, jnp.ones(3), r"grouping cannot gate \['w'\]: per_output gates kernels"),
        (
            lambda shape: (0, 2),
            jnp.ones((4, 3)),
            r"axes of a layer of \['w'\], of shape \(4, 3\); got \(0, 2\)",
        ),
        (lambda shape: (0.5,), jnp.ones((4, 3)), r"got \(0.5,\)"),
    ],
)
def test_gates_that_do_not_fit_are_named(grouping, leaf, message):
    gates = hard_concrete(grouping=grouping, where=everything)
    with pytest.raises(ValueError, match=message):
        gates.init(jax.random.key(0), {"w": leaf})


def test_keep_within_holds_log_alpha_in_its_range():
    optimizer = optax.chain(optax.sgd(1.0), clip_params())
    phi = {"gate": jnp.asarray([0.0, 4.0, -4.0, 1.0])}
    state = optimizer.init(phi)
    step = jax.jit(lambda g, s, p: optax.apply_updates(p, optimizer.update(g, s, p)[0]))
    phi = step({"gate": jnp.asarray([0.5, -9.0, 9.0, 0.0])}, state, phi)
    np.testing.assert_allclose(phi["gate"], [-0.5, LOG_ALPHA_RANGE[1], LOG_ALPHA_RANGE[0], 1.0])
    with pytest.raises(ValueError, match="low must not be above high; got 1.0 and 0.0"):
        clip_params(1.0, 0.0)
    with pytest.raises(ValueError, match="params must be passed"):
        clip_params().update(phi, optax.EmptyState())
