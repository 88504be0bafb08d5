"""Products of computed values with weights, and constants that are summed in them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_CHUNK = 2**22  # weights that are multiplied by constants at once


class Contraction(NamedTuple):
    """A product of computed values with weights, summed over units: dense layer or convolution.

    The weights have one dimension of units that are read, dimensions of units that are written, and
    dimensions of a window.
    """

    computed: int
    """The value that is read."""
    axis: int
    """Its dimension that is summed over."""
    weights: int
    """The value of the weights."""
    read: int
    """The weights' dimension that is summed over."""
    written: tuple[int, ...]
    """The weights' dimensions that the result has, in its order."""
    result_axes: tuple[int, ...]
    """The result's dimensions that are ``written``."""
    window: tuple[int, ...]
    """The weights' dimensions over positions."""
    padded: bool
    """Whether zeros take the place of some of the positions that are read."""
    groups: int = 1
    """The number of equal parts of ``axis`` and of ``written``: part i writes part i alone. Unit u
    of ``read`` is unit u of each part."""


class Weights(NamedTuple):
    """The weights of a contraction."""

    nonzero: np.ndarray
    """Booleans [read, *written]: whether any weight of the window is not zero. In groups, weights
    that read constant zeros count as zero."""
    array: np.ndarray
    """[read, *written, *window], a view of the parameter where possible."""


def constant_contribution(weights: Weights, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    r"""Return what constant units add to the units that read them.

    .. math:: b_j = \sum_{i \in rows} c_i \sum_p w_{ijp}

    Args:
      weights: :math:`w`, with positions :math:`p` in the window.
      rows: booleans [read]: the units that are constant.
      numbers: [read]: :math:`c`.

    Returns:
      [*written] in the widest dtype of their kind; integers are exact modulo its range.
    """
    array, ndim = weights.array, weights.nonzero.ndim
    dtype = widest(array.dtype, numbers.dtype)
    total = np.zeros(array.shape[1:ndim], dtype)
    chosen = np.flatnonzero(rows & (numbers != 0))
    step = max(1, _CHUNK // max(1, array[:1].size))
    for start in range(0, len(chosen), step):
        some = chosen[start : start + step]
        summed = array[some].astype(dtype).sum(axis=tuple(range(ndim, array.ndim)), dtype=dtype)
        total += np.tensordot(numbers[some].astype(dtype), summed, axes=1)
    return total


def in_groups(numbers: np.ndarray, groups: int, written: int) -> np.ndarray:
    """Return what each written unit reads, for a contraction in groups.

    Args:
      numbers: [groups * read]: an entry for each unit of the computed value.
      groups: the number of groups.
      written: the number of units that are written by all groups together.

    Returns:
      [read, written].
    """
    return np.repeat(numbers.reshape(groups, -1).T, written // groups, axis=1)


def widest(*dtypes: Any) -> np.dtype:
    """Return the widest dtype of the same kind, in which sums on the host are computed.

    Args:
      *dtypes: dtypes; complex ones come before floating, signed and unsigned ones.

    Returns:
      complex128, float64, int64 or uint64; int64 for booleans.
    """
    for kind, dtype in (
        (jnp.complexfloating, np.complex128),
        (jnp.floating, np.float64),
        (jnp.signedinteger, np.int64),
        (jnp.unsignedinteger, np.uint64),
    ):
        if any(jnp.issubdtype(other, kind) for other in dtypes):
            return np.dtype(dtype)
    return np.dtype(np.int64)


def narrow(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Convert to a dtype of the same kind without a warning.

    Args:
      array: an array in the widest dtype of its kind.
      dtype: the dtype to convert to.

    Returns:
      The array: floats are rounded and overflow to infinity, integers are taken modulo the range.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)
