"""Detection of biases and of the kernels that they belong to."""

from __future__ import annotations

from collections import defaultdict

from sparsejax._roles._bias_fit import BOTH, Fit, Layout, Shape, fits
from sparsejax._roles._leaf_names import is_norm
from sparsejax._roles._neighbours import Neighbours


class Biases:
    """The biases of a tree.

    Attributes:
      is_matrix: for each leaf whether it is floating point, has two or more dimensions and is
        neither a scale nor a bias.
      kernels: for each bias the kernels that it may belong to: one, none, or several where neither
        names nor shapes decide.
      of_kernel: for each leaf the biases that may belong to it.
      lone: the biases that fit no kernel and no scale of their layer.
    """

    def __init__(self, tree: Neighbours):
        self._tree = tree
        numbers = range(len(tree.leaves))
        is_bias = [self._is_bias(number) for number in numbers]
        self.is_matrix = [
            leaf.floating and leaf.ndim >= 2 and tree.named[n] != "scale" and not is_bias[n]
            for n, leaf in enumerate(tree.leaves)
        ]
        self.lone: set[int] = set()
        self.kernels = {n: self._kernels_of(n) for n in numbers if is_bias[n]}
        self.of_kernel: dict[int, list[int]] = defaultdict(list)
        for bias, kernels in self.kernels.items():
            for kernel in kernels:
                self.of_kernel[kernel].append(bias)

    def fits(self, kernel: int, bias: int) -> list[Fit]:
        """Return the ways in which a bias fits a kernel, in the layouts that its name allows.

        A leaf called ``kernel`` has its outputs last. PyTorch and Equinox put the outputs of a
        ``weight`` first, but others use that name, too, so both layouts are possible. Leaves of any
        other name have their outputs first only if the bias fits in no other way.
        """
        named = self._tree.named[kernel]
        layouts: tuple[Layout, ...] = ("outputs last",) if named == "kernel" else BOTH
        found = fits(self._tree.shape(kernel), self._tree.shape(bias), layouts)
        last = [fit for fit in found if fit.layout == "outputs last"]
        first = [fit for fit in found if fit.layout == "outputs first"]
        if "weight" not in self._tree.leaves[kernel].words:
            return last or first
        # A bias (out, 1, 1) belongs to one convolution, not as (1, 1) to each of stacked layers.
        own = self._tree.shape(bias)
        return first + [fit for fit in last if not first or set(own[fit.stacked :]) != {1}]

    def _is_bias(self, number: int) -> bool:
        """Whether a leaf is a bias by its name, or by a short name and its shape."""
        tree = self._tree
        leaf, named = tree.leaves[number], tree.named[number]
        if not leaf.floating or named in ("scale", "kernel", "weight"):
            return False
        if named == "bias" or (named == "b" and is_norm(leaf.layer_words)):
            return True
        if leaf.pair == 1:  # (kernel, bias)
            found = [fit for n in tree.beside(number) for fit in fits(tree.shape(n), leaf.shape)]
            return any(_one_axis(fit) for fit in found)
        kernels = tree.partners(number, "w")
        if any(_is_column(leaf.shape, tree.shape(n)) for n in kernels):
            return True
        if named != "b" and not kernels:
            return False
        if not kernels:
            # Two-dimensional a and b, as in LoRA, are two factors.
            factors = leaf.ndim >= 2 and tree.partners(number, "a")
            kernels = [] if factors else tree.beside(number)
        kernels = [n for n in kernels if tree.named[n] not in ("scale", "bias", "b")]
        return any(fits(tree.shape(n), leaf.shape) for n in kernels)

    def _kernels_of(self, bias: int) -> list[int]:
        tree = self._tree
        same_stem = tree.with_same_stem(bias)
        found = [n for n in same_stem if self.is_matrix[n] and self.fits(n, bias)]
        if found or any(tree.shape(n) == tree.shape(bias) for n in same_stem):
            return found  # none if a scale of the same stem stands beside the bias
        found = [n for n in tree.beside(bias) if self.is_matrix[n] and self.fits(n, bias)]
        if not found and not is_norm(tree.leaves[bias].layer_words):
            self.lone.add(bias)
        return found


def _is_column(bias: Shape, kernel: Shape) -> bool:
    """Whether a bias has one entry for each row of a matrix [out, in]."""
    return len(kernel) == 2 and bias == (kernel[0], 1) and bias != kernel


def _one_axis(fit: Fit) -> bool:
    """Whether the bias has exactly one axis of its own, apart from axes of length 1."""
    return sum(axis is not None for axis in fit.axes[fit.stacked :]) == 1
