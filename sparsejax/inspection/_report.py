"""Numbers of non-zero weights, in total and for each leaf."""

from __future__ import annotations

import bz2
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PyTree

from sparsejax._forms import decode
from sparsejax._where import Where, choose

_INT32 = 2**31 - 1  # tests lower it


class LeafReport(NamedTuple):
    """Counts of one leaf.

    Attributes:
      path: path of the leaf, as ``jax.tree_util.keystr`` writes it.
      size: number of entries.
      nonzeros: number of entries that are not zero.
    """

    path: str
    size: int
    nonzeros: int

    @property
    def density(self) -> float:
        """The fraction of entries that are not zero."""
        return self.nonzeros / self.size if self.size else 0.0


class Report(NamedTuple):
    """Counts of the chosen leaves of a tree; ``print`` shows them as a table.

    Attributes:
      leaves: counts of each leaf, in ``jax.tree`` order.
    """

    leaves: tuple[LeafReport, ...]

    @property
    def size(self) -> int:
        """Number of entries of all leaves together."""
        return sum(leaf.size for leaf in self.leaves)

    @property
    def nonzeros(self) -> int:
        """Number of entries that are not zero, of all leaves together."""
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


def report(params: PyTree[Array], where: Where = None) -> Report:
    """Count the non-zero entries of the chosen leaves on the host, in total and for each.

    Args:
      params: pytree of arrays, and of forms as `sparsejax.compressed_forms` returns them, whose
        arrays are counted.
      where: leaves that are counted; default: kernels and embeddings (see `sparsejax.chosen`).

    Returns:
      A `Report`; ``print`` shows it as a table. NaN counts as not zero. An array that occurs at two
      places of ``params`` (the same Python object) is one leaf with both paths and counts once.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: ``where`` chooses no leaf, or the last dimension of one has 2**31 entries or more.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.inspection import report
      >>> print(report({"kernel": jnp.eye(4), "bias": jnp.zeros(4)}))
      leaf            entries     non-zero   density
      ['kernel']           16            4   25.000%
      all                  16            4   25.000%
    """
    chosen = choose(decode(params), where)
    counts = jax.device_get(
        [_nonzeros(path, leaf) for path, leaf in zip(chosen.paths, chosen.leaves, strict=True)]
    )
    return Report(
        tuple(
            LeafReport(path, leaf.size, int(np.sum(count, dtype=np.int64)))
            for path, leaf, count in zip(chosen.paths, chosen.leaves, counts, strict=True)
        )
    )


def _nonzeros(path: str, leaf: Array) -> Array:
    """Count the entries that are not zero; those of a leaf that is too large for int32 by row."""
    if leaf.size <= _INT32:
        return (leaf != 0).sum()
    if leaf.shape[-1] > _INT32:
        raise ValueError(
            f"the last dimension of a chosen leaf must have at most {_INT32} entries; that of "
            f"{path or 'the leaf'} has {leaf.shape[-1]}"
        )
    return (leaf != 0).sum(-1)


def bzip2_bytes(params: PyTree[Array]) -> int:
    """Return the size of the parameters after compression by BZIP2, on the host.

    Args:
      params: pytree of arrays.

    Returns:
      The size in bytes of the concatenated leaves, each in its own dtype, after BZIP2.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.inspection import bzip2_bytes
      >>> bzip2_bytes({"kernel": jnp.zeros((100, 100))}) < 100
      True
    """
    raw = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
    return len(bz2.compress(raw))
