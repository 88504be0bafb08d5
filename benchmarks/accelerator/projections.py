"""The projection onto the l0 ball beside a copy, a sort and the selections of JAX and PyTorch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.accelerator.clock import medians
from benchmarks.projection_alternatives import with_jax, with_torch
from sparsejax.models import VGG16, VGG16_LAYERS
from sparsejax.projections import project_l0_ball

_SIZES = {"lenet300": 266_200, "medium": 15_000_000, "vgg16": 138_344_128}
_SHARE = 0.02


def everything(path: Any, leaf: Any) -> bool:
    """Choose every leaf."""
    del path, leaf
    return True


def measure(trial: bool) -> list[dict[str, Any]]:
    """Return a row for each size: milliseconds, and multiples of a copy."""
    rows = []
    for name, size in _SIZES.items():
        size = size // 100 if trial else size
        rows.append(_row(name, {"kernel": jax.random.normal(jax.random.key(0), (size,))}, trial))
    rows.append(_row("vgg16, its kernels", _vgg16(100 if trial else 1), trial))
    return rows


def _vgg16(smaller: int) -> dict[str, jax.Array]:
    shapes: Any = nnx.eval_shape(lambda: nnx.state(VGG16(rngs=nnx.Rngs(0)), nnx.Param))
    keys = iter(jax.random.split(jax.random.key(0), len(VGG16_LAYERS)))
    return {
        layer: jax.random.normal(next(keys), (max(1, shape[0] // smaller), *shape[1:]))
        for layer in VGG16_LAYERS
        for shape in [shapes[layer]["kernel"].shape]
    }


def _row(name: str, tree: dict[str, jax.Array], trial: bool) -> dict[str, Any]:
    size = sum(leaf.size for leaf in tree.values())
    kappa = int(_SHARE * size)
    copy = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree))
    project = jax.jit(lambda tree, kappa: project_l0_ball(tree, kappa, everything))
    warm = jax.jit(
        lambda tree, kappa, start: project_l0_ball(tree, kappa, everything, warm_start=start)
    )
    result, threshold = project_l0_ball(tree, kappa, everything, with_threshold=True)
    kept = sum(int(np.count_nonzero(leaf)) for leaf in result.values())
    if kept != kappa:
        raise ValueError(f"the projection kept {kept} of {size} entries; wanted {kappa}")
    functions: dict[str, Any] = {
        "copy": lambda: copy(tree),
        "sparsejax": lambda: project(tree, kappa),
        "sparsejax, warm": lambda: warm(tree, kappa, 1.001 * threshold),
    }
    if len(tree) == 1:
        (leaf,) = tree.values()
        order = jax.jit(lambda leaf: jnp.sort(jnp.abs(leaf)))
        functions["jnp.sort"] = lambda: order(leaf)
        others = with_jax(leaf) | with_torch(leaf)
        functions |= {
            name: lambda call=call: call(kappa)
            for name, call in others.items()
            if "sort" not in name
        }
    seconds = medians(functions, 2 if trial else 7)
    return {
        "name": f"projection, {name}",
        "weights": size,
        "leaves": len(tree),
        "milliseconds": {name: 1e3 * value for name, value in seconds.items()},
        "copies": {name: value / seconds["copy"] for name, value in seconds.items()},
    }
