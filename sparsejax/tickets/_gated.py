"""Searches with trained gates: continuous sparsification, and hard-concrete gates."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int32, PRNGKeyArray, PyTree, Real

from sparsejax import _checks
from sparsejax._masks import map_searched
from sparsejax._where import Where
from sparsejax.gates import Gates, beta_schedule, hard_concrete, next_round, sigmoid
from sparsejax.tickets._mask import ones_mask, times
from sparsejax.tickets._method import Method, Trained

PenaltyOn = Literal["mask", "scaled_mask"]


def continuous_sparsification(
    steps: int,
    initial: Real[ArrayLike, ""] = 0.0,
    penalty: Real[ArrayLike, ""] = 1e-8,
    final_beta: Real[ArrayLike, ""] = 200.0,
    rewind: bool = True,
    where: Where = None,
    penalty_on: PenaltyOn = "mask",
    steps_per_stair: int | None = None,
    restart_beta: Real[ArrayLike, ""] | None = None,
) -> Method:
    r"""Continuous sparsification: weights and sigmoid gates are trained while the gates harden.

    .. math:: \min_{w,s}\ L\!\left(\frac{\sigma(\beta s)}{\sigma(s_0)} \odot w\right)
              + \lambda\,\|\sigma(\beta s)\|_1,
              \qquad \beta\colon 1 \to \beta_T \text{ over a round}

    The division by sigma(s_0) makes training start at the function of the dense network. Weights
    with s > 0 are kept, and a round ends with :math:`s \leftarrow \min(\beta_T s, s_0)` (see
    `sparsejax.gates.next_round`). One round prunes; several rounds are a ticket search. The start
    s_0 sets the sparsity, and one program can search a population over s_0 (see `init_population`).
    A ticket has the scale 1 / sigma(s_0) (see `Ticket`).

    The defaults are the equations of the paper. The published code differs from them in five ways,
    each of which is an option::

        method = continuous_sparsification(
            steps, initial, rewind=False, penalty_on="scaled_mask",
            steps_per_stair=steps_per_epoch, restart_beta=1.0,
        )
        state = next_search(method, state, optimizer, renew_optimizer=False)

    Args:
      steps: number of steps in a round, over which beta rises exponentially.
      initial: s_0, a finite scalar, may be traced.
      penalty: lambda, a scalar ``>= 0``, may be traced. If it is tiny, s_0 alone sets the density.
        The sparsest tickets of LeNet300 come from a larger penalty with a moderate s_0, and not
        from an s_0 far below zero. Its effect depends on the learning rate of the gates.
      final_beta: beta_T, a scalar ``>= 1``, may be traced.
      rewind: whether the next round starts from the weights at the rewind step. The published code
        continues with the trained weights and rewinds only the final ticket (False).
      where: leaves that are searched; default: kernels and embeddings (see `sparsejax.chosen`).
      penalty_on: ``"mask"`` penalises sigma(beta s); ``"scaled_mask"`` penalises
        sigma(beta s) / sigma(s_0), as the published code does, which is the same with a lambda
        1 / sigma(s_0) times as large (1.7 to 2.4 for s_0 in -0.3 ... 0.3).
      steps_per_stair: None raises beta at every step. A number keeps beta constant for that many
        steps, with beta_T during the whole last stair; the published code has one stair per epoch.
      restart_beta: factor of s between rounds, ``> 0``, may be traced. None is beta_T, so that
        gates that a round closed stay closed. The published code resets beta to 1 before it takes
        the minimum, so that gates restart at min(s, s_0): with a number, gates may open again in a
        later round, and the ticket of a round is s > 0 regardless of the mask before.

    Returns:
      A `Method`.

    Raises:
      TypeError: an argument is not a number.
      ValueError: an argument is outside its range; in ``init``: ``where`` chooses no leaf.

    References:
      Savarese, Silva and Maire, Winning the lottery with continuous sparsification, NeurIPS 2020;
      its code: lolemacs/continuous-sparsification on GitHub.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sparsejax.tickets import continuous_sparsification, found_ticket, init_search
      >>> from sparsejax.tickets import search_step
      >>> target = jnp.array([[2.0, 0.0], [0.0, 1.0]])
      >>> loss = lambda params, batch, key: (((params["kernel"] - target) ** 2).sum(), {})
      >>> method = continuous_sparsification(steps=100, initial=0.0, penalty=0.1)
      >>> optimizer = optax.sgd(0.1)
      >>> state = init_search(method, {"kernel": target}, optimizer, jax.random.key(0))
      >>> step = jax.jit(search_step(method, loss, optimizer))
      >>> for _ in range(100):
      ...     state, metrics = step(state, None)
      >>> mask = found_ticket(method, state).mask["kernel"]
      >>> print(mask[0, 1], mask[1, 0])  # the weights that are not needed
      False False
    """
    start = _checks.scalar("initial", initial, "a finite number", math.isfinite)
    strength = _checks.scalar_at_least_zero("penalty", penalty)
    if penalty_on not in ("mask", "scaled_mask"):
        raise ValueError(f"penalty_on must be 'mask' or 'scaled_mask'; got {penalty_on!r}")
    beta_at = beta_schedule(steps, final_beta, steps_per_stair)
    between = jnp.asarray(beta_at(steps))
    if restart_beta is not None:
        between = _checks.scalar("restart_beta", restart_beta, "a finite number > 0", _positive)
    scale = 1 / jax.nn.sigmoid(start)

    def at(step: ArrayLike) -> Gates:
        return sigmoid(initial, where=where, beta=jnp.asarray(beta_at(step)))

    def init(
        params: PyTree[Array], key: PRNGKeyArray
    ) -> tuple[Trained, PyTree[Bool[Array, "..."]]]:
        return {"weights": params, "gates": at(0).init(key, params)}, ones_mask(params, where)

    def effective(
        trained: Trained,
        mask: PyTree[Bool[Array, "..."]],
        step: Int32[Array, ""],
        key: PRNGKeyArray,
    ) -> PyTree[Array]:
        del mask
        return map_searched(times, trained["weights"], at(step).sample(trained["gates"], key))

    def cost(trained: Trained, step: Int32[Array, ""]) -> Float[Array, ""]:
        factor = strength if penalty_on == "mask" else strength * scale.astype(strength.dtype)
        return _l1(factor, at(step).active_probability(trained["gates"]))

    def mask(
        trained: Trained, mask: PyTree[Bool[Array, "..."]], key: PRNGKeyArray
    ) -> PyTree[Bool[Array, "..."]]:
        del key
        left = at(0).binarize(trained["gates"])
        return left if restart_beta is not None else jax.tree.map(jnp.logical_and, mask, left)

    def next_start(
        trained: Trained, rewind_params: Trained, mask: PyTree[Bool[Array, "..."]]
    ) -> Trained:
        del mask
        source = rewind_params if rewind else trained
        gates = next_round(trained["gates"], between, initial)
        return {"weights": source["weights"], "gates": gates}

    return Method(
        init, effective, cost, mask, next_start, lambda trained: trained["weights"], scale
    )


def stochastic_l0(
    penalty: Real[ArrayLike, ""],
    temperature: float = 2 / 3,
    drop_rate: float = 0.5,
    rewind: bool = True,
    where: Where = None,
) -> Method:
    r"""Search with hard-concrete gates under an l0 penalty.

    .. math:: \min_{w,\phi}\ \mathbf{E}_z L(z \odot w) + \lambda\,\mathbf{E}\|z\|_0

    Weights whose gate is open at the median are kept. The next round continues with the gates of
    the round before.

    Args:
      penalty: lambda, a scalar ``>= 0``, may be traced.
      temperature: temperature of the hard-concrete distribution, a positive number.
      drop_rate: in (0, 1), approximately the fraction of gates that are closed at the start.
      rewind: whether the next round starts from the weights at the rewind step.
      where: leaves that are searched; default: kernels and embeddings (see `sparsejax.chosen`).

    Returns:
      A `Method`.

    Raises:
      TypeError: ``penalty`` is not a number.
      ValueError: an argument is outside its range; in ``init``: ``where`` chooses no leaf.

    References:
      Louizos, Welling and Kingma, Learning sparse neural networks through L0 regularization, ICLR
      2018.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from sparsejax.tickets import stochastic_l0
      >>> method = stochastic_l0(penalty=1e-4)
      >>> trained, mask = method.init({"kernel": jnp.ones((4, 3))}, jax.random.key(0))
      >>> sorted(trained)
      ['gates', 'weights']
    """
    gates = hard_concrete(temperature, drop_rate=drop_rate, where=where)
    strength = _checks.scalar_at_least_zero("penalty", penalty)

    def init(
        params: PyTree[Array], key: PRNGKeyArray
    ) -> tuple[Trained, PyTree[Bool[Array, "..."]]]:
        whole = ones_mask(params, where)
        keep = jnp.asarray(1 / (1 - drop_rate), jnp.float32)
        weights = map_searched(lambda leaf, _: times(leaf, keep), params, whole)
        return {"weights": weights, "gates": gates.init(key, params)}, whole

    def effective(
        trained: Trained,
        mask: PyTree[Bool[Array, "..."]],
        step: Int32[Array, ""],
        key: PRNGKeyArray,
    ) -> PyTree[Array]:
        del mask, step
        return map_searched(times, trained["weights"], gates.sample(trained["gates"], key))

    def cost(trained: Trained, step: Int32[Array, ""]) -> Float[Array, ""]:
        del step
        return _l1(strength, gates.active_probability(trained["gates"]))

    def mask(
        trained: Trained, mask: PyTree[Bool[Array, "..."]], key: PRNGKeyArray
    ) -> PyTree[Bool[Array, "..."]]:
        del key
        return jax.tree.map(jnp.logical_and, mask, gates.binarize(trained["gates"]))

    def next_start(
        trained: Trained, rewind_params: Trained, mask: PyTree[Bool[Array, "..."]]
    ) -> Trained:
        del mask
        source = rewind_params if rewind else trained
        return {"weights": source["weights"], "gates": trained["gates"]}

    return Method(init, effective, cost, mask, next_start, lambda trained: trained["weights"])


def _l1(strength: Float[Array, ""], active: PyTree[Array]) -> Float[Array, ""]:
    """The l1 penalty of probabilities, which are >= 0: ``strength`` times their sum."""
    total = jnp.asarray(sum(m.sum() for m in jax.tree.leaves(active)))
    return strength.astype(jnp.result_type(total)) * total


def _positive(x: float) -> bool:
    return 0 < x < math.inf
