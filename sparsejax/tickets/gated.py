"""Searching with gates: continuous sparsification, and hard-concrete gates as its rival."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from chex import Numeric

from sparsejax import _checks
from sparsejax._where import PyTree, Where
from sparsejax.gates import Gates, apply, hard_concrete, next_round, sigmoid, temperature_schedule
from sparsejax.tickets.method import Method
from sparsejax.tickets.ticket import whole_mask


def continuous_sparsification(
    steps: int,
    initial: Numeric = 0.0,
    penalty: Numeric = 1e-8,
    final_beta: Numeric = 200.0,
    rewind: bool = True,
    where: Where = None,
) -> Method:
    r"""Train weights and sigmoid masks together while the masks harden.

    .. math:: \min_{w,s}\ L(\sigma(\beta s) \odot w) + \lambda\,\|\sigma(\beta s)\|_1,
              \qquad \beta\colon 1 \to \beta_T \text{ over a round}

    What stays is s > 0; a round ends with  :math:`s \leftarrow \min(\beta_T s, s_0)`  (see
    ``sparsejax.gates.next_round``). One round is pruning, several are a ticket search; s_0 decides
    how sparse it gets, and a family over s_0 costs one program (see `init_family`).

    Args:
      steps: of a round, over which beta rises exponentially.
      initial: s_0, may be traced.
      penalty: lambda, ``>= 0``, may be traced. With a tiny one s_0 alone decides the density; the
        sparsest tickets of LeNet300 came from a larger one and a moderate s_0, not from an s_0 far
        below zero. Its scale goes with the gates' learning rate.
      final_beta: beta_T, ``>= 1``, may be traced.
      rewind: whether the next round starts from the early weights, as published.
      where: which leaves are searched; default kernels.

    Raises:
      ValueError: an argument is out of its range; in ``init``: ``where`` chooses nothing.

    References:
      Savarese, Silva and Maire, Winning the lottery with continuous sparsification, NeurIPS 2020.
    """
    beta_at = temperature_schedule(steps, final_beta)
    sigmoid(initial, where=where)  # raises where the start is no number

    def at(step) -> Gates:
        return sigmoid(initial, where=where, beta=beta_at(step))

    def view(trained, mask, step, key):
        del mask
        return apply(trained["weights"], at(step).sample(trained["gates"], key))

    def weights(trained):
        whole = jax.tree.map(jnp.ones_like, trained["gates"])
        return apply(trained["weights"], at(0).median(whole))  # all open

    def restart(trained, early, mask):
        del mask
        source = early if rewind else trained
        gates = next_round(trained["gates"], beta_at(steps), initial)
        return {"weights": source["weights"], "gates": gates}

    return _searching(at, view, restart, weights, penalty, where)


def stochastic_l0(
    penalty: Numeric,
    temperature: float = 2 / 3,
    drop_rate: float = 0.5,
    rewind: bool = True,
    where: Where = None,
) -> Method:
    r"""The stochastic rival: hard-concrete gates under an l0 penalty.

    .. math:: \min_{w,\phi}\ \mathbf{E}_z L(z \odot w) + \lambda\,\mathbf{E}\|z\|_0

    What stays are the gates open at the median. A further round goes on with the gates as they are.

    Args:
      penalty: lambda, ``>= 0``, may be traced.
      temperature: of the hard-concrete distribution.
      drop_rate: about the share of gates that are closed at first.
      rewind: whether the next round starts from the early weights.
      where: which leaves are searched; default kernels.

    Raises:
      ValueError: an argument is out of its range; in ``init``: ``where`` chooses nothing.

    References:
      Louizos, Welling and Kingma, Learning sparse neural networks through L0 regularization, ICLR
      2018.
    """
    gates = hard_concrete(temperature, drop_rate=drop_rate, where=where)

    def view(trained, mask, step, key):
        del mask, step
        return apply(trained["weights"], gates.sample(trained["gates"], key))

    def restart(trained, early, mask):
        del mask
        source = early if rewind else trained
        return {"weights": source["weights"], "gates": trained["gates"]}

    return _searching(
        lambda step: gates, view, restart, lambda trained: trained["weights"], penalty, where
    )


def _searching(at, view, restart, weights, penalty: Numeric, where: Where) -> Method:
    """What both have in common, given the gates ``at`` a step."""
    strength = _checks.scalar_at_least_zero("penalty", penalty)

    def init(params: PyTree, key: jax.Array):
        trained = {"weights": at(0).rescale(params), "gates": at(0).init(key, params)}
        return trained, whole_mask(params, where)

    def cost(trained, step):
        active = at(step).active_probability(trained["gates"])
        return strength * sum(m.sum() for m in jax.tree.leaves(active))

    def mask(trained, mask, key):
        del key
        return jax.tree.map(jnp.logical_and, mask, at(0).binarize(trained["gates"]))

    return Method(init, view, cost, mask, restart, weights)
