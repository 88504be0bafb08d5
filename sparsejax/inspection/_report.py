"""How many weights are left, in all and leaf by leaf."""

from __future__ import annotations

import bz2
from typing import NamedTuple

import jax
import numpy as np

from sparsejax._where import PyTree, Where, choose


class LeafReport(NamedTuple):
    """Counts of one leaf."""

    path: str
    size: int
    nonzeros: int

    @property
    def density(self) -> float:
        """The fraction of entries that are not zero."""
        return self.nonzeros / self.size if self.size else 0.0


class Report(NamedTuple):
    """Counts of the chosen leaves of a tree."""

    leaves: tuple[LeafReport, ...]

    @property
    def size(self) -> int:
        """Entries of all leaves together."""
        return sum(leaf.size for leaf in self.leaves)

    @property
    def nonzeros(self) -> int:
        """Entries that are not zero, of all leaves together."""
        return sum(leaf.nonzeros for leaf in self.leaves)

    @property
    def density(self) -> float:
        """The fraction of entries that are not zero."""
        return LeafReport("", self.size, self.nonzeros).density

    def __str__(self) -> str:
        rows = [*self.leaves, LeafReport("all", self.size, self.nonzeros)]
        width = max(len(row.path) for row in rows)
        lines = [f"{'leaf':<{width}} {'entries':>12} {'non-zero':>12} {'density':>9}"]
        for row in rows:
            lines.append(
                f"{row.path:<{width}} {row.size:>12,} {row.nonzeros:>12,} {row.density:>9.3%}"
            )
        return "\n".join(lines)


def report(params: PyTree, where: Where = None) -> Report:
    """Totals and per-leaf counts and densities of the chosen leaves. Runs on the host.

    Args:
      params: pytree of arrays.
      where: which leaves are counted; default: kernels and embeddings (see `sparsejax.chosen`).

    Returns:
      A `Report`; ``print`` shows it as a table. NaN counts as not zero. An array that stands at two
      places of ``params`` (the same Python object) is one leaf with both paths and counts once.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: ``where`` chooses nothing.
    """
    chosen = choose(params, where)
    counts = jax.device_get([(leaf != 0).sum() for leaf in chosen.leaves])
    return Report(
        tuple(
            LeafReport(path, leaf.size, int(count))
            for path, leaf, count in zip(chosen.paths, chosen.leaves, counts, strict=True)
        )
    )


def bzip2_bytes(params: PyTree) -> int:
    """The size in bytes of all leaves, one after another in their own dtypes, after BZIP2."""
    raw = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
    return len(bz2.compress(raw))
