"""Hard-concrete gates: random in [0, 1] with probability mass at 0 and 1, and differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from sparsejax._where import Where
from sparsejax.gates._base import Gates, divide_gated
from sparsejax.gates._grouping import Grouping, per_weight
from sparsejax.gates._layout import Tied, gate_layout
from sparsejax.gates._stacked_axes import StackedAxes

LOG_ALPHA_RANGE = (math.log(1e-2), math.log(1e2))
"""The range of log alpha in the published code of constrained L0, beyond which a gate is almost
always open or closed; the default of `clip_params`."""

_INIT_STD = 0.01  # standard deviation of the initial log alpha


def hard_concrete(
    temperature: float = 2 / 3,
    stretch: tuple[float, float] = (-0.1, 1.1),
    drop_rate: float = 0.5,
    grouping: Grouping = per_weight,
    where: Where = None,
    tied: Tied | None = None,
    stacked_axes: StackedAxes = None,
) -> Gates:
    r"""Gates with the hard-concrete distribution, which gives the l0 norm a gradient.

    With u uniform on (0, 1), temperature beta and stretch (gamma, zeta)

    .. math:: s = \sigma\!\left(\frac{\log u - \log(1-u) + \log\alpha}{\beta}\right), \qquad
              z = \min(1, \max(0, s(\zeta-\gamma)+\gamma))

    so that

    .. math:: P(z \ne 0) = \sigma\!\left(\log\alpha - \beta\log\frac{-\gamma}{\zeta}\right).

    At evaluation u = 1/2, which gives the median of z. The gate parameters phi are log alpha. They
    start at :math:`\log((1-p)/p) + \mathcal{N}(0, 0.01^2)`, where p is the drop rate, and should be
    kept in ``LOG_ALPHA_RANGE`` by `clip_params`.

    Args:
      temperature: beta, a positive number; in (0, 1), as published, the density of z peaks at both
        ends.
      stretch: (gamma, zeta) with gamma < 0 and zeta > 1.
      drop_rate: p in (0, 1), approximately the fraction of gates that are closed at the start.
      grouping: function from the shape of a layer's kernel to the axes along which gates differ;
        see `sparsejax.gates`.
      where: leaves that are gated; default: kernels and embeddings (see `sparsejax.chosen`).
      tied: mapping from the path of a leaf to the path of the leaf whose gates it shares, or to
        None; biases are found without it. See `sparsejax.gates`.
      stacked_axes: number of leading axes that are stacked layers; default: inferred from the other
        leaves of the layer. See `sparsejax.gates`.

    Returns:
      A `Gates` whose phi and z are float32 or wider for parameters of any dtype. Every finite log
      alpha is numerically safe; an infinite one gives gates of 0 or 1, NaN gives NaN.

    Raises:
      ValueError: an argument is outside its range; in ``init``: the grouping does not fit a leaf,
        or names and shapes do not determine which leaves share its gates or which axes are stacked.

    References:
      Louizos, Welling and Kingma, Learning sparse neural networks through L0 regularization, ICLR
      2018; Gallego-Posada et al., Controlled sparsity via constrained optimization or: how I
      learned to stop tuning penalties and love constraints, NeurIPS 2022.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from sparsejax.gates import apply, hard_concrete, per_output
      >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> gates = hard_concrete(grouping=per_output)
      >>> phi = gates.init(jax.random.key(0), params)
      >>> phi["kernel"].shape
      (1, 3)
      >>> gated = apply(params, gates.sample(phi, jax.random.key(1)))  # in training
      >>> gated = apply(params, gates.median(phi))  # at evaluation
      >>> penalty = sum(p.sum() for p in jax.tree.leaves(gates.active_probability(phi)))
    """
    low, high = stretch
    if not temperature > 0 or not math.isfinite(temperature):
        raise ValueError(f"temperature must be a positive number; got {temperature}")
    if not (low < 0 and high > 1 and math.isfinite(high - low)):
        raise ValueError(f"stretch must be (gamma < 0, zeta > 1); got {stretch}")
    if not 0 < drop_rate < 1:
        raise ValueError(f"drop_rate must be in (0, 1); got {drop_rate}")
    mean = math.log((1 - drop_rate) / drop_rate)
    offset = temperature * math.log(-low / high)

    def layout(params: PyTree[Array]) -> PyTree:
        return gate_layout(params, grouping, where, stacked_axes, tied)

    def init(key: PRNGKeyArray, params: PyTree[Array]) -> PyTree[Float[Array, "..."]]:
        def initial(key: PRNGKeyArray, shape: jax.ShapeDtypeStruct) -> Float[Array, "..."]:
            return mean + _INIT_STD * jax.random.normal(key, shape.shape, shape.dtype)

        return _map_with_keys(initial, key, layout(params))

    def hard_sigmoid(logits: Float[Array, "..."]) -> Float[Array, "..."]:
        stretched = jax.nn.sigmoid(logits / temperature) * (high - low) + low
        return jnp.clip(stretched, 0, 1)

    def sample(phi: PyTree[Float[Array, "..."]], key: PRNGKeyArray) -> PyTree[Float[Array, "..."]]:
        # The logit of a uniform random number has the logistic distribution.
        def gate(key: PRNGKeyArray, log_alpha: Float[Array, "..."]) -> Float[Array, "..."]:
            noise = jax.random.logistic(key, log_alpha.shape, log_alpha.dtype)
            return hard_sigmoid(log_alpha + noise)

        return _map_with_keys(gate, key, phi)

    def median(phi: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return jax.tree.map(hard_sigmoid, phi)

    def active_probability(phi: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return jax.tree.map(lambda log_alpha: jax.nn.sigmoid(log_alpha - offset), phi)

    def binarize(phi: PyTree[Float[Array, "..."]]) -> PyTree[Bool[Array, "..."]]:
        return jax.tree.map(lambda z: z > 0, median(phi))

    def rescale(params: PyTree[Array]) -> PyTree[Array]:
        return divide_gated(params, layout(params), 1 - drop_rate)

    return Gates(init, sample, median, active_probability, binarize, rescale)


def _map_with_keys(
    function: Callable[[PRNGKeyArray, Any], Array], key: PRNGKeyArray, tree: PyTree
) -> PyTree:
    """``function(key, leaf)`` of each leaf, with a different key for each."""
    structure = jax.tree.structure(tree)
    keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(jax.tree.leaves(tree)))))
    return jax.tree.map(function, keys, tree)
