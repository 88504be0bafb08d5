"""Shrink many random networks: ``python -m tests.deploy.shrinking.random_networks --examples 500``.

Networks that move units about are drawn for even seeds, and networks on sequences for odd ones.
Each is shrunk for two batch sizes and, on sequences, for two lengths, and must compute what the
whole one does, also expanded again. Printed are the numbers of wrong networks, of those with units
that are kept for unsupported operations, by operation, and what was left of the parameters.
"""

import collections
import dataclasses
import gc
import os
import sys
import time

from tests import flags

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = flags.for_commands()  # programs are compiled quickly
    gc.set_threshold(50_000, 20, 100)

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from hypothesis import strategies as st

from sparsejax.deploy import Network, expand, shrink
from tests.deploy.shrinking import random_sequences, random_units


def draw(seed):
    """A network, and functions that draw inputs for it: one for each shape of an example."""
    rng = np.random.default_rng(seed)
    if seed % 2:
        function, params, width = random_sequences.network(rng)
        shapes = [(length, width) for length in (4, 7)]
    else:
        function, params, shape = random_units.network(rng)
        shapes = [shape]
    return Network(function, params), shapes


networks = st.integers(0, 2**31 - 1).map(draw)
"""A strategy: networks, and the shapes of examples without the batch."""


def check(network, shapes, rng):
    """Raise AssertionError if a shrunk network is wrong; return one that was shrunk."""
    whole = jax.jit(network.function)
    for shape in shapes:
        one, several = (
            shrink(network, jax.ShapeDtypeStruct((n, *shape), jnp.float32), keep_unsupported=True)
            for n in (1, 3)
        )
        sizes = [jax.tree.map(jnp.shape, small.params) for small in (one, several)]
        assert sizes[0] == sizes[1], f"the batch of the example decides: {sizes}"
        for batch in (1, 4):
            x = rng.normal(size=(batch, *shape)).astype(np.float32)
            expected = whole(network.params, x)
            compare(jax.jit(several.function)(several.params, x), expected)
        compare(whole(expand(one).params, x), expected)
    return several


def compare(found, expected):
    """Raise AssertionError unless outputs are equal up to rounding."""

    def one(found, expected):
        scale = np.abs(expected).max(initial=1e-3)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * scale)

    jax.tree.map(one, found, expected)


@dataclasses.dataclass(frozen=True)
class Config:
    """Shrink many random networks."""

    examples: int = 500
    """The number of networks."""
    first_seed: int = 1000
    """The seed of the first one; the others follow."""


def main(config):
    """Shrink, print, and exit with 1 if a network is wrong."""
    wrong, kept, left, start = [], collections.Counter(), [], time.perf_counter()
    for seed in range(config.first_seed, config.first_seed + config.examples):
        try:
            network, shapes = draw(seed)
            small = check(network, shapes, np.random.default_rng(seed))
        except Exception as error:
            wrong.append(seed)
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:500]}", flush=True)
            continue
        kept.update(small.unsupported.keys())
        before, after = (
            sum(leaf.size for leaf in jax.tree.leaves(params))
            for params in (network.params, small.params)
        )
        left.append(after / before)
        if not len(left) % 25:
            jax.clear_caches()
            print(f"{len(left)} networks, {time.perf_counter() - start:.0f} s {kept}", flush=True)
    print(f"{config.examples} networks, {len(wrong)} wrong: {wrong}")
    print(f"units kept for unsupported operations: {dict(kept.most_common())}")
    print(f"parameters left: {np.mean(left):.1%} on average")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m tests.deploy.shrinking.random_networks"))
