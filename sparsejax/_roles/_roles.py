"""The role of each leaf of a tree of parameters, from its name, its shape and its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from sparsejax._roles._bias_fit import Fit
from sparsejax._roles._biases import Biases
from sparsejax._roles._leaf_names import VECTORS, is_norm, stem
from sparsejax._roles._neighbours import Neighbours
from sparsejax._roles._stacked_layers import Scope, Scopes
from sparsejax._tree_layers import Leaf

Kind: TypeAlias = Literal["weight", "bias", "scale", "vector", "other"]


class Role(NamedTuple):
    """The role of a leaf and the reason for it."""

    kind: Kind
    """A weight (a kernel or an embedding), a bias, a scale (or a running statistic), a vector with
    one entry per unit, or other for a leaf that is not floating point."""
    why: str
    """The reason, as tables and warnings show it."""
    doubtful: bool = False
    """Whether names and shapes do not decide the role; then it is not a weight."""


class Roles:
    """The roles of a tree's leaves, which are numbered in ``jax.tree`` order.

    Attributes:
      leaves: the leaves.
      kernels: for each bias the kernels that it may belong to: one, none, or several where neither
        names nor shapes decide.
      biases: for each leaf the biases that may belong to it.
      lone_biases: the biases that fit no kernel and no scale of their layer.
    """

    def __init__(self, leaves: Sequence[Leaf]):
        self.leaves = leaves
        self._tree = Neighbours(leaves)
        self._biases = Biases(self._tree)
        self._scopes = Scopes(self._tree, self._biases)
        self.kernels = self._biases.kernels
        self.biases = self._biases.of_kernel
        self.lone_biases = self._biases.lone

    def beside(self, number: int) -> list[int]:
        """Return the other floating-point leaves of the same layer."""
        return self._tree.beside(number)

    def fits(self, kernel: int, bias: int) -> list[Fit]:
        """Return the ways in which a bias fits a kernel, see `Biases`."""
        return self._biases.fits(kernel, bias)

    def scope(self, number: int) -> Scope:
        """Return what the leaves around a leaf prove about stacked layers."""
        return self._scopes.around(number)

    def role(self, number: int) -> Role:
        """Return the role of a leaf."""
        leaf, named = self.leaves[number], self._tree.named[number]
        if not leaf.floating:
            return Role("other", "not floating point")
        if number in self.kernels:
            return Role("bias", "a bias")
        if named == "scale":
            return Role("scale", "a scale or a statistic of a normalisation")
        if leaf.ndim < 2:
            in_norm = named in ("weight", None) and is_norm(leaf.layer_words)
            return Role("scale" if in_norm else "vector", "fewer than two dimensions")
        if named == "kernel" or not leaf.key:
            return Role("weight", "a kernel or an embedding" if leaf.key else "the whole tree")
        if not self.biases[number] or self._has_one_axis(number):
            role = self._as_scale(number) or self._as_vector(number)
            if role is not None:
                return role
        return Role("weight", "a kernel" if named == "weight" else "two or more dimensions")

    def _has_one_axis(self, number: int) -> bool:
        """Whether a leaf has an unknown name, three or more dimensions and at most one long one."""
        leaf = self.leaves[number]
        own = leaf.shape[len(self.scope(number).lengths or ()) :]
        return self._tree.named[number] is None and len(own) > 2 and sum(n != 1 for n in own) < 2

    def _as_scale(self, number: int) -> Role | None:
        """Return the role of a leaf, not called kernel, that may belong to a normalisation."""
        leaf, named = self.leaves[number], self._tree.named[number]
        alike = self._tree.with_same_shape(number)
        biases = [n for n in alike if n in self.kernels and stem(self.leaves[n]) == stem(leaf)]
        if biases and named == "weight":
            return Role("scale", f"a scale, with the shape of {self.leaves[biases[0]].label}")
        if is_norm(leaf.layer_words):
            return Role("scale", "a leaf of a normalisation", doubtful=named != "weight")
        pairs = [
            n for n in alike if self._tree.named[n] == "b" and number in self._tree.partners(n, "w")
        ]
        pairs += [n for n in alike if named == "b" and n in self._tree.partners(number, "w")]
        if biases or pairs:
            label = self.leaves[(biases or pairs)[0]].label
            why = f"it has the shape of {label}, as the scale and the bias of a normalisation do"
            return Role("scale", why, doubtful=True)
        return None

    def _as_vector(self, number: int) -> Role | None:
        """Return the role of a leaf, not called kernel, that may have one entry per unit."""
        leaf = self.leaves[number]
        lengths = self.scope(number).lengths or ()
        if lengths and leaf.shape[: len(lengths)] == lengths and leaf.ndim - len(lengths) < 2:
            why = f"the leaves around it belong to layers stacked as {lengths}, and it has one axis"
            why += " besides"
            return Role("vector", why, doubtful=True)
        if self._tree.named[number] == "weight" or self._is_factor(number):
            return None
        by_name = self._tree.with_name(number, "kernel") + self._tree.with_name(number, "weight")
        for other in by_name:
            if not stem(self.leaves[other]) and self.fits(other, number):
                why = f"it has the shape of a bias of {self.leaves[other].label}"
                return Role("vector", why, doubtful=True)
        if self._has_one_axis(number) or sum(length != 1 for length in leaf.shape) < 2:
            if VECTORS & set(leaf.words):
                return Role("vector", "a vector")
            why = "at most one of its dimensions is longer than 1"
            for other in self.beside(number):
                if self._biases.is_matrix[other] and self.fits(other, number):
                    why += f", and it has the shape of a bias of {self.leaves[other].label}"
                    return Role("vector", why, doubtful=True)
            if leaf.ndim > 2:
                return Role("vector", why, doubtful=True)
        return None

    def _is_factor(self, number: int) -> bool:
        """Whether a leaf is one of two factors that are called a and b, as in LoRA."""
        tree = self._tree
        if tree.named[number] == "b":
            pairs = [(n, number) for n in tree.partners(number, "a")]
        else:
            named_b = tree.with_name(number, "b")
            pairs = [(number, n) for n in named_b if number in tree.partners(n, "a")]
        shapes = [(tree.shape(a), tree.shape(b)) for a, b in pairs]
        return any(a and len(b) >= 2 and a[-1] == b[-2] for a, b in shapes)
