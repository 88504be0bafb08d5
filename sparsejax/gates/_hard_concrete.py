"""Hard-concrete gates: random in [0, 1], with atoms at both ends, and differentiable."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from sparsejax._where import PyTree, Where
from sparsejax.gates._base import Gates, divide_gated
from sparsejax.gates._grouping import Grouping, per_weight
from sparsejax.gates._layout import Tied, gate_layout
from sparsejax.gates._stacks import Stacked

LOG_ALPHA_RANGE = (math.log(1e-2), math.log(1e2))
"""In which the published code holds log alpha: beyond it a gate is all but settled (see
``optax.projections.projection_box`` and `clip_params`)."""

_NOISE = 0.01  # standard deviation of the initial log alpha


def hard_concrete(
    temperature: float = 2 / 3,
    stretch: tuple[float, float] = (-0.1, 1.1),
    drop_rate: float = 0.5,
    grouping: Grouping = per_weight,
    where: Where = None,
    tied: Tied | None = None,
    stacked: Stacked = None,
) -> Gates:
    r"""Gates with the hard-concrete distribution, by which an l0 norm gets a gradient.

    With u uniform on (0, 1), temperature beta and stretch (gamma, zeta)

    .. math:: s = \sigma\!\left(\frac{\log u - \log(1-u) + \log\alpha}{\beta}\right), \qquad
              z = \min(1, \max(0, s(\zeta-\gamma)+\gamma))

    so that

    .. math:: P(z \ne 0) = \sigma\!\left(\log\alpha - \beta\log\frac{-\gamma}{\zeta}\right)

    and at evaluation u = 1/2: the median of z. The gates' parameters phi are log alpha; they start
    at log((1-p)/p) + N(0, 0.01^2), p being the drop rate. They should be held in
    ``LOG_ALPHA_RANGE`` (`clip_params`).

    Args:
      temperature: beta, in (0, 1) for the atoms and the tails to be as published; may be any
        positive number.
      stretch: gamma < 0 and zeta > 1.
      drop_rate: p in (0, 1), about the share of gates that are closed at first.
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

    Returns:
      `Gates`, whose phi and z are float32 or wider whatever the parameters are. A log alpha of any
      finite size is safe; an infinite one gives gates of 0 or 1, NaN gives NaN.

    Raises:
      ValueError: an argument is out of range; in ``init``: the grouping does not fit a leaf,
        or it is open which leaves share its gates or which axes are stacked layers.

    References:
      Louizos, Welling and Kingma, Learning sparse neural networks through L0 regularization, ICLR
      2018; Gallego-Posada et al., Controlled sparsity via constrained optimization, NeurIPS 2022.
    """
    low, high = stretch
    if not temperature > 0 or not math.isfinite(temperature):
        raise ValueError(f"temperature must be a positive number; got {temperature}")
    if not (low < 0 and high > 1 and math.isfinite(high - low)):
        raise ValueError(f"stretch must be (gamma < 0, zeta > 1); got {stretch}")
    if not 0 < drop_rate < 1:
        raise ValueError(f"drop_rate must be in (0, 1); got {drop_rate}")
    start = math.log((1 - drop_rate) / drop_rate)
    offset = temperature * math.log(-low / high)

    def layout(params: PyTree) -> PyTree:
        return gate_layout(params, grouping, where, stacked, tied)

    def init(key, params):
        def start_at(key, shape):
            return start + _NOISE * jax.random.normal(key, shape.shape, shape.dtype)

        return _with_keys(start_at, key, layout(params))

    def hardened(logits: jax.Array) -> jax.Array:
        stretched = jax.nn.sigmoid(logits / temperature) * (high - low) + low
        return jnp.clip(stretched, 0, 1)

    def sample(phi, key):
        # The logit of a uniform number has the logistic distribution.
        def gate(key, leaf):
            return hardened(leaf + jax.random.logistic(key, leaf.shape, leaf.dtype))

        return _with_keys(gate, key, phi)

    def median(phi):
        return jax.tree.map(hardened, phi)

    def active_probability(phi):
        return jax.tree.map(lambda leaf: jax.nn.sigmoid(leaf - offset), phi)

    def binarize(phi):
        return jax.tree.map(lambda z: z > 0, median(phi))

    def rescale(params: PyTree) -> PyTree:
        return divide_gated(params, layout(params), 1 - drop_rate)

    return Gates(init, sample, median, active_probability, binarize, rescale)


def _with_keys(function, key: jax.Array, tree: PyTree) -> PyTree:
    """``function(key, leaf)`` of each leaf, with a key of its own."""
    structure = jax.tree.structure(tree)
    keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(jax.tree.leaves(tree)))))
    return jax.tree.map(function, keys, tree)
