"""Lookup of the floating-point leaves of a layer by their words, stems, names and shapes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sparsejax._roles._bias_fit import Shape
from sparsejax._roles._leaf_names import Name, named, stem
from sparsejax._tree_layers import Leaf


class Neighbours:
    """The leaves of a tree, numbered in ``jax.tree`` order, with lookups of those of one layer.

    Attributes:
      leaves: the leaves.
      named: for each leaf the role that its own name states, or None.
    """

    def __init__(self, leaves: Sequence[Leaf]):
        self.leaves = leaves
        self.named = [named(leaf) for leaf in leaves]
        self._found: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for number, leaf in enumerate(leaves):
            if leaf.floating:
                self._found[leaf.layer,].append(number)
                self._found[leaf.layer, "word", "".join(leaf.words)].append(number)
                self._found[leaf.layer, "stem", stem(leaf)].append(number)
                self._found[leaf.layer, "shape", leaf.shape].append(number)
                self._found[leaf.layer, "name", self.named[number]].append(number)

    def beside(self, number: int) -> list[int]:
        """Return the other floating-point leaves of the same layer."""
        return [n for n in self._found[self.leaves[number].layer,] if n != number]

    def with_name(self, number: int, name: Name) -> list[int]:
        """Return the leaves of the same layer whose names state a role."""
        return self._found[self.leaves[number].layer, "name", name]

    def with_same_stem(self, number: int) -> list[int]:
        """Return the other leaves of the same layer whose names have the same stem."""
        leaf = self.leaves[number]
        return [n for n in self._found[leaf.layer, "stem", stem(leaf)] if n != number]

    def with_same_shape(self, number: int) -> list[int]:
        """Return the other leaves of the same layer that have the same shape."""
        leaf = self.leaves[number]
        return [n for n in self._found[leaf.layer, "shape", leaf.shape] if n != number]

    def partners(self, number: int, letter: str) -> list[int]:
        """Return the leaves of the same layer with a letter in place of b: ``w1`` for ``b1``."""
        leaf = self.leaves[number]
        word = "".join(leaf.words)
        names = []
        if word.startswith("b"):
            names.append(letter + word[1:])
        if word.endswith("b"):
            names.append(word[:-1] + letter)
        return [n for name in names for n in self._found[leaf.layer, "word", name]]

    def shape(self, number: int) -> Shape:
        """Return the shape of a leaf."""
        return self.leaves[number].shape
