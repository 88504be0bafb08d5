"""A check that an accelerator finds the same bits as the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.projections import everything
from sparsejax.projections import project_l0_ball, project_n_m, top_k_mask

_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


def measure(trial: bool) -> list[dict[str, Any]]:
    """Return one row: how many random trees were projected to the same bits, and which were not."""
    cpu = jax.devices("cpu")[0]
    project = jax.jit(lambda tree, kappa: project_l0_ball(tree, kappa, everything))
    mask = jax.jit(lambda tree, kappa: top_k_mask(tree, kappa, where=everything))
    blocks = jax.jit(lambda tree: project_n_m(tree, 2, 4, everything))
    cases, different = (10 if trial else 300), []
    runs: dict[str, Callable[[Any, int], Any]] = {
        "project_l0_ball": project,
        "top_k_mask": mask,
        "project_n_m": lambda tree, kappa: blocks(tree),
    }
    for case in range(cases):
        tree, kappa = _draw(case)
        for name, run in runs.items():
            here = run(jax.device_put(tree), kappa)
            there = run(jax.device_put(tree, cpu), kappa)
            if not jax.tree.all(jax.tree.map(_same_bits, here, there)):
                different.append(f"{name}, case {case}")
    return [{"name": "exactness", "cases": 3 * cases, "different": different}]


def _draw(case: int) -> tuple[dict[str, np.ndarray], int]:
    """Return a tree of two leaves with ties, zeros, subnormals and infinities, and a budget."""
    rng = np.random.default_rng(case)
    dtype = _DTYPES[case % len(_DTYPES)]
    scale = 10.0 ** rng.integers(-40, 30)
    tree = {}
    for name, shape in (("a", (96, 64)), ("b", (40, 8))):
        leaf = rng.normal(size=shape) * scale
        leaf[rng.random(shape) < 0.2] = rng.choice([0.0, -0.0, scale, -scale, np.inf])
        with np.errstate(over="ignore"):
            tree[name] = leaf.astype(np.float32).astype(dtype)
    return tree, int(rng.integers(0, 96 * 64 + 40 * 8 + 1))


def _same_bits(one: Any, other: Any) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()
