"""Distributions of a budget over the layers of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np

from sparsejax._counts import exact_sparsity
from sparsejax._variables import Path

Rules: TypeAlias = Sequence[tuple[Callable[[Path, Any], bool], Any]]
"""Pairs of a callable ``(path, leaf) -> bool`` and the sparsity of the leaves that it chooses; the
first rule that chooses a leaf counts."""
Scale: TypeAlias = Literal["rms", "l2"]
"""What the scores of a layer are divided by: their root mean square or their Euclidean norm."""


class Layer(NamedTuple):
    """A leaf that is sparsified, as a distribution sees it."""

    path: Path
    """The path of the leaf, as in ``jax.tree_util.tree_map_with_path``."""
    shape: tuple[int, ...]
    """Its shape."""
    items: int
    """The number of its weights, or of its blocks or channels where they are pruned as a whole."""
    dtype: Any = np.dtype("float32")
    """Its dtype, which rules may ask for."""

    def follows(self, rule: Callable[[Path, Any], bool]) -> bool:
        """Whether a rule chooses this leaf."""
        return bool(rule(self.path, jax.ShapeDtypeStruct(self.shape, self.dtype)))


class Distribution(NamedTuple):
    """A division of a budget over the layers, as `uniform` and its siblings return it."""

    sparsities: Callable[[Sequence[Layer], Any], Sequence[Any]]
    """``(layers, sparsity) -> sparsities``, one for each layer; it is the same for all layers that
    are ranked together."""
    together: Callable[[Layer], bool] | None = None
    """Whether a layer is ranked together with all others of which this is true; None if each layer
    is ranked alone."""
    normalise: Scale | None = None
    """What scores are divided by before layers are compared."""
    meets_total: bool = False
    """Whether the layers together keep exactly as many weights as the sparsity of the whole network
    says; otherwise the count of each layer is rounded by itself."""
    takes_traced: bool = True
    """Whether the sparsity may be traced."""

    def groups(self, layers: Sequence[Layer]) -> list[list[int]]:
        """Return the indices of the layers that are ranked together, group by group."""
        joined = [self.together is not None and self.together(layer) for layer in layers]
        shared = [i for i, is_joined in enumerate(joined) if is_joined]
        alone = [[i] for i, is_joined in enumerate(joined) if not is_joined]
        return [shared, *alone] if shared else alone

    def shares(self, layers: Sequence[Layer], sparsity: Any) -> list[tuple[int, Any]]:
        """Return the number of items of each group, and its sparsity."""
        own = self.sparsities(layers, sparsity)
        return [
            (sum(layers[i].items for i in group), own[group[0]]) for group in self.groups(layers)
        ]


def all_together(normalise: Scale | None = None, custom: Rules = ()) -> Distribution:
    r"""Rank the weights of all layers together, so that the weights decide how many a layer keeps.

    .. math:: \text{rank by } \frac{q_l}{c(q_l)}, \qquad
              c(q) = 1, \quad \sqrt{\tfrac{1}{n}\textstyle\sum_i q_i^2}
              \quad\text{or}\quad \sqrt{\textstyle\sum_i q_i^2}

    Here :math:`q_l` are the scores of layer l, such as :math:`|w_l|`, of all its n weights.

    Args:
      normalise: what the scores of a layer are divided by, so that layers of small weights are not
        pruned away: ``"rms"`` for their root mean square; ``"l2"`` for their Euclidean norm, which
        favours layers of few weights; None to leave scores as they are. For c they are rounded to
        2^-24 of the largest, and their squares are added up as integers, so it does not depend on
        how weights are sharded. Scores that are not finite count as 0 in c. With blocks and
        channels the scores of single weights are divided. Random scores are never divided.
      custom: sparsities of single layers, as for `uniform`. These are ranked by themselves, and the
        sparsity of the network holds for all others together. A schedule holds for both.

    Returns:
      A `Distribution`.

    Raises:
      TypeError: ``custom`` does not hold pairs of a callable and a number.
      ValueError: ``normalise`` is none of these, or a sparsity in ``custom`` is not in ``[0, 1)``.
        Where the distribution is used: a rule of ``custom`` chooses no layer.

    References:
      Molchanov et al., Pruning convolutional neural networks for resource efficient inference, ICLR
      2017 (scores divided by their Euclidean norm).

    Example:
      >>> from sparsejax.transforms import all_together, saliency_pruning
      >>> method = saliency_pruning(0.9, distribution=all_together(normalise="l2"))
    """
    if not (normalise is None or (isinstance(normalise, str) and normalise in ("rms", "l2"))):
        hint = "; give rules by name, custom=" if isinstance(normalise, (list, tuple)) else ""
        raise ValueError(f"normalise must be None, 'rms' or 'l2'; got {normalise!r}{hint}")
    rules = _checked(custom)
    return Distribution(
        _given_or_common(rules), lambda layer: _by_rule(rules, layer) is None, normalise
    )


def uniform(custom: Rules = ()) -> Distribution:
    r"""Give each layer the same sparsity.

    .. math:: \kappa_l = \mathrm{round}(n_l (1 - s))

    Args:
      custom: sparsities of single layers: pairs of a callable ``(path, leaf) -> bool`` and a
        sparsity in ``[0, 1)``. The first rule that chooses a leaf counts; 0 keeps a layer dense.

    Returns:
      A `Distribution`.

    Raises:
      TypeError: ``custom`` does not hold pairs of a callable and a number.
      ValueError: a sparsity in ``custom`` is not in ``[0, 1)``. Where the distribution is used: a
        rule of ``custom`` chooses no layer.

    Example:
      >>> from sparsejax.transforms import magnitude_pruning, uniform
      >>> dense_head = uniform([(lambda path, leaf: "head" in str(path), 0.0)])
      >>> method = magnitude_pruning(0.9, distribution=dense_head)
    """
    return Distribution(_given_or_common(_checked(custom)))


def erdos_renyi(kernel: bool = True, power: float = 1.0, custom: Rules = ()) -> Distribution:
    r"""Give layers with few weights for their width a higher density: ER and ERK.

    .. math:: 1 - s_l = \min(1, \epsilon p_l), \qquad
              p_l = \Bigl(\frac{\sum_i \text{shape}_i}{\prod_i \text{shape}_i}\Bigr)^\gamma

    The factor epsilon is such that all layers together keep exactly as many weights as the sparsity
    of the whole network says. A layer with epsilon p > 1 becomes dense, and epsilon is solved again
    for the others, until there is none. All is computed in rational numbers (the power gamma in
    float64 if it is not 1). The count of a layer is rounded up or down such that the total is
    exact: the largest remainders go up, and ties the earlier layer. Each layer keeps at least one
    weight.

    Args:
      kernel: whether all dimensions of a leaf enter (ERK) or only the last two (ER), which are the
        inputs and outputs of a kernel [..., in, out].
      power: gamma, a number >= 0. With 0 all layers that are not dense have the same density.
      custom: sparsities of single layers, as for `uniform`. The other layers share what they leave
        of the budget.

    Returns:
      A `Distribution`. The sparsity that it divides must be known, not traced. Where it is used, it
      raises a ValueError if it cannot be met: the layers of ``custom`` alone keep more weights than
      the budget has, all layers with those of ``custom`` keep fewer, or there are more layers than
      weights to keep.

    Raises:
      TypeError: ``custom`` does not hold pairs of a callable and a number.
      ValueError: ``power`` is negative, or a sparsity in ``custom`` is not in ``[0, 1)``. Where the
        distribution is used: a rule of ``custom`` chooses no layer.

    References:
      Mocanu et al., Scalable training of artificial neural networks with adaptive sparse
      connectivity inspired by network science, Nature Communications 9 (2018) (ER); Evci et al.,
      Rigging the lottery: making all tickets winners, ICML 2020 (ERK).

    Example:
      >>> from sparsejax.transforms import erdos_renyi, rigl
      >>> method = rigl(0.9, end=30_000, distribution=erdos_renyi(kernel=False))
    """
    if not (isinstance(power, (int, float, Fraction, np.number)) and power >= 0):
        raise ValueError(f"power must be a number >= 0; got {power}")
    rules = _checked(custom)

    def raw_density(layer: Layer) -> Fraction:
        shape = layer.shape if kernel else layer.shape[-2:]
        ratio = Fraction(sum(shape), max(1, _product(shape)))
        return ratio if power == 1 else Fraction(float(ratio) ** power)

    def sparsities(layers: Sequence[Layer], sparsity: Fraction) -> Sequence[Fraction]:
        own = _given(rules, layers)
        sizes = [layer.items for layer in layers]
        densities = [Fraction(0) if s is None else 1 - s for s in own]
        budget = sum(sizes) * (1 - sparsity)
        ruled = sum(n * d for n, d in zip(sizes, densities, strict=True))
        if ruled > budget:
            raise ValueError(
                f"distribution must keep at most {float(budget):g} weights for the sparsity "
                f"{float(sparsity):g}; the layers of custom alone keep {float(ruled):g} of "
                f"{sum(sizes)}. Lower the sparsity or raise those of custom"
            )
        free = {i for i, s in enumerate(own) if s is None}
        raw = [raw_density(layer) for layer in layers]
        dense: set[int] = set()
        while True:
            rest = budget - ruled - sum(sizes[i] for i in dense)
            weight = sum(raw[i] * sizes[i] for i in free - dense)
            epsilon = Fraction(rest, weight) if weight else Fraction(0)
            full = {i for i in free - dense if epsilon * raw[i] > 1}
            if not full:
                break
            dense |= full
        if free <= dense and rest > 0:
            raise ValueError(
                f"distribution must keep {float(budget):g} weights for the sparsity "
                f"{float(sparsity):g}; there are {float(budget - rest):g} at most with the "
                "sparsities of custom. Lower those of custom"
            )
        for i in free:
            densities[i] = Fraction(1) if i in dense else epsilon * raw[i]
        return [1 - density for density in densities]

    return Distribution(sparsities, meets_total=True, takes_traced=False)


_Rules: TypeAlias = tuple[tuple[Callable[[Path, Any], bool], Fraction], ...]


def _checked(custom: Rules) -> _Rules:
    rules = []
    for rule in custom if isinstance(custom, (tuple, list)) else [custom]:
        if not (isinstance(rule, (tuple, list)) and len(rule) == 2 and callable(rule[0])):
            raise TypeError(
                "custom must hold pairs of a callable (path, leaf) -> bool and a sparsity; got "
                f"{rule!r}"
            )
        sparsity = exact_sparsity("a sparsity of custom", rule[1])
        if not isinstance(sparsity, Fraction):
            raise TypeError("a sparsity of custom must be known; got a traced one")
        rules.append((rule[0], sparsity))
    return tuple(rules)


def _given_or_common(rules: _Rules) -> Callable[[Sequence[Layer], Any], Sequence[Any]]:
    """Return a function that gives each layer the sparsity of its rule, or else the network's."""

    def sparsities(layers: Sequence[Layer], sparsity: Any) -> Sequence[Any]:
        return [sparsity if s is None else s for s in _given(rules, layers)]

    return sparsities


def _given(rules: _Rules, layers: Sequence[Layer]) -> list[Fraction | None]:
    """Return the sparsity of each layer that a rule chooses.

    Raises:
      ValueError: a rule chooses no layer.
    """
    for number, (rule, sparsity) in enumerate(rules):
        if not any(layer.follows(rule) for layer in layers):
            names = ", ".join(jax.tree_util.keystr(layer.path) for layer in layers[:10])
            raise ValueError(
                f"custom must hold rules that choose a layer; rule {number}, of the sparsity "
                f"{float(sparsity):g}, chooses none of the {len(layers)} that are sparsified: "
                f"{names}{', ...' if len(layers) > 10 else ''}"
            )
    return [_by_rule(rules, layer) for layer in layers]


def _by_rule(rules: _Rules, layer: Layer) -> Fraction | None:
    return next((sparsity for rule, sparsity in rules if layer.follows(rule)), None)


def _product(shape: Sequence[int]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product
