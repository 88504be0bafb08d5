"""Exact numbers of weights that layers keep while a schedule progresses."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from sparsejax._counts import kept, kept_ratio


def layer_counts(
    shares: Sequence[tuple[int, Fraction]],
    progress: Fraction,
    total_sparsity: Fraction | None = None,
    later: Sequence[int] = (),
) -> list[int]:
    """Return how many items each group keeps when a schedule has progressed that far.

    Args:
      shares: the number of items of each group, and its final sparsity.
      progress: the progress of the schedule.
      total_sparsity: the final sparsity of all groups together, where the total must be exact;
        with None each count is rounded by itself.
      later: the counts of the next renewal. No group keeps fewer items now if it can: a weight that
        has been pruned does not come back, and the total would be missed then.

    Raises:
      ValueError: the total must be exact, and there are more groups than items to keep.
    """
    if total_sparsity is None:
        return [kept(size, sparsity, progress) for size, sparsity in shares]
    total = kept(sum(size for size, _ in shares), total_sparsity, progress)
    least = later if sum(later) <= total else ()  # more may be kept later, as in AC/DC
    return _exact_counts(shares, progress, total, least)


def _exact_counts(
    shares: Sequence[tuple[int, Fraction]], progress: Fraction, total: int, least: Sequence[int]
) -> list[int]:
    """Return how many items each group keeps, such that they add up to ``total``.

    No group keeps fewer than ``least`` says, whose sum must not exceed ``total``.
    """
    filled = sum(size > 0 for size, _ in shares)
    if total < filled:
        raise ValueError(
            f"distribution must keep at least one weight of each layer; {total} are left for "
            f"{filled} layers. Lower the sparsity"
        )
    ratios = [kept_ratio(size, sparsity, progress) for size, sparsity in shares]
    least = least or [0] * len(shares)
    lowest = [max(min(1, size), n) for (size, _), n in zip(shares, least, strict=True)]
    counts = [max(n, over // under) for n, (over, under) in zip(lowest, ratios, strict=True)]
    # Groups whose share is below the lowest number keep that, at the expense of the largest.
    while sum(counts) > total:
        above = [i for i, n in enumerate(lowest) if counts[i] > n]
        counts[max(above, key=lambda i: (counts[i], -i))] -= 1
    remainders = [
        Fraction(over, under) - n for (over, under), n in zip(ratios, counts, strict=True)
    ]
    for i in sorted(range(len(counts)), key=lambda i: (-remainders[i], i)):
        if sum(counts) == total:
            break
        counts[i] += counts[i] < shares[i][0]
    return counts
