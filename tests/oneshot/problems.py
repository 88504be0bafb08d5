"""Kernels with correlated inputs, and calibrations of them."""

import jax.numpy as jnp
import numpy as np

from sparsejax.oneshot import Calibration, KernelInputs, KernelLayout


def inputs_of(rows, width, seed=0, rank=None, dtype=np.float64):
    """Inputs [rows, width] of very different sizes that are strongly correlated."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(rank or width, width)) / np.sqrt(width)
    x = rng.normal(size=(rows, rank or width)) @ (mixing + 0.3 * rng.normal(size=width))
    return (x * np.exp(rng.normal(size=width))).astype(dtype)


def weights_of(outputs, inputs, seed=1):
    return np.random.default_rng(seed).normal(size=(outputs, inputs))


def calibration_of(xs, layouts, skipped=None, dtype=np.float32):
    """A calibration of inputs [rows, inputs], or [batch, rows, inputs], by name."""
    found = {}
    for name, x in xs.items():
        x = np.asarray(x, np.float64)
        x = x[None] if x.ndim == 2 else x
        gram = jnp.asarray(np.einsum("bri,brj->bij", x, x).astype(dtype))
        found[name] = KernelInputs(gram, jnp.full(len(x), x.shape[1], dtype))
    return Calibration(found, layouts, skipped or {})


def dense_layout(shape):
    """The layout of a kernel [in, out], or [layers, in, out]."""
    batch = tuple(range(len(shape) - 2))
    return KernelLayout(shape, batch, (len(batch) + 1,), (len(batch),))


def one_kernel(outputs=12, inputs=24, rows=200, seed=0, **options):
    """Parameters with one kernel [in, out], its calibration, W0 [out, in] and H in float64."""
    x = inputs_of(rows, inputs, seed, **options)
    weights = weights_of(outputs, inputs, seed + 1)
    params = {"dense": {"kernel": jnp.asarray(weights.T, jnp.float32), "bias": jnp.ones(outputs)}}
    layouts = {"dense/kernel": dense_layout((inputs, outputs))}
    calibration = calibration_of({"dense/kernel": x}, layouts)
    return params, calibration, weights.astype(np.float32).astype(np.float64), x.T @ x / rows


def error(new, old, h):
    """The relative error of the outputs."""
    change = new - old
    return np.trace(change @ h @ change.T) / np.trace(old @ h @ old.T)


def least_squares(target, h, mask):
    """The weights under a mask whose outputs are nearest, by solving the KKT system per row."""
    found = np.zeros_like(target)
    for row, (w, m) in enumerate(zip(target, mask, strict=True)):
        kept = np.flatnonzero(m)
        found[row, kept] = np.linalg.solve(h[np.ix_(kept, kept)], (h @ w)[kept])
    return found


def damp(h, damping):
    return h + damping * np.diag(h).mean() * np.eye(len(h))
