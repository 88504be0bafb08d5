"""Sigmoid gates, and the schedule of the inverse temperature that makes them binary."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, PyTree, Real

from sparsejax import _checks
from sparsejax._where import Where
from sparsejax.gates._base import Gates, divide_gated
from sparsejax.gates._grouping import Grouping, per_weight
from sparsejax.gates._layout import Tied, gate_layout
from sparsejax.gates._stacked_axes import StackedAxes


def sigmoid(
    initial: Real[ArrayLike, ""] = 0.0,
    grouping: Grouping = per_weight,
    where: Where = None,
    beta: Real[ArrayLike, ""] = 1.0,
    scaled: bool = True,
    tied: Tied | None = None,
    stacked_axes: StackedAxes = None,
) -> Gates:
    r"""Deterministic sigmoid gates, a continuous relaxation of the l0 norm.

    With gate parameters s, which start at s0, and an inverse temperature beta that training raises
    from 1 to a large number,

    .. math:: m = \sigma(\beta s), \qquad
              \min_{w, s}\ L(m \odot w) + \lambda\,\|m\|_1, \qquad
              m \to \mathbf{1}[s > 0] \ \text{as}\ \beta \to \infty.

    ``initial`` and ``beta`` may be traced, so the gates can be made inside a jitted step in which a
    schedule computes beta, and ``jax.vmap`` over ``initial`` trains a population::

        def loss(trained, batch, beta):
            soft = gates.sigmoid(initial, beta=beta)
            z = soft.sample(trained["gates"], key=None)
            l1 = sum(m.sum() for m in jax.tree.leaves(soft.active_probability(trained["gates"])))
            return data_loss(gates.apply(trained["weights"], z), batch) + penalty * l1

    Args:
      initial: s0, a finite scalar; smaller values give sparser networks.
      grouping: function from the shape of a layer's kernel to the axes along which gates differ;
        see `sparsejax.gates`.
      where: leaves that are gated; default: kernels and embeddings (see `sparsejax.chosen`).
      beta: inverse temperature, a positive scalar.
      scaled: whether z is divided by sigma(s0), as in the published code, so that training starts
        at the function of the dense network for every s0.
      tied: mapping from the path of a leaf to the path of the leaf whose gates it shares, or to
        None; biases are found without it. See `sparsejax.gates`.
      stacked_axes: number of leading axes that are stacked layers; default: inferred from the other
        leaves of the layer. See `sparsejax.gates`.

    Returns:
      A `Gates` of float32 or wider. With the divisor c = sigma(s0) if ``scaled``, else 1:
      ``sample`` returns m / c and ignores its key, which may be None; ``median`` returns the binary
      gates of evaluation, divided by c; ``active_probability`` returns m, the terms of the penalty;
      ``binarize`` returns s > 0; ``rescale`` returns the parameters unchanged if ``scaled``, else
      divided by sigma(s0).

    Raises:
      ValueError: ``initial`` is not a finite scalar or ``beta`` not a positive one (traced values
        are not checked); in ``init``: the grouping does not fit a leaf, or names and shapes do not
        determine which leaves share its gates or which axes are stacked.

    References:
      Savarese, Silva and Maire, Winning the lottery with continuous sparsification, NeurIPS 2020.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from sparsejax.gates import sigmoid
      >>> params = {"kernel": jnp.ones((2, 2))}
      >>> soft = sigmoid(beta=2.0)
      >>> phi = soft.init(jax.random.key(0), params)
      >>> phi["kernel"] = jnp.array([[-1.0, 1.0], [2.0, 0.5]])
      >>> print(soft.binarize(phi)["kernel"])
      [[False  True]
       [ True  True]]
    """
    start = _checks.scalar("initial", initial, "a finite number", math.isfinite)
    inverse_temperature = _checks.scalar(
        "beta", beta, "a finite number > 0", lambda x: x > 0 and math.isfinite(x)
    )
    keep_rate = jax.nn.sigmoid(start)

    def layout(params: PyTree[Array]) -> PyTree:
        return gate_layout(params, grouping, where, stacked_axes, tied)

    def init(key: PRNGKeyArray | None, params: PyTree[Array]) -> PyTree[Float[Array, "..."]]:
        del key
        return jax.tree.map(
            lambda shape: jnp.full(shape.shape, start, shape.dtype),
            layout(params),
        )

    def soft(phi: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return jax.tree.map(lambda s: jax.nn.sigmoid(inverse_temperature.astype(s.dtype) * s), phi)

    def scale(tree: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return jax.tree.map(lambda m: m / keep_rate.astype(m.dtype), tree) if scaled else tree

    def sample(
        phi: PyTree[Float[Array, "..."]], key: PRNGKeyArray | None = None
    ) -> PyTree[Float[Array, "..."]]:
        del key
        return scale(soft(phi))

    def median(phi: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return scale(jax.tree.map(lambda s: (s > 0).astype(s.dtype), phi))

    def binarize(phi: PyTree[Float[Array, "..."]]) -> PyTree[Bool[Array, "..."]]:
        return jax.tree.map(lambda s: s > 0, phi)

    def rescale(params: PyTree[Array]) -> PyTree[Array]:
        return params if scaled else divide_gated(params, layout(params), keep_rate)

    return Gates(init, sample, median, soft, binarize, rescale)


def next_round(
    phi: PyTree[Float[Array, "..."]], beta: Real[ArrayLike, ""], initial: Real[ArrayLike, ""]
) -> PyTree[Float[Array, "..."]]:
    r"""Return the parameters of `sigmoid` gates with which the next round of a search starts.

    .. math:: s \leftarrow \min(\beta s,\ s_0)

    A gate that is closed at the end of the round (s < 0) stays closed, since beta is large there;
    an open gate is reset to s0.

    Args:
      phi: pytree of float arrays, s at the end of a round.
      beta: scalar, the inverse temperature at the end of the round; may be traced.
      initial: scalar, s0; may be traced.

    Returns:
      A tree like ``phi``.

    References:
      Savarese, Silva and Maire, Winning the lottery with continuous sparsification, NeurIPS 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.gates import next_round
      >>> print(next_round(jnp.array([-0.5, 0.25]), beta=200.0, initial=0.1))
      [-100.     0.1]
    """
    return jax.tree.map(
        lambda s: jnp.minimum(jnp.asarray(beta, s.dtype) * s, jnp.asarray(initial, s.dtype)), phi
    )


def beta_schedule(
    steps: int, final_beta: Real[ArrayLike, ""] = 200.0, steps_per_stair: int | None = None
) -> optax.Schedule:
    r"""Exponential schedule of the inverse temperature beta over a round.

    .. math:: \beta_t = \beta_T^{\,\min(t, T)/T}, \qquad T = \text{steps}

    It rises from 1 at step 0 to ``final_beta`` at step ``steps`` and is constant afterwards. As a
    staircase of ``n = steps / steps_per_stair`` stairs

    .. math:: \beta_t = \beta_T^{\,\min(k, n - 1)/(n - 1)}, \qquad
              k = \lfloor t / \text{steps per stair} \rfloor

    it is 1 on the first stair and ``final_beta`` on the last one.

    Args:
      steps: number of steps in a round.
      final_beta: beta_T, a scalar ``>= 1``, may be traced.
      steps_per_stair: None for a smooth schedule. The published code uses a staircase with one
        stair per epoch.

    Returns:
      An ``optax.Schedule``, a function from the step to beta as a float32 scalar or wider.

    Raises:
      ValueError: ``steps`` is not an integer >= 1, ``final_beta`` is not a finite number >= 1, or
        ``steps_per_stair`` is not an integer >= 1 that divides ``steps`` into two or more stairs.

    References:
      Savarese, Silva and Maire, Winning the lottery with continuous sparsification, NeurIPS 2020.

    Example:
      >>> from sparsejax.gates import beta_schedule
      >>> beta = beta_schedule(steps=100, final_beta=100.0)
      >>> [round(float(beta(step))) for step in (0, 50, 100)]
      [1, 10, 100]
    """
    if isinstance(steps, bool) or int(steps) != steps or steps < 1:
        raise ValueError(f"steps must be an integer >= 1; got {steps!r}")
    if steps_per_stair is not None and (
        isinstance(steps_per_stair, bool)
        or int(steps_per_stair) != steps_per_stair
        or steps_per_stair < 1
        or steps % steps_per_stair
        or steps == steps_per_stair
    ):
        raise ValueError(
            f"steps_per_stair must be an integer >= 1 that divides the {steps} steps into two or "
            f"more stairs; got {steps_per_stair!r}"
        )
    last = _checks.scalar(
        "final_beta", final_beta, "a finite number >= 1", lambda x: 1 <= x < math.inf
    )

    def schedule(step: ArrayLike) -> Float[Array, ""]:
        if steps_per_stair is None:
            fraction = jnp.minimum(step, int(steps)) / steps
        else:
            stairs = int(steps) // int(steps_per_stair)
            stair = jnp.floor_divide(step, int(steps_per_stair))
            fraction = jnp.minimum(stair, stairs - 1) / (stairs - 1)
        return last ** fraction.astype(last.dtype)

    return schedule
