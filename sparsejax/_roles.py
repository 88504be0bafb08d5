"""What each leaf of a tree of parameters is: a weight, a bias, a scale or some other vector."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from sparsejax._bias_fit import BOTH, Fit, Layout, Shape, fits
from sparsejax._tree_layers import Leaf

Kind = Literal["weight", "bias", "scale", "vector", "other"]

_BIASES = {"bias", "biases", "offset", "beta"}
_SCALES = {"scale", "scales", "gamma", "gain"}
_NORMS = {"norm", "ln", "bn", "gn", "rms"}
_WEIGHTS = {"weight", "weights", "kernel", "kernels", "embedding", "embeddings", "w"}
_VECTORS = {"alpha", "slope", "temperature", "token", "tokens", "cls"}


class Role(NamedTuple):
    """What a leaf is, and from what it is known."""

    kind: Kind
    """A weight (a kernel or an embedding), a bias, a scale (or a running statistic), a vector with
    one entry per unit, or something that is not floating point."""
    why: str
    doubtful: bool = False
    """Whether names and shapes leave it open; then it is not a weight."""


class Scope(NamedTuple):
    """What the nearest node above a leaf that has biases or scales says about stacked layers."""

    lengths: Shape | None
    """The leading lengths of stacked layers: those that the biases and scales below the node prove
    and that all leaves below it share; empty if nothing is stacked; None if nothing is known or
    the leaves differ."""
    others: frozenset[Shape]
    """Where the leaves differ: the lengths that some biases and scales prove."""


class Roles:
    """The roles of a tree's leaves, from their names and from what stands beside them.

    Attributes:
      leaves: the leaves.
      kernels: for each bias, the kernels that it may belong to: one, or several where neither name
        nor shape tells, or none.
      biases: for each leaf, the biases that may belong to it.
      lone_biases: the biases that fit beside no kernel, nor beside a scale.
    """

    def __init__(self, leaves: Sequence[Leaf]):
        self.leaves = leaves
        self._layers: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._by_word: dict[tuple[object, ...], list[int]] = defaultdict(list)
        self._by_stem: dict[tuple[object, ...], list[int]] = defaultdict(list)
        self._by_shape: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for number, leaf in enumerate(leaves):
            if leaf.floating:
                self._layers[leaf.layer].append(number)
                self._by_word[leaf.layer, "".join(leaf.words)].append(number)
                self._by_stem[leaf.layer, _stem(leaf)].append(number)
                self._by_shape[leaf.layer, leaf.shape].append(number)
        self._named = [_named(leaf) for leaf in leaves]
        self._by_name: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for number, leaf in enumerate(leaves):
            if leaf.floating:
                self._by_name[leaf.layer, self._named[number]].append(number)
        is_bias = [self._is_bias(number) for number in range(len(leaves))]
        self._matrices = [
            leaf.floating and leaf.ndim >= 2 and self._named[n] != "scale" and not is_bias[n]
            for n, leaf in enumerate(leaves)
        ]
        self.lone_biases: set[int] = set()
        self.kernels = {n: self._kernels_of(n) for n in range(len(leaves)) if is_bias[n]}
        self.biases: dict[int, list[int]] = defaultdict(list)
        for bias, kernels in self.kernels.items():
            for kernel in kernels:
                self.biases[kernel].append(bias)
        self._scopes: dict[tuple[str, ...], Scope] | None = None

    def role(self, number: int) -> Role:
        """What a leaf is."""
        leaf, named = self.leaves[number], self._named[number]
        if not leaf.floating:
            return Role("other", "not floating point")
        if number in self.kernels:
            return Role("bias", "a bias")
        if named == "scale":
            return Role("scale", "a scale or a statistic of a normalisation")
        if leaf.ndim < 2:
            in_norm = named in ("weight", None) and _is_norm(leaf.layer_words)
            return Role("scale" if in_norm else "vector", "fewer than two dimensions")
        if named == "kernel" or not leaf.key:
            return Role("weight", "a kernel or an embedding" if leaf.key else "the whole tree")
        if not self.biases[number] or self._has_one_axis(number):
            role = self._as_scale(number) or self._as_vector(number)
            if role is not None:
                return role
        return Role("weight", "a kernel" if named == "weight" else "two or more dimensions")

    def _has_one_axis(self, number: int) -> bool:
        """Whether a leaf of three or more dimensions and unknown name is as good as a vector."""
        leaf = self.leaves[number]
        own = leaf.shape[len(self.scope(number).lengths or ()) :]
        return self._named[number] is None and len(own) > 2 and sum(n != 1 for n in own) < 2

    def beside(self, number: int) -> list[int]:
        """The other floating-point leaves of the same layer."""
        return [n for n in self._layers[self.leaves[number].layer] if n != number]

    def is_named(self, number: int, name: str) -> bool:
        """Whether a leaf's own name says that it is a ``kernel``, a ``weight`` and so on."""
        return self._named[number] == name

    def fits(self, kernel: int, bias: int) -> list[Fit]:
        """The ways in which a bias stands beside a kernel, in the layouts that its name allows.

        Outputs come last in what is called ``kernel``. They come first in what PyTorch and Equinox
        call ``weight``, but others use that name too, so both layouts are possible. In a leaf of
        any other name they come first only if the bias fits in no other way.
        """
        named = self._named[kernel]
        layouts: tuple[Layout, ...] = ("outputs last",) if named == "kernel" else BOTH
        found = fits(self.leaves[kernel].shape, self.leaves[bias].shape, layouts)
        last = [fit for fit in found if fit.layout == "outputs last"]
        first = [fit for fit in found if fit.layout == "outputs first"]
        if "weight" not in self.leaves[kernel].words:
            return last or first
        # A bias (out, 1, 1) is one of a convolution, not one of (1, 1) for each of stacked layers.
        own = self.leaves[bias].shape
        return first + [fit for fit in last if not first or set(own[fit.stacked :]) != {1}]

    def scope(self, number: int) -> Scope:
        """What stands around a leaf says about stacked layers; see `Scope`."""
        if self._scopes is None:
            self._scopes = self._all_scopes()
        layer = self.leaves[number].layer
        for length in range(len(layer), -1, -1):
            scope = self._scopes[layer[:length]]
            if scope.lengths is not None or scope.others:
                return scope
        return Scope(None, frozenset())

    def _is_bias(self, number: int) -> bool:
        """Whether a leaf is a bias by its name, or by a short name and by its shape."""
        leaf, named = self.leaves[number], self._named[number]
        if not leaf.floating or named in ("scale", "kernel", "weight"):
            return False
        if named == "bias" or (named == "b" and _is_norm(leaf.layer_words)):
            return True
        if leaf.pair == 1:  # (kernel, bias)
            found = [
                fit for n in self.beside(number) for fit in fits(self.leaves[n].shape, leaf.shape)
            ]
            return any(_one_axis(fit) for fit in found)
        kernels = self._partners(leaf, "w")
        if any(_is_column(leaf.shape, self.leaves[n].shape) for n in kernels):
            return True
        if named != "b" and not kernels:
            return False
        if not kernels:
            # Of a and b with two dimensions, as of LoRA, each is one of two factors.
            factors = leaf.ndim >= 2 and self._partners(leaf, "a")
            kernels = [] if factors else self.beside(number)
        kernels = [n for n in kernels if self._named[n] not in ("scale", "bias", "b")]
        return any(fits(self.leaves[n].shape, leaf.shape) for n in kernels)

    def _kernels_of(self, bias: int) -> list[int]:
        leaf = self.leaves[bias]
        same_name = [n for n in self._by_stem[leaf.layer, _stem(leaf)] if n != bias]
        found = [n for n in same_name if self._matrices[n] and self.fits(n, bias)]
        if found or any(self.leaves[n].shape == leaf.shape for n in same_name):
            return found  # none where a scale of that name stands beside it
        found = [n for n in self.beside(bias) if self._matrices[n] and self.fits(n, bias)]
        if not found and not _is_norm(leaf.layer_words):
            self.lone_biases.add(bias)
        return found

    def _partners(self, leaf: Leaf, letter: str) -> list[int]:
        """The leaves of the same layer with this letter in place of a b: ``w1`` for ``b1``."""
        word = "".join(leaf.words)
        names = []
        if word.startswith("b"):
            names.append(letter + word[1:])
        if word.endswith("b"):
            names.append(word[:-1] + letter)
        return [n for name in names for n in self._by_word[leaf.layer, name]]

    def _as_scale(self, number: int) -> Role | None:
        """What a leaf of no kernel's name is if it looks like part of a normalisation."""
        leaf, named = self.leaves[number], self._named[number]
        alike = [n for n in self._by_shape[leaf.layer, leaf.shape] if n != number]
        biases = [n for n in alike if n in self.kernels and _stem(self.leaves[n]) == _stem(leaf)]
        if biases and named == "weight":
            return Role("scale", f"a scale, with the shape of {self.leaves[biases[0]].label}")
        if _is_norm(leaf.layer_words):
            return Role("scale", "a leaf of a normalisation", doubtful=named != "weight")
        pairs = [
            n
            for n in alike
            if self._named[n] == "b" and number in self._partners(self.leaves[n], "w")
        ]
        pairs += [n for n in alike if named == "b" and n in self._partners(leaf, "w")]
        if biases or pairs:
            label = self.leaves[(biases or pairs)[0]].label
            why = f"it has the shape of {label}, as the scale and the bias of a normalisation do"
            return Role("scale", why, doubtful=True)
        return None

    def _as_vector(self, number: int) -> Role | None:
        """What a leaf of no kernel's name is if it looks like a vector with an entry per unit."""
        leaf = self.leaves[number]
        lengths = self.scope(number).lengths or ()
        if lengths and leaf.shape[: len(lengths)] == lengths and leaf.ndim - len(lengths) < 2:
            why = f"the leaves around it belong to layers stacked as {lengths}, and it has one axis"
            why += " besides"
            return Role("vector", why, doubtful=True)
        if self._named[number] == "weight" or self._is_factor(number):
            return None
        by_name = self._by_name[leaf.layer, "kernel"] + self._by_name[leaf.layer, "weight"]
        for other in by_name:
            if not _stem(self.leaves[other]) and self.fits(other, number):
                why = f"it has the shape of a bias of {self.leaves[other].label}"
                return Role("vector", why, doubtful=True)
        if self._has_one_axis(number) or sum(length != 1 for length in leaf.shape) < 2:
            if _VECTORS & set(leaf.words):
                return Role("vector", "a vector")
            why = "at most one of its dimensions is longer than 1"
            for other in self.beside(number):
                if self._matrices[other] and self.fits(other, number):
                    why += f", and it has the shape of a bias of {self.leaves[other].label}"
                    return Role("vector", why, doubtful=True)
            if leaf.ndim > 2:
                return Role("vector", why, doubtful=True)
        return None

    def _is_factor(self, number: int) -> bool:
        """Whether a leaf is one of two factors that are called a and b, as those of LoRA."""
        leaf = self.leaves[number]
        if self._named[number] == "b":
            pairs = [(n, number) for n in self._partners(leaf, "a")]
        else:
            named_b = self._by_name[leaf.layer, "b"]
            pairs = [(number, n) for n in named_b if number in self._partners(self.leaves[n], "a")]
        shapes = [(self.leaves[a].shape, self.leaves[b].shape) for a, b in pairs]
        return any(len(b) >= 2 and a[-1] == b[-2] for a, b in shapes)

    def _all_scopes(self) -> dict[tuple[str, ...], Scope]:
        proofs: dict[tuple[str, ...], set[Shape]] = defaultdict(set)
        shapes: dict[tuple[str, ...], list[Shape]] = defaultdict(list)
        for number, leaf in enumerate(self.leaves):
            if leaf.floating:
                proof = self._stacked_lengths(number)
                for length in range(len(leaf.layer) + 1):
                    node = leaf.layer[:length]
                    shapes[node].append(leaf.shape)
                    if proof is not None:
                        proofs[node].add(proof)
        return {node: _scope(proofs[node], below) for node, below in shapes.items()}

    def _stacked_lengths(self, number: int) -> Shape | None:
        """The lengths of stacked layers that a bias or a scale proves, if it proves any."""
        leaf = self.leaves[number]
        if kernels := self.kernels.get(number):
            found = {fit.stacked for kernel in kernels for fit in self.fits(kernel, number)}
            return leaf.shape[: found.pop()] if len(found) == 1 else None
        of_norm = _is_norm(leaf.layer_words) and not self._matrices[number]
        of_weight = self._named[number] == "scale" and "weight" in leaf.words  # (out, 1)
        if leaf.ndim and (of_norm or self._named[number] == "scale" or leaf.ndim == 1):
            lengths = leaf.shape[:-1]
            # Ones before the last dimension may just broadcast.
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


def _is_column(bias: Shape, kernel: Shape) -> bool:
    """Whether a bias has one entry for each row of a matrix [out, in]."""
    return len(kernel) == 2 and bias == (kernel[0], 1) and bias != kernel


def _one_axis(fit: Fit) -> bool:
    """Whether the bias has one axis of its own, besides ones."""
    return sum(axis is not None for axis in fit.axes[fit.stacked :]) == 1


def _named(leaf: Leaf) -> Literal["kernel", "weight", "bias", "b", "scale"] | None:
    """What a leaf's own name says; ``weight`` is a kernel, or a scale in a normalisation."""
    words = [word for word in leaf.words if not word.isdigit()]
    if not words:
        return None
    statistic = {"mean", "var", "variance"} & set(words)
    if statistic and ({"running", "moving"} & set(words) or _is_norm(leaf.layer_words)):
        return "scale"
    if words == ["weight", "g"] or (words == ["g"] and _is_norm(leaf.layer_words)):
        return "scale"  # of weight normalisation, or of another one
    for word in reversed(words):
        if word in _BIASES:
            return "bias"
        if word in _SCALES or _is_norm([word]):
            return "scale"
        if word.startswith(("kernel", "embed")) or word == "emb":
            return "kernel"
        if word in ("weight", "weights"):
            return "scale" if _is_norm(words) else "weight"
    if "w" in (words[0], words[-1]):
        return "weight"
    return "b" if "b" in (words[0], words[-1]) else None


def _is_norm(words: Sequence[str]) -> bool:
    return any(
        word in _NORMS or word.endswith("norm") or word.startswith("normali") for word in words
    )


def _stem(leaf: Leaf) -> tuple[str, ...]:
    """The words of a leaf's name without those that say what it is."""
    words = leaf.words
    rest = tuple(word for word in words if word not in _BIASES | _SCALES | _WEIGHTS | {"b"})
    if rest == words and words and words[0][0] in "wb" and len(words[0]) > 1:
        return (words[0][1:], *words[1:])  # wq and bq
    return rest
