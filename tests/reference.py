"""Brute-force references in numpy, and helpers that several tests share."""

import gc
from fractions import Fraction

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def as_float64(leaves):
    return np.concatenate([np.asarray(leaf).astype(np.float64).ravel() for leaf in leaves])


def top_kappa(leaves, kappa):
    """The projection by a stable sort of float64 magnitudes."""
    flat = as_float64(leaves)
    kept = np.argsort(-np.abs(flat), kind="stable")[:kappa]
    mask = np.zeros(flat.size, bool)
    mask[kept] = True
    return np.where(mask, flat, 0)


def l1_ball(leaves, radius):
    """The projection by sorting, in float64."""
    flat = as_float64(leaves)
    magnitudes = np.abs(flat)
    if magnitudes.sum() <= radius:
        return flat
    ordered = np.sort(magnitudes)[::-1]
    excess = (np.cumsum(ordered) - radius) / np.arange(1, flat.size + 1)
    tau = excess[np.flatnonzero(ordered > excess)[-1]] if radius > 0 else ordered[0]
    return np.sign(flat) * np.maximum(magnitudes - tau, 0)


def exact_l1_threshold(entries, radius):
    """The threshold of the projection in rational arithmetic; 0 inside the ball."""
    magnitudes = sorted((Fraction(float(abs(x))) for x in entries), reverse=True)
    radius = Fraction(float(radius))
    total, threshold = Fraction(0), Fraction(0)
    if sum(magnitudes) <= radius:
        return threshold
    for count, magnitude in enumerate(magnitudes, 1):
        if count > 1 and magnitude <= threshold:
            break
        total += magnitude
        threshold = (total - radius) / count
    return threshold


def shard(array, *axes):
    """``array`` on a mesh of 4 x 2 devices, partitioned by mesh axes ``a`` and ``b``."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))


def live_bytes():
    """The bytes of all arrays of JAX that are not deleted."""
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays() if not array.is_deleted())


def equations(jaxpr):
    """All equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(
            equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def primitives(jaxpr):
    """Names of all primitives in a jaxpr and those inside it."""
    return {equation.primitive.name for equation in equations(jaxpr)}


def exact_square(entries):
    """The sum of squares as a fraction."""
    return sum((Fraction(float(x)) ** 2 for x in np.ravel(entries)), Fraction(0))


def greedy_prefix(squares, costs, budget):
    """Which are in the longest prefix, by square per cost and then position, within the budget."""
    order = sorted(range(len(squares)), key=lambda u: (-squares[u] / costs[u], u))
    kept = np.zeros(len(squares), bool)
    for unit in order:
        budget -= costs[unit]
        if budget < 0:
            break
        kept[unit] = True
    return kept
