"""The divergence that is learnt against float64 NumPy, and where its gradient goes."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.distillation import distillation_losses


def test_it_is_the_divergence_of_the_distributions():
    rng = np.random.default_rng(0)
    ours, teachers = 3 * rng.standard_normal((2, 2, 5, 11)) + 100
    log_q = ours - np.log(np.exp(ours).sum(-1, keepdims=True))
    log_p = teachers - np.log(np.exp(teachers).sum(-1, keepdims=True))
    expected = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    arrays = jnp.asarray(ours, jnp.float32), jnp.asarray(teachers, jnp.float32)
    found = distillation_losses(*arrays)
    assert found.shape == (2, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(distillation_losses(arrays[0], arrays[0]), 0, atol=1e-4)


def test_the_teacher_learns_nothing():
    rng = np.random.default_rng(1)
    ours, teachers = jnp.asarray(rng.standard_normal((2, 1, 3, 7)), jnp.float32)
    gradient, of_teacher = jax.grad(lambda *both: distillation_losses(*both).sum(), (0, 1))(
        ours, teachers
    )
    np.testing.assert_allclose(gradient, jax.nn.softmax(ours) - jax.nn.softmax(teachers), atol=1e-6)
    np.testing.assert_array_equal(of_teacher, 0)
