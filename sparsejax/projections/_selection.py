"""Exact selection of the largest entries by counting, without a sort, a gather or a copy."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax._dtypes import at_least_float32
from sparsejax._words import as_float
from sparsejax._words import excess as wide_excess
from sparsejax.projections._alike import alike
from sparsejax.projections._count import Counts, count_all_reaching, table, varying_zero
from sparsejax.projections._keep import keep
from sparsejax.projections._keys import KeyFormat, key_format
from sparsejax.projections._sample import sampled_thresholds
from sparsejax.projections._search import Bracket, search
from sparsejax.projections._shards import Layout, whole_size
from sparsejax.projections._ties import cut_ties


class Form(NamedTuple):
    """A way to compute a selection; the result does not depend on it."""

    thresholds: int
    """The number of thresholds of a pass, a power of two minus one."""
    sampled_from: int = 2**21
    """From this number of entries on, a sample costs less than it saves."""
    together: int = 1
    """The maximum number of leaves of one shape that are counted together."""


# On XLA:CPU a pass that counts more than eight is slower, and each reduction takes long to compile.
CPU_FORM = Form(thresholds=7, together=16)
ACCELERATOR_FORM = Form(thresholds=15)  # 31 cost more arithmetic than a read of the weights there
FORMS = (CPU_FORM, ACCELERATOR_FORM)


class Selection(NamedTuple):
    """The largest entries: all above a threshold, and the first ones that tie with it."""

    threshold: jax.Array
    """The key of the threshold."""
    partial: jax.Array
    """int32 scalar: tied entries are selected in all leaves before the one of this number, and in
    none after it."""
    following: jax.Array
    """int32 scalar: in that leaf they are selected if at least this many entries of it follow."""
    any_nan: jax.Array
    """bool scalar: whether any entry is NaN."""

    def magnitude(self, keys: KeyFormat) -> jax.Array:
        """Return the threshold as a magnitude, in float32 or wider."""
        magnitude = keys.magnitude(jnp.minimum(self.threshold, keys.infinity))
        return magnitude.astype(at_least_float32(magnitude))

    def keep(self, leaves: Sequence[jax.Array], layouts: Sequence[Layout]) -> list[jax.Array]:
        """Return the leaves with all entries set to zero that are not selected."""
        keys = key_format(leaves)
        # XLA:CPU generates code once for all leaves of a shape if their kernels differ in operands
        # alone. Behind a barrier and with more than one entry, a leaf's number is an operand; as
        # a known scalar it would be part of the kernel.
        numbers = lax.optimization_barrier(
            [np.array([n, -1], np.int32) for n in range(len(leaves))]
        )
        return [
            _keep_leaf(leaf, number, self, keys, layout)
            for leaf, number, layout in zip(leaves, numbers, layouts, strict=True)
        ]


def select(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    kappa: jax.Array,
    warm_start: jax.Array | None = None,
    forms: tuple[Form, Form] = FORMS,
) -> Selection:
    """Select the ``kappa`` largest magnitudes of all leaves together.

    Ties at the threshold are broken by position: earlier leaf first, then earlier entry in
    row-major order. If the threshold is zero, all zeros are selected, since keeping a zero or
    setting it to zero is the same.

    Args:
      leaves: arrays, of which at least one is not empty.
      layouts: the layout of each leaf.
      kappa: a count from `count_words`, from 0 to the number of entries.
      warm_start: a magnitude close to the expected threshold; 0 or None for none. It never changes
        the result.
      forms: how the selection is computed on a CPU and on other platforms. The choice is made when
        the program is lowered for a platform.

    Returns:
      The selection.
    """
    leaves = [lax.stop_gradient(leaf) for leaf in leaves]
    warm = [] if warm_start is None else [lax.stop_gradient(warm_start)]
    on_cpu, elsewhere = (functools.partial(_select, form, tuple(layouts)) for form in forms)
    if forms[0] == forms[1]:
        return on_cpu(leaves, kappa, *warm)
    found: Selection = lax.platform_dependent(leaves, kappa, *warm, cpu=on_cpu, default=elsewhere)
    return found


def _select(
    form: Form,
    layouts: Sequence[Layout],
    leaves: Sequence[jax.Array],
    kappa: jax.Array,
    warm_start: jax.Array | None = None,
) -> Selection:
    keys = key_format(leaves)
    groups = alike(leaves, layouts, form.together)
    sizes = np.array([whole_size(g.of(leaves), g.of(layouts)) for g in groups], np.int32)
    zero = varying_zero(leaves, layouts)
    key_zero = zero.astype(keys.bits)
    end = keys.infinity + 1  # only NaN has a key this large

    def count(thresholds: jax.Array) -> jax.Array:
        # The barrier makes the keys depend on the thresholds: otherwise XLA hoists their
        # computation out of the search loop and stores the keys of all weights. There is one for
        # each group: what the kernels of a shape share, XLA:CPU passes to the last of them in
        # another order, and it would generate code for that one again.
        counts = []
        for group in groups:
            held, at = lax.optimization_barrier((group.of(leaves), thresholds))
            counts.append(_count_group(held, at, keys))
        return table(counts, [layouts[group[0]] for group in groups])

    def excess(counts: jax.Array) -> jax.Array:
        return wide_excess(counts, kappa)

    first = _first_thresholds(leaves, layouts, keys, kappa, warm_start, form) + key_zero
    first = jnp.concatenate([first, jnp.full((1,), end, keys.bits) + key_zero])
    bracket = Bracket(key_zero, key_zero + end, zero + sizes, zero + 0 * sizes)
    cut, nans = search(count, excess, bracket, keys.octave, form.thresholds, first)
    partial, following = cut_ties(leaves, layouts, groups, keys, cut, excess, form.thresholds)
    return Selection(cut.low, partial, following, (nans > 0).any())


@functools.partial(jax.jit, static_argnames=("keys",))
def _count_group(leaves: Sequence[jax.Array], thresholds: jax.Array, keys: KeyFormat) -> Counts:
    return count_all_reaching([keys.keys(leaf) for leaf in leaves], thresholds)


@functools.partial(jax.jit, static_argnames=("keys", "layout"))
def _keep_leaf(
    leaf: jax.Array, number: jax.Array, selection: Selection, keys: KeyFormat, layout: Layout
) -> jax.Array:
    key = keys.keys(leaf)
    no_ties = np.iinfo(np.int32).max
    least = jnp.where(number[0] < selection.partial, 0, no_ties)
    least = jnp.where(number[0] == selection.partial, selection.following, least)
    first = layout.positions_from_end(leaf) >= least
    mask = (key > selection.threshold) | ((key == selection.threshold) & first)
    return keep(leaf, mask, selection.any_nan)


def _first_thresholds(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    keys: KeyFormat,
    kappa: jax.Array,
    warm_start: jax.Array | None,
    form: Form,
) -> jax.Array:
    """Return all thresholds but one of the first pass, an even number.

    They come from a sample or, for few entries, from ``warm_start`` or are spread evenly.
    """
    number, total = form.thresholds - 1, whole_size(leaves, layouts)
    zero = varying_zero(leaves, layouts).astype(keys.bits)
    expected = zero if warm_start is None else zero + keys.keys(warm_start.astype(keys.dtype))
    expected = jnp.minimum(expected, keys.infinity)
    if total >= form.sampled_from:
        ranks = as_float(kappa)
        thresholds = sampled_thresholds(leaves, layouts, keys, ranks, total, number)
        if warm_start is None:
            return thresholds
        # A sample is more precise than a warm start that is slightly off, so it keeps all
        # thresholds but two; these end the search where the warm start is exact.
        middle = np.arange(number) - number // 2 + 1
        exact = jnp.where(middle == 1, expected + 1, expected)
        inside = (middle == 0) | (middle == 1)
        return jnp.where(inside & (warm_start > 0), exact, thresholds)
    step = keys.infinity // form.thresholds
    evenly = zero + np.arange(step, step * form.thresholds, step, dtype=keys.bits)
    if warm_start is None:
        return evenly
    far, near = max(keys.octave >> 6, 1), max(keys.octave >> 11, 1)
    apart = np.geomspace(near, far, number // 2 - 1).astype(keys.bits)
    offsets = np.concatenate([-apart[::-1], np.array([0, 1], keys.bits), apart])
    around = jnp.clip(expected, far, keys.infinity - far) + offsets
    return jnp.where(warm_start > 0, around, evenly)


def entries_after(leaves: Sequence[jax.Array], layouts: Sequence[Layout]) -> list[int]:
    """Return for each leaf the total number of entries of the leaves after it."""
    after, following = 0, []
    for leaf, layout in zip(reversed(leaves), reversed(layouts), strict=True):
        following.append(after)
        after += layout.size(leaf)
    return following[::-1]
