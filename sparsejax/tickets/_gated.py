"""Searching with gates: continuous sparsification, and hard-concrete gates as its rival."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from chex import Numeric

from sparsejax import _checks
from sparsejax._masks import map_searched
from sparsejax._where import PyTree, Where
from sparsejax.gates import Gates, beta_schedule, hard_concrete, next_round, sigmoid
from sparsejax.tickets._mask import ones_mask, times
from sparsejax.tickets._method import Method

PenaltyOn = Literal["mask", "scaled_mask"]


def continuous_sparsification(
    steps: int,
    initial: Numeric = 0.0,
    penalty: Numeric = 1e-8,
    final_beta: Numeric = 200.0,
    rewind: bool = True,
    where: Where = None,
    penalty_on: PenaltyOn = "mask",
    steps_per_stair: int | None = None,
    restart_beta: Numeric | None = None,
) -> Method:
    r"""Train weights and sigmoid masks together while the masks harden.

    .. math:: \min_{w,s}\ L\!\left(\frac{\sigma(\beta s)}{\sigma(s_0)} \odot w\right)
              + \lambda\,\|\sigma(\beta s)\|_1,
              \qquad \beta\colon 1 \to \beta_T \text{ over a round}

    The mask is divided by sigma(s_0), so that training starts at the function of the whole network.
    What stays is s > 0; a round ends with  :math:`s \leftarrow \min(\beta_T s, s_0)`  (see
    ``sparsejax.gates.next_round``). One round is pruning, several are a ticket search; s_0 decides
    how sparse it gets, and a population over s_0 costs one program (see `init_population`). A
    ticket has the scale 1 / sigma(s_0) (see `Ticket`).

    The defaults are those of the paper's equations and of this project's results. The published
    code differs from them in five ways, each of which is an option::

        method = continuous_sparsification(
            steps, initial, rewind=False, penalty_on="scaled_mask",
            steps_per_stair=steps_per_epoch, restart_beta=1.0,
        )
        state = next_search(method, state, optimizer, renew_optimizer=False)

    Args:
      steps: of a round, over which beta rises exponentially.
      initial: s_0, may be traced.
      penalty: lambda, ``>= 0``, may be traced. With a tiny one s_0 alone decides the density; the
        sparsest tickets of LeNet300 came from a larger one and a moderate s_0, not from an s_0 far
        below zero. Its scale goes with the gates' learning rate.
      final_beta: beta_T, ``>= 1``, may be traced.
      rewind: whether the next round of a search starts from the early weights. The published code
        goes on with the trained ones and rewinds the final ticket alone: False.
      where: which leaves are searched; default kernels and embeddings.
      penalty_on: what lambda multiplies: the ``"mask"`` sigma(beta s), or the ``"scaled_mask"``
        sigma(beta s) / sigma(s_0), which the published code penalises. The latter is the former
        with a lambda 1 / sigma(s_0) times as large, 1.7 to 2.4 for s_0 in -0.3 ... 0.3.
      steps_per_stair: None raises beta at every step. A number holds beta for so many steps and
        lets the whole last stair have beta_T. The published code has one stair per epoch.
      restart_beta: the factor of s between rounds, ``> 0``, may be traced. None is beta_T: a gate
        that a round closed stays closed. The published code resets beta to 1 before it computes the
        minimum, so its gates restart at min(s, s_0): with a number, a gate may open again in a
        later round, and the ticket of a round is s > 0 whatever the rounds before closed.

    Raises:
      ValueError: an argument is out of its range; in ``init``: ``where`` chooses nothing.

    References:
      Savarese, Silva and Maire, Winning the lottery with continuous sparsification, NeurIPS 2020;
      its code: lolemacs/continuous-sparsification on GitHub.
    """
    start = _checks.scalar("initial", initial, "a finite number", math.isfinite)
    strength = _checks.scalar_at_least_zero("penalty", penalty)
    if penalty_on not in ("mask", "scaled_mask"):
        raise ValueError(f"penalty_on must be 'mask' or 'scaled_mask'; got {penalty_on!r}")
    beta_at = beta_schedule(steps, final_beta, steps_per_stair)
    between = beta_at(steps)
    if restart_beta is not None:
        between = _checks.scalar("restart_beta", restart_beta, "a finite number > 0", _positive)
    scale = 1 / jax.nn.sigmoid(start)

    def at(step) -> Gates:
        return sigmoid(initial, where=where, beta=beta_at(step))

    def init(params, key):
        return {"weights": params, "gates": at(0).init(key, params)}, ones_mask(params, where)

    def effective(trained, mask, step, key):
        del mask
        return map_searched(times, trained["weights"], at(step).sample(trained["gates"], key))

    def cost(trained, step):
        factor = strength if penalty_on == "mask" else strength * scale.astype(strength.dtype)
        return _l1(factor, at(step).active_probability(trained["gates"]))

    def mask(trained, mask, key):
        del key
        left = at(0).binarize(trained["gates"])
        return left if restart_beta is not None else jax.tree.map(jnp.logical_and, mask, left)

    def following(trained, rewind_params, mask):
        del mask
        source = rewind_params if rewind else trained
        gates = next_round(trained["gates"], between, initial)
        return {"weights": source["weights"], "gates": gates}

    return Method(init, effective, cost, mask, following, lambda trained: trained["weights"], scale)


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
      where: which leaves are searched; default kernels and embeddings.

    Raises:
      ValueError: an argument is out of its range; in ``init``: ``where`` chooses nothing.

    References:
      Louizos, Welling and Kingma, Learning sparse neural networks through L0 regularization, ICLR
      2018.
    """
    gates = hard_concrete(temperature, drop_rate=drop_rate, where=where)
    strength = _checks.scalar_at_least_zero("penalty", penalty)

    def init(params, key):
        whole = ones_mask(params, where)
        keep = jnp.asarray(1 / (1 - drop_rate), jnp.float32)
        weights = map_searched(lambda leaf, _: times(leaf, keep), params, whole)
        return {"weights": weights, "gates": gates.init(key, params)}, whole

    def effective(trained, mask, step, key):
        del mask, step
        return map_searched(times, trained["weights"], gates.sample(trained["gates"], key))

    def cost(trained, step):
        del step
        return _l1(strength, gates.active_probability(trained["gates"]))

    def mask(trained, mask, key):
        del key
        return jax.tree.map(jnp.logical_and, mask, gates.binarize(trained["gates"]))

    def following(trained, rewind_params, mask):
        del mask
        source = rewind_params if rewind else trained
        return {"weights": source["weights"], "gates": trained["gates"]}

    return Method(init, effective, cost, mask, following, lambda trained: trained["weights"])


def _l1(strength: jax.Array, active: PyTree) -> jax.Array:
    """The penalty: strength times the sum of all entries."""
    total = sum(m.sum() for m in jax.tree.leaves(active))
    return strength.astype(jnp.result_type(total)) * total


def _positive(x: float) -> bool:
    return 0 < x < math.inf
