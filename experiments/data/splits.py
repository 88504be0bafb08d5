"""A validation split held out of the training images: stratified and seeded."""

from __future__ import annotations

import numpy as np


def stratified_holdout(
    labels: np.ndarray, size: int, seed: int, fold: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split examples into training and validation indices, stratified by class.

    Each class is held out in proportion to its share (rounded by largest remainder, so that
    exactly ``size`` are held out); the examples within a class are drawn from ``seed``.

    Args:
      labels: int array [n].
      size: number of examples to hold out.
      seed: seed of the draw.
      fold: which of the disjoint sets of that size is held out.

    Returns:
      Sorted, disjoint index arrays [n - size] and [size].

    Raises:
      ValueError: ``size`` is not from 0 to n - 1, or ``fold`` is negative or beyond the last set
        of that size.
    """
    if not 0 <= size < len(labels):
        raise ValueError(f"size must be from 0 to {len(labels) - 1}; got {size}")
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts * size / len(labels)
    quotas = np.floor(shares).astype(int)
    rest = size - quotas.sum()
    quotas[np.argsort(quotas - shares, kind="stable")[:rest]] += 1
    rng = np.random.default_rng(seed)
    folds = min(
        (count // quota for count, quota in zip(counts, quotas, strict=True) if quota), default=1
    )
    if not 0 <= fold < folds:
        raise ValueError(f"fold must be from 0 to {folds - 1}; got {fold}")
    held = [
        rng.permutation(np.flatnonzero(labels == label))[fold * quota : (fold + 1) * quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    validation = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), validation), validation
