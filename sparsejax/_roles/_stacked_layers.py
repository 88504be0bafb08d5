"""Detection of leading axes that count stacked layers, from the biases and scales of a tree."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from sparsejax._roles._bias_fit import Shape
from sparsejax._roles._biases import Biases
from sparsejax._roles._leaf_names import is_norm
from sparsejax._roles._neighbours import Neighbours


class Scope(NamedTuple):
    """The stacked layers that the biases and scales below a node of the tree prove."""

    lengths: Shape | None
    """The lengths of the leading axes that count stacked layers, which the biases and scales below
    the node prove and all leaves below it share; empty if no layers are stacked; None if nothing is
    known or the leaves differ."""
    others: frozenset[Shape]
    """The lengths that some biases and scales prove, if the leaves below the node differ."""


class Scopes:
    """The scopes of all nodes of a tree, found when the first one is asked for."""

    def __init__(self, tree: Neighbours, biases: Biases):
        self._tree, self._biases = tree, biases
        self._scopes: dict[tuple[str, ...], Scope] | None = None

    def around(self, number: int) -> Scope:
        """Return the scope of the nearest node above a leaf that has biases or scales below it."""
        if self._scopes is None:
            self._scopes = self._all_scopes()
        layer = self._tree.leaves[number].layer
        for length in range(len(layer), -1, -1):
            scope = self._scopes[layer[:length]]
            if scope.lengths is not None or scope.others:
                return scope
        return Scope(None, frozenset())

    def _all_scopes(self) -> dict[tuple[str, ...], Scope]:
        proofs: dict[tuple[str, ...], set[Shape]] = defaultdict(set)
        shapes: dict[tuple[str, ...], list[Shape]] = defaultdict(list)
        for number, leaf in enumerate(self._tree.leaves):
            if leaf.floating:
                proof = self._proof(number)
                for length in range(len(leaf.layer) + 1):
                    node = leaf.layer[:length]
                    shapes[node].append(leaf.shape)
                    if proof is not None:
                        proofs[node].add(proof)
        return {node: _scope(proofs[node], below) for node, below in shapes.items()}

    def _proof(self, number: int) -> Shape | None:
        """Return the lengths of stacked layers that a bias or a scale proves, if any."""
        leaf, named = self._tree.leaves[number], self._tree.named[number]
        if kernels := self._biases.kernels.get(number):
            fits = [fit for kernel in kernels for fit in self._biases.fits(kernel, number)]
            found = {fit.stacked for fit in fits}
            return leaf.shape[: found.pop()] if len(found) == 1 else None
        of_norm = is_norm(leaf.layer_words) and not self._biases.is_matrix[number]
        of_weight = named == "scale" and "weight" in leaf.words  # (out, 1)
        if leaf.ndim and (of_norm or named == "scale" or leaf.ndim == 1):
            lengths = leaf.shape[:-1]
            # Ones before the last dimension may be there for broadcasting.
            return None if of_weight or (lengths and set(lengths) == {1}) else lengths
        return None


def _scope(proofs: set[Shape], shapes: list[Shape]) -> Scope:
    stacked = frozenset(lengths for lengths in proofs if lengths)
    if not stacked:
        return Scope(() if proofs else None, frozenset())
    if len(proofs) == 1:
        (lengths,) = proofs
        if all(shape[: len(lengths)] == lengths for shape in shapes):
            return Scope(lengths, frozenset())
    return Scope(None, stacked)
