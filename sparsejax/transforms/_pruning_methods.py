"""Methods that only prune: by magnitude, saliency, chance or Fisher information."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from sparsejax import _checks
from sparsejax.transforms import _scores
from sparsejax.transforms._distributions import Distribution, Scale, all_together, uniform
from sparsejax.transforms._patterns import Masks
from sparsejax.transforms._schedules import PruningSchedule, one_shot
from sparsejax.transforms._scores import Score
from sparsejax.transforms._sparse_method import SparseMethod, Weights, all_kept, as_key
from sparsejax.transforms._targets import make_target


def magnitude_pruning(
    sparsity: Float[Any, ""],
    schedule: PruningSchedule | None = None,
    distribution: Distribution | None = None,
    pattern: str | None = None,
) -> SparseMethod:
    r"""Prune the weights with the smallest magnitudes, at once or gradually.

    .. math:: m' = \mathrm{top}_{\kappa_t}(|w|, m)

    Each layer, or all together, keep the :math:`\kappa_t` largest of the weights that the mask m
    still has, in exact numbers (see `kept_weights`); ties keep the earlier weight. What is pruned
    never returns.

    Args:
      sparsity: the final fraction s of weights to remove, a scalar in ``[0, 1)``; may be traced, as
        under ``optax.inject_hyperparams``, and is rounded to a millionth then. Say
        ``hyperparam_dtype=jnp.float32`` there if gradients are narrower; else optax rounds it.
      schedule: when masks are renewed; None for `one_shot` at the first update.
      distribution: the budget of each layer; None for `uniform`.
      pattern: what is kept or pruned together: None for single weights; ``"2:4"`` for 2 of each 4
        neighbours along the last dimension but one, with n of them during the schedule, and with
        the sparsity 1 - n/m; ``"4x1"`` for blocks of 4 rows and 1 column of the last two
        dimensions; ``"channels"`` for slices at one index of the last dimension. Blocks and
        channels rank by the norm of their scores, and the budget counts them.

    Returns:
      A `SparseMethod` for `sparsify`.

    Raises:
      TypeError: ``sparsity`` is not a number, or ``distribution`` or ``schedule`` is of another
        type.
      ValueError: ``sparsity`` is not in ``[0, 1)``, ``pattern`` is none of these, or the three do
        not fit one another; in ``init``: the budget cannot be met.

    References:
      Han et al., Learning both weights and connections for efficient neural networks, NeurIPS 2015;
      Zhu and Gupta, To prune, or not to prune, arXiv:1710.01878, 2017 (gradual).

    Example:
      >>> import optax
      >>> from sparsejax.transforms import magnitude_pruning, polynomial, sparsify
      >>> gradual = magnitude_pruning(0.98, polynomial(1_000, 20_000, every=100))
      >>> optimizer = sparsify(optax.adam(1e-3), gradual)
    """
    return _pruning(_scores.magnitude, sparsity, schedule, distribution, pattern)


def global_magnitude(
    sparsity: Float[Any, ""],
    schedule: PruningSchedule | None = None,
    normalise: Scale | None = None,
    pattern: str | None = None,
) -> SparseMethod:
    r"""Prune the weights with the smallest magnitudes over all layers together.

    .. math:: m' = \mathrm{top}_{\kappa_t}\Bigl(\frac{|w_l|}{c(|w_l|)}, m\Bigr)

    This is `magnitude_pruning` with ``all_together(normalise)`` as its distribution.

    Args:
      sparsity: the final fraction of weights to remove, a scalar in ``[0, 1)``; may be traced.
      schedule: when masks are renewed; None for `one_shot` at the first update.
      normalise: c, what the magnitudes of each layer are divided by: ``"rms"`` for their root mean
        square, ``"l2"`` for their Euclidean norm, None for nothing; see `all_together`.
      pattern: what is kept or pruned together, as in `magnitude_pruning`.

    Returns:
      A `SparseMethod` for `sparsify`.

    Raises:
      TypeError: ``sparsity`` is not a number, or ``schedule`` is of another type.
      ValueError: ``sparsity`` is not in ``[0, 1)``, ``normalise`` is none of these, or ``pattern``
        is not known or n:m.

    References:
      Molchanov et al., Pruning convolutional neural networks for resource efficient inference, ICLR
      2017 (normalised scores).

    Example:
      >>> import optax
      >>> from sparsejax.transforms import global_magnitude, sparsify
      >>> optimizer = sparsify(optax.adam(1e-3), global_magnitude(0.98, normalise="l2"))
    """
    return magnitude_pruning(sparsity, schedule, all_together(normalise), pattern)


def saliency_pruning(
    sparsity: Float[Any, ""],
    schedule: PruningSchedule | None = None,
    distribution: Distribution | None = None,
    pattern: str | None = None,
) -> SparseMethod:
    r"""Prune the weights whose removal changes the loss least, to first order.

    .. math:: m' = \mathrm{top}_{\kappa_t}(|w \odot g|, m)

    The gradient g is the one that ``update`` is given; inside ``optax.MultiSteps`` it is averaged
    over the steps.

    Args:
      sparsity: the final fraction of weights to remove, a scalar in ``[0, 1)``; may be traced.
      schedule: when masks are renewed; None for `one_shot` at the first update.
      distribution: the budget of each layer; None for `uniform`.
      pattern: what is kept or pruned together, as in `magnitude_pruning`.

    Returns:
      A `SparseMethod` for `sparsify`.

    Raises:
      TypeError: ``sparsity`` is not a number, or ``distribution`` or ``schedule`` is of another
        type.
      ValueError: ``sparsity`` is not in ``[0, 1)``, ``pattern`` is not known, or the three do not
        fit one another; in ``init``: the budget cannot be met.

    References:
      Molchanov et al., Pruning convolutional neural networks for resource efficient inference, ICLR
      2017.

    Example:
      >>> import optax
      >>> from sparsejax.transforms import one_shot, saliency_pruning, sparsify
      >>> optimizer = sparsify(optax.adam(1e-3), saliency_pruning(0.9, one_shot(500)))
    """
    return _pruning(_scores.saliency, sparsity, schedule, distribution, pattern)


def random_pruning(
    sparsity: Float[Any, ""],
    schedule: PruningSchedule | None = None,
    distribution: Distribution | None = None,
    pattern: str | None = None,
    key: int | PRNGKeyArray = 0,
) -> SparseMethod:
    """Prune random weights, the control of the other methods.

    Args:
      sparsity: the final fraction of weights to remove, a scalar in ``[0, 1)``; may be traced.
      schedule: when masks are renewed; None for `one_shot` at the first update.
      distribution: the budget of each layer; None for `uniform`.
      pattern: what is kept or pruned together, as in `magnitude_pruning`.
      key: a key of ``jax.random`` or a seed. The state keeps it, and update t uses its own key.

    Returns:
      A `SparseMethod` for `sparsify`.

    Raises:
      TypeError: ``sparsity`` is not a number, ``key`` is no key, or ``distribution`` or
        ``schedule`` is of another type.
      ValueError: ``sparsity`` is not in ``[0, 1)``, ``pattern`` is not known, or the three do not
        fit one another; in ``init``: the budget cannot be met.

    Example:
      >>> import optax
      >>> from sparsejax.transforms import random_pruning, sparsify
      >>> optimizer = sparsify(optax.adam(1e-3), random_pruning(0.9, key=1))
    """
    method = _pruning(None, sparsity, schedule, distribution, pattern)
    return method._replace(key=as_key(key))


def adam_fisher_pruning(
    sparsity: Float[Any, ""],
    schedule: PruningSchedule | None = None,
    distribution: Distribution | None = None,
    pattern: str | None = None,
) -> SparseMethod:
    r"""Prune by the diagonal of the Fisher information, which Adam estimates anyway.

    .. math:: m' = \mathrm{top}_{\kappa_t}(w^2 \odot v, m)

    The second moment v is the optimizer's: a tree in a field ``nu`` of its state, as
    ``optax.adam``, ``optax.adamw``, ``optax.rmsprop`` and others have. Its bias correction is the
    same for all weights, so it does not matter here. ``optax.adamax`` cannot be told from Adam by
    its state, but keeps the largest magnitude of the gradient there, not its square.

    Args:
      sparsity: the final fraction of weights to remove, a scalar in ``[0, 1)``; may be traced.
      schedule: when masks are renewed; None for `one_shot` at update 1. Nothing can be pruned at
        update 0, before which v is zero.
      distribution: the budget of each layer; None for `uniform`.
      pattern: what is kept or pruned together, as in `magnitude_pruning`.

    Returns:
      A `SparseMethod` for `sparsify`.

    Raises:
      TypeError: ``sparsity`` is not a number, or ``distribution`` or ``schedule`` is of another
        type.
      ValueError: ``sparsity`` is not in ``[0, 1)``, ``pattern`` is not known, or the three do not
        fit one another, or ``schedule`` prunes at update 0; in ``init``: the budget cannot be met,
        or the optimizer keeps no second moments.

    References:
      Theis et al., Faster gaze prediction with dense networks and Fisher pruning, arXiv:1801.05787,
      2018.

    Example:
      >>> import optax
      >>> from sparsejax.transforms import adam_fisher_pruning, one_shot, sparsify
      >>> optimizer = sparsify(optax.adam(1e-3), adam_fisher_pruning(0.9, one_shot(500)))
    """
    schedule = one_shot(1) if schedule is None else schedule
    check = _scores.check_second_moments
    method = _pruning(_scores.adam_fisher, sparsity, schedule, distribution, pattern, check)
    if schedule.begin == 0 and schedule.progresses()[0] > 0:
        raise ValueError(
            "schedule must prune after update 0, before which all second moments are zero; got "
            f"{schedule!r}"
        )
    return method


def _pruning(
    score: Score | None,
    sparsity: Any,
    schedule: PruningSchedule | None,
    distribution: Distribution | None,
    pattern: str | None,
    check: Callable[[Weights], None] | None = None,
) -> SparseMethod:
    """Return the method that keeps the weights with the largest scores among those left.

    With None as the score it keeps random ones.
    """
    target = make_target(sparsity, distribution or uniform(), pattern)
    schedule = one_shot() if schedule is None else schedule
    if not isinstance(schedule, PruningSchedule):
        raise TypeError(
            f"schedule must be made by one_shot or polynomial; got {schedule!r}"
            f"{_checks.call_it(schedule)}"
        )
    progresses = tuple(schedule.progresses())

    def budget(weights: Weights) -> Array:
        return target.budget(weights, progresses, schedule.renewal(weights.step))

    def first_mask(weights: Weights) -> Masks:
        budget(weights)  # raises where it cannot be met
        if check is not None:
            check(weights)
        return all_kept(weights)

    def next_mask(weights: Weights, masks: Masks) -> Masks:
        return target.largest(weights, target.scores(score, weights), budget(weights), masks)

    return SparseMethod(first_mask, next_mask, schedule.is_due, regrows=False)
