"""The budget of a pruning method: sparsity, distribution over the layers and pattern."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int32

from sparsejax import _checks
from sparsejax._counts import MOST_TRACED, exact_sparsity, kept, kept_traced
from sparsejax._dtypes import at_least_float32
from sparsejax._words import check_sizes, table
from sparsejax.transforms._distributions import (
    Distribution,
    Layer,
    all_together,
    uniform,
)
from sparsejax.transforms._layer_counts import layer_counts
from sparsejax.transforms._patterns import (
    Counts,
    Masks,
    Pattern,
    Scores,
    parse_pattern,
    random_scores,
)
from sparsejax.transforms._scores import Score, magnitude, normalised
from sparsejax.transforms._sparse_method import Weights, all_kept

AT_ONCE = (Fraction(1),)
"""The progress of a schedule that prunes at once."""


class Target(NamedTuple):
    """The number of weights that a method keeps in each group."""

    sparsity: Fraction | Float[Array, ""]
    """The final sparsity: exact if it is known, else a traced scalar."""
    distribution: Distribution
    """How the budget is divided over the layers."""
    pattern: Pattern
    """What is kept or pruned together."""

    def budget(
        self,
        weights: Weights,
        progresses: tuple[Fraction, ...] = AT_ONCE,
        index: Int32[ArrayLike, ""] = 0,
    ) -> Counts:
        """Return the number of items of each group at one of the renewals of a mask.

        Args:
          weights: the leaves that are sparsified.
          progresses: the progress of the schedule at each renewal.
          index: the renewal; may be traced.
        """
        layers = self.layers(weights)
        if isinstance(self.sparsity, Fraction):
            rows = count_rows(self.sparsity, self.distribution, layers, progresses)
            return jnp.asarray(table(rows))[index]
        if not self.distribution.takes_traced:
            raise TypeError("sparsity must be known for this distribution; got a traced one")
        steps = jnp.asarray([float(p) for p in progresses], jnp.float32)[index]
        shares = self.distribution.shares(layers, self.sparsity)
        if (largest := max(size for size, _ in shares)) > MOST_TRACED:
            raise ValueError(
                f"sparsity must be known for more than {MOST_TRACED} items that are ranked "
                f"together; got a traced one for {largest}"
            )

        def count(size: int, sparsity: Any) -> Int32[Array, ""]:
            if isinstance(sparsity, Fraction):  # of a layer with a sparsity of its own
                exact = [kept(size, sparsity, progress) for progress in progresses]
                return jnp.asarray(exact, jnp.int32)[index]
            array = jnp.asarray(sparsity)
            wide = at_least_float32(array)
            return kept_traced(size, array.astype(wide) * steps.astype(wide))

        return jnp.stack([count(size, sparsity) for size, sparsity in shares])

    def scores(self, score: Score | None, weights: Weights) -> Scores:
        """Return the scores of the weights, normalised if the distribution says so.

        With None they are random, and not normalised.
        """
        if score is None:
            assert weights.key is not None
            return random_scores(weights.key, weights.leaves, self.pattern)
        found = score(weights)
        if self.distribution.normalise is None:
            return found
        # Masks have no gradient, but their scores may stand in a loss.
        constant = map(jax.lax.stop_gradient, found)
        return [normalised(values, self.distribution.normalise) for values in constant]

    def largest(self, weights: Weights, scores: Scores, counts: Counts, within: Masks) -> Masks:
        """Return masks of the items with the largest scores, within masks of allowed weights."""
        groups = self.distribution.groups(self.layers(weights))
        return self.pattern.largest(scores, counts, within, groups)

    def magnitude_masks(self, weights: Weights) -> Masks:
        """Return masks of the largest of all weights, as many as the budget keeps in the end."""
        scores = self.scores(magnitude, weights)
        return self.largest(weights, scores, self.budget(weights), all_kept(weights))

    def layers(self, weights: Weights) -> tuple[Layer, ...]:
        """Return the leaves as the distribution sees them, after checking their dimensions."""
        self.pattern.check(weights.names, weights.leaves)
        if self.pattern.kind == "weights":
            check_sizes(weights.names, [leaf.size for leaf in weights.leaves])
        return tuple(
            Layer(path, tuple(leaf.shape), self.pattern.items(tuple(leaf.shape)), leaf.dtype)
            for path, leaf in zip(weights.paths, weights.leaves, strict=True)
        )


def make_target(
    sparsity: Any, distribution: Distribution | None, pattern: str | None = None
) -> Target:
    """Return a target after checking its parts.

    Without a distribution all layers are ranked together; for the pattern n:m it is `uniform`.

    Raises:
      TypeError: ``sparsity`` is not a number, or ``distribution`` is no `Distribution`.
      ValueError: ``sparsity`` is not in [0, 1), ``pattern`` is none, or for the pattern n:m the
        sparsity is not 1 - n/m or the distribution ranks or divides otherwise than `uniform`.
    """
    exact = exact_sparsity("sparsity", sparsity)
    parsed = parse_pattern(pattern)
    if distribution is None:
        distribution = uniform() if parsed.kind == "n_m" else all_together()
    if not isinstance(distribution, Distribution):
        raise TypeError(
            "distribution must be made by all_together, uniform or erdos_renyi; got "
            f"{distribution!r}{_checks.call_it(distribution)}"
        )
    if parsed.kind == "n_m":
        n, m = parsed.numbers
        wanted = 1 - Fraction(n, m)
        if not isinstance(exact, Fraction) or abs(exact - wanted) > Fraction(1, 1000):
            raise ValueError(
                f"sparsity must be {float(wanted):g} for pattern {pattern!r}; got {sparsity}"
            )
        if distribution.together is not None or distribution.meets_total:
            raise ValueError(
                f"distribution must be uniform(), with custom or without, for pattern {pattern!r}, "
                f"which keeps {n} of {m} weights everywhere: layers cannot be ranked together"
            )
        exact = wanted
    return Target(exact, distribution, parsed)


@functools.lru_cache(maxsize=64)
def count_rows(
    sparsity: Fraction,
    distribution: Distribution,
    layers: tuple[Layer, ...],
    progresses: tuple[Fraction, ...],
) -> list[list[int]]:
    """Return the exact count of each group, for each renewal of a mask."""
    shares = distribution.shares(layers, sparsity)
    total = sparsity if distribution.meets_total else None
    rows: list[list[int]] = []
    for progress in reversed(progresses):
        later = rows[-1] if rows else ()
        rows.append(layer_counts(shares, progress, total, later))
    return rows[::-1]
