"""The bits that a network takes in the forms of its compressed weights."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from sparsejax import _checks
from sparsejax._codebooks import bits_for
from sparsejax._forms import (
    LowRankArray,
    QuantizedArray,
    RoundedArray,
    ScaledArray,
    SumArray,
    is_form,
)
from sparsejax._variables import flatten_with_path
from sparsejax.inspection._gap_code import gap_code


class LeafBits(NamedTuple):
    """Bits of one leaf.

    Attributes:
      path: path of the leaf, as ``jax.tree_util.keystr`` writes it.
      form: how the leaf is stored, such as ``"dense"`` or ``"quantized + sparse"``.
      uncompressed: bits of the leaf as a dense array.
      bits: bits of the leaf in its form, without codebooks.
    """

    path: str
    form: str
    uncompressed: int
    bits: int


class StorageBits(NamedTuple):
    """Bits of a tree; ``print`` shows them as a table.

    Attributes:
      leaves: bits of each leaf, in ``jax.tree`` order.
      codebooks: bits of all codebooks together; equal ones count once.
    """

    leaves: tuple[LeafBits, ...]
    codebooks: int

    @property
    def uncompressed(self) -> int:
        """Bits of all leaves as dense arrays."""
        return sum(leaf.uncompressed for leaf in self.leaves)

    @property
    def total(self) -> int:
        """Bits of all leaves in their forms, and of the codebooks."""
        return self.codebooks + sum(leaf.bits for leaf in self.leaves)

    @property
    def compression_ratio(self) -> float:
        """The uncompressed bits divided by the total."""
        if not self.total:
            return math.inf if self.uncompressed else 1.0
        return self.uncompressed / self.total

    def __str__(self) -> str:
        rows = [*self.leaves]
        if self.codebooks:
            rows.append(LeafBits("codebooks", "", 0, self.codebooks))
        rows.append(LeafBits("all", "", self.uncompressed, self.total))
        paths = max(len(row.path) for row in rows)
        forms = max(4, *(len(row.form) for row in rows))
        lines = [f"{'leaf':<{paths}} {'form':<{forms}} {'uncompressed':>14} {'bits':>14}"]
        for path, form, uncompressed, bits in rows:
            lines.append(f"{path:<{paths}} {form:<{forms}} {uncompressed:>14,} {bits:>14,}")
        return "\n".join([*lines, f"compression ratio {self.compression_ratio:.2f}"])


def storage_bits(tree: PyTree, *, value_bits: int | None = None) -> StorageBits:
    r"""Count the bits that a tree takes in the forms of its compressed weights, on the host.

    The rules are those by which compression ratios are usually stated:

    - A quantised leaf takes :math:`\lceil \log_2 k \rceil` bits for each entry, and its codebook
      counts once for all leaves with an equal one.
    - A sparse leaf takes a value and a gap for each entry that is not zero. The gap is the number
      of zeros before the entry, in row-major order, in w bits. A run of more than :math:`2^w - 1`
      zeros is bridged by entries whose value is zero; w is the one that is best for the leaf.
      Codes of a codebook that holds zero are stored in this way, too, where that takes fewer bits.
    - A kernel of low rank takes its two factors, a sum its parts, a rounded leaf its fewer bits,
      and a scaled one its values and the scales of its groups.
    - Any other leaf, or one for which this is less, takes all its entries.

    Names, shapes and widths are not counted. `sparsejax.deploy.save_sparse` writes real files,
    which are further compressed.

    Args:
      tree: pytree of arrays and forms, such as `sparsejax.compressed_forms` returns.
      value_bits: the bits of each floating-point value, 1 or more, also in the uncompressed tree;
        default: those of its dtype.

    Returns:
      A `StorageBits`. An array that occurs at several places (the same Python object) counts once,
      at the first.

    Raises:
      TypeError: ``value_bits`` is not an integer, or a leaf is traced or no array of numbers.
      ValueError: ``value_bits`` is less than 1.

    References:
      Han, Mao and Dally, Deep compression: compressing deep neural networks with pruning, trained
      quantization and Huffman coding, ICLR 2016 (gaps of a fixed width).

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.inspection import storage_bits
      >>> print(storage_bits({"kernel": jnp.eye(8), "bias": jnp.ones(8)}))
      leaf       form     uncompressed           bits
      ['bias']   dense             256            256
      ['kernel'] sparse          2,048            288
      all                        2,304            544
      compression ratio 4.24
    """
    if value_bits is not None:
        value_bits = _checks.python_integer("value_bits", value_bits, 1)
    count = _Count(value_bits)
    found: dict[Any, LeafBits] = {}
    for path, leaf in flatten_with_path(tree, is_leaf=is_form):
        label = jax.tree_util.keystr(path) or "the tree"
        arrays = jax.tree.leaves(leaf)
        shared = all(isinstance(array, (jax.Array, np.ndarray)) for array in arrays)
        key = tuple(map(id, arrays)) if shared else path
        if key in found:
            found[key] = found[key]._replace(path=f"{found[key].path} and {label}")
            continue
        form, bits = count.of(leaf, label)
        found[key] = LeafBits(label, form, leaf.size * count.value(leaf, label), bits)
    return StorageBits(tuple(found.values()), sum(count.codebooks.values()))


@dataclasses.dataclass
class _Count:
    """The rules, and the codebooks that they met."""

    value_bits: int | None
    codebooks: dict[tuple[str, bytes], int] = dataclasses.field(default_factory=dict)

    def of(self, leaf: Any, label: str) -> tuple[str, int]:
        """The name of the form of a leaf, and its bits."""
        match leaf:
            case QuantizedArray():
                return self._quantized(leaf, label)
            case LowRankArray():
                factors = (leaf.left, leaf.right)
                rank = f"rank {leaf.rank}"
                return rank, sum(part.size * self.value(part, label) for part in factors)
            case RoundedArray():
                bits = _dtype_bits(leaf.values.dtype)
                form, bits = _plain(leaf.values, bits)
                return f"{form} {jnp.dtype(leaf.values.dtype).name}", bits
            case ScaledArray():
                form, bits = self.of(leaf.values, label)
                scales = leaf.scales.size * _dtype_bits(leaf.scales.dtype)
                return f"{form} scaled", bits + scales
            case SumArray():
                parts = [self.of(part, label) for part in leaf.parts]
                return " + ".join(form for form, _ in parts), sum(bits for _, bits in parts)
        return _plain(leaf, self.value(leaf, label))

    def value(self, leaf: Any, label: str) -> int:
        """The bits of a value of a leaf."""
        if isinstance(leaf, jax.core.Tracer):
            raise TypeError(f"tree must hold concrete arrays; {label} is traced")
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
            raise TypeError(f"tree must hold arrays of numbers; {label} is {leaf!r}")
        if self.value_bits is not None and jnp.issubdtype(dtype, jnp.floating):
            return self.value_bits
        return _dtype_bits(dtype)

    def _quantized(self, leaf: QuantizedArray, label: str) -> tuple[str, int]:
        codebook, codes = np.asarray(leaf.codebook), np.asarray(leaf.codes)
        self.codebooks[codebook.dtype.name, codebook.tobytes()] = codebook.size * self.value(
            leaf.codebook, label
        )
        dense = codes.size * bits_for(codebook.size)
        values = int((codebook != 0).sum())
        if values == codebook.size:
            return "quantized", dense
        positions = np.flatnonzero(codebook[codes.ravel()] != 0)
        best = gap_code(positions, bits_for(values), bits_for(values + 1)).bits
        return ("quantized", dense) if dense <= best else ("quantized sparse", best)


def _plain(leaf: Any, bits: int) -> tuple[str, int]:
    """The bits of an array whose values take ``bits`` each."""
    array = np.asarray(leaf)
    sparse = gap_code(np.flatnonzero(array.ravel() != 0), bits).bits
    dense = array.size * bits
    return ("dense", dense) if dense <= sparse else ("sparse", sparse)


def _dtype_bits(dtype: Any) -> int:
    if jnp.issubdtype(dtype, jnp.integer):
        return int(jnp.iinfo(dtype).bits)
    if jnp.issubdtype(dtype, jnp.floating):
        return int(jnp.finfo(dtype).bits)
    return 8 * int(jnp.dtype(dtype).itemsize)
