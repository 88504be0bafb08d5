"""Sigmoid gates: soft masks that harden as their temperature parameter grows."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax
from chex import Numeric

from sparsejax import _checks
from sparsejax._where import PyTree, Where
from sparsejax.gates._base import Gates, divide_gated
from sparsejax.gates._grouping import Grouping, per_weight
from sparsejax.gates._layout import Tied, gate_layout
from sparsejax.gates._stacks import Stacked


def sigmoid(
    initial: Numeric = 0.0,
    grouping: Grouping = per_weight,
    where: Where = None,
    beta: Numeric = 1.0,
    scaled: bool = True,
    tied: Tied | None = None,
    stacked: Stacked = None,
) -> Gates:
    r"""Deterministic gates by which an l0 norm becomes a limit of smooth functions.

    With gate parameters s, which start at s0, and an inverse temperature beta that training raises
    from 1 to a large number

    .. math:: m = \sigma(\beta s), \qquad
              \min_{w, s}\ L(m \odot w) + \lambda\,\|m\|_1, \qquad
              m \to \mathbf{1}[s > 0] \ \text{as}\ \beta \to \infty.

    ``initial`` and ``beta`` may be traced: build the gates inside the step, where the schedule is
    known, and a population of searches is one ``vmap``::

        def loss(trained, batch, beta):
            soft = gates.sigmoid(initial, beta=beta)
            z = soft.sample(trained["gates"], key=None)
            size = sum(m.sum() for m in jax.tree.leaves(soft.active_probability(trained["gates"])))
            return data_loss(gates.apply(trained["weights"], z), batch) + penalty * size

    Args:
      initial: s0, a finite number; smaller ones end sparser.
      grouping: which weights share a gate: `per_weight`, `per_input`, `per_output`, or any function
        from the shape of a layer's kernel to the axes along which its gates differ, such as
        ``lambda shape: (0,)`` for the outputs of a kernel [out, in].
      where: which leaves are gated; default: kernels and embeddings (see `sparsejax.chosen`).
      tied: leaves that share the gates of another, besides the biases that are found: its path by
        theirs, parts joined by ``/``, as in ``{"norm1/scale": "conv1/kernel"}`` for a
        normalisation behind a convolution; None in place of a path for a leaf that follows no
        gates. A bias beside a kernel with a gate for each output is found by its name and shape.
      stacked: how many leading axes of the gated leaves are stacked layers (of ``nn.scan`` or
        ``vmap``), each with gates of its own: an integer, a callable ``(path, leaf) -> int``, or a
        pytree of integers (or a prefix of one). Default: the leading axes that the kernel
        shares with its bias, or those that all leaves around it share; none for a kernel alone.
      beta: the inverse temperature, > 0.
      scaled: divide z by sigma(s0), as the published code does, so that training starts at the
        function of the whole network, whatever s0 is.

    Returns:
      `Gates`, float32 or wider, in which ``sample`` ignores its key (``None`` will do) and gives
      m (over sigma(s0)), ``median`` gives the binary gates of evaluation (over sigma(s0)),
      ``active_probability`` gives m, the summands of the penalty, ``binarize`` gives s > 0, and
      ``rescale`` changes nothing where z is scaled, else divides the weights by sigma(s0).

    Raises:
      ValueError: ``initial`` is not a finite scalar or ``beta`` not a positive one (traced ones are
        not checked); in ``init``: the grouping does not fit a leaf, or it is open which leaves
        share its gates or which axes are stacked layers.

    References:
      Savarese, Silva and Maire, Winning the lottery with continuous sparsification, NeurIPS 2020.
    """
    start = _checks.scalar("initial", initial, "a finite number", math.isfinite)
    steepness = _checks.scalar(
        "beta", beta, "a finite number > 0", lambda x: x > 0 and math.isfinite(x)
    )
    at_start = jax.nn.sigmoid(start)

    def layout(params: PyTree) -> PyTree:
        return gate_layout(params, grouping, where, stacked, tied)

    def init(key, params):
        del key
        return jax.tree.map(
            lambda shape: jnp.full(shape.shape, start, shape.dtype),
            layout(params),
        )

    def soft(phi):
        return jax.tree.map(lambda s: jax.nn.sigmoid(steepness.astype(s.dtype) * s), phi)

    def over_start(tree):
        return jax.tree.map(lambda m: m / at_start.astype(m.dtype), tree) if scaled else tree

    def sample(phi, key=None):
        del key
        return over_start(soft(phi))

    def median(phi):
        return over_start(jax.tree.map(lambda s: (s > 0).astype(s.dtype), phi))

    def binarize(phi):
        return jax.tree.map(lambda s: s > 0, phi)

    def rescale(params: PyTree) -> PyTree:
        return params if scaled else divide_gated(params, layout(params), at_start)

    return Gates(init, sample, median, soft, binarize, rescale)


def next_round(phi: PyTree, beta: Numeric, initial: Numeric) -> PyTree:
    r"""The gate parameters with which the next round of a search starts.

    .. math:: s \leftarrow \min(\beta s,\ s_0)

    What a round has closed (s < 0) stays closed for good, since beta is large at its end; what is
    open starts where it first did.

    Args:
      phi: s at the end of a round.
      beta: the inverse temperature there, may be traced.
      initial: s0, may be traced.
    """
    return jax.tree.map(
        lambda s: jnp.minimum(jnp.asarray(beta, s.dtype) * s, jnp.asarray(initial, s.dtype)), phi
    )


def temperature_schedule(
    steps: int, final: Numeric = 200.0, steps_per_stair: int | None = None
) -> optax.Schedule:
    r"""An optax schedule of beta over a round.

    .. math:: \beta_t = \beta_T^{\,\min(t, T)/T}, \qquad T = \text{steps}

    from 1 at step 0 to ``final`` at step ``steps``, and constant from there on. As a staircase of
    n stairs, ``n = steps / steps_per_stair``:

    .. math:: \beta_t = \beta_T^{\,\min(k, n - 1)/(n - 1)}, \qquad
              k = \lfloor t / \text{steps per stair} \rfloor

    from 1 on the first stair to ``final`` on the whole of the last one.

    Args:
      steps: the length of a round.
      final: beta_T, ``>= 1``, may be traced.
      steps_per_stair: None for a smooth rise. The published code has a staircase with one stair per
        epoch.

    Raises:
      ValueError: ``steps`` is not an integer >= 1, ``final`` is not a number >= 1, or
        ``steps_per_stair`` is not an integer >= 1 that divides ``steps`` into two or more stairs.
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
    last = _checks.scalar("final", final, "a finite number >= 1", lambda x: 1 <= x < math.inf)

    def schedule(step):
        if steps_per_stair is None:
            share = jnp.minimum(step, int(steps)) / steps
        else:
            stairs = int(steps) // int(steps_per_stair)
            share = jnp.minimum(step // int(steps_per_stair), stairs - 1) / (stairs - 1)
        return last ** share.astype(last.dtype)

    return schedule
