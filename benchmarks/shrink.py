"""Speed of shrunk networks, and of shrinking: ``python -m benchmarks.shrink``.

ResNet-20 with channels pruned to half of its multiply-accumulates: throughput of the whole network,
of the result of `shrink`, and of `compile_sparse`, which does not compute constants; interleaved in
one process, with a comparison of their outputs. XLA's convolutions on a CPU (AVX-512) take as long
for one output channel as for sixteen, so one variant prunes where this saves time: all inner
channels of the first stage's blocks, whose shortcuts remain, and 16 of 32 in the second stage. The
other variant prunes all stages evenly. For VGG-16 at full size (138 million parameters, half of the
channels and hidden units pruned) the time and peak memory of `shrink` are measured in a process of
its own. Weights are random, since no time depends on their values. Run it on an idle machine.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from benchmarks.memory import peak, reset_peak
from benchmarks.timing import write
from experiments.deploy.timing import interleaved
from sparsejax.deploy import Network, compile_sparse, shrink
from sparsejax.inspection import macs
from sparsejax.models import VGG16, ResNet20

_KEPT = {"where it counts": (0, 16, 64), "evenly": (8, 16, 32)}
"""Numbers of inner channels that are kept in the blocks of each stage, of 16, 32 and 64."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Speed of shrunk networks, and of shrinking."""

    batch_size: int = 256
    """Batch size of ResNet-20."""
    repeats: int = 11
    """Timed calls of each; the median counts."""
    vgg16_width: float = 1.0
    """Factor of VGG-16's numbers of channels; 1 is VGG-16."""
    part: Literal["all", "vgg16"] = "all"
    """``vgg16`` measures only VGG-16 and prints JSON on the last line, for the separate process."""
    output: Path | None = None
    """JSON file to write; default: none."""


def main(config: Config) -> None:
    """Measure, print, and write the JSON file if one is given."""
    if config.part == "vgg16":
        print(json.dumps(_vgg16(config.vgg16_width)))
        return
    network = _resnet20(config)
    for name, ratio in network["throughput_speedup"].items():
        share = network["macs_share"][name]
        print(
            f"ResNet-20, channels pruned {name}: {share:.1%} of the multiply-accumulates, "
            f"{ratio:.2f} times the images a second, logits within "
            f"{network['difference'][name]:.0e} of the largest"
        )
    command = [sys.executable, "-m", "benchmarks.shrink", "--part", "vgg16"]
    done = subprocess.run(
        [*command, "--vgg16-width", str(config.vgg16_width)], stdout=subprocess.PIPE, check=True
    )
    shrinking = json.loads(done.stdout.splitlines()[-1])
    memory = shrinking["peak_memory_over_weights"]
    print(
        f"VGG-16, {shrinking['parameters']:,} parameters to {shrinking['left']:,}: "
        f"{shrinking['seconds']:.1f} s"
        + (f", at most {memory:.2f} times the weights in memory" if memory else "")
    )
    write(config.output, "shrink", {"resnet20": network, "vgg16": shrinking})


def _resnet20(config: Config) -> dict[str, Any]:
    model: Any = ResNet20(rngs=nnx.Rngs(0))
    model.eval()
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    structure, params = jax.tree.structure(state), nnx.to_pure_dict(state)

    def function(params: Any, images: jax.Array) -> jax.Array:
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        logits: jax.Array = nnx.merge(graph, state, rest)(images)
        return logits

    shape = config.batch_size, 32, 32, 3
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    whole = macs(function, params, images)
    x = jax.device_put(images)
    calls: dict[str, Any] = {"whole": jax.jit(lambda x: function(params, x))}
    share: dict[str, float] = {}
    difference: dict[str, float] = {}
    for name, stages in _KEPT.items():
        pruned = _pruned(params, stages)
        small = shrink(Network(function, pruned), images)
        fast = compile_sparse(Network(function, pruned), images, kinds=(), rounds=1)
        calls[f"{name}, shrunk"] = jax.jit(small)
        calls[f"{name}, compile_sparse"] = fast
        expected = np.asarray(jax.jit(function)(pruned, x))
        for call in (f"{name}, shrunk", f"{name}, compile_sparse"):
            gap = np.abs(np.asarray(calls[call](x)) - expected).max()
            difference[call] = float(gap / np.abs(expected).max())
            share[call] = macs(lambda _, x, f=calls[call]: f(x), (), images) / whole
    ready = {
        name: functools.partial(lambda f: jax.block_until_ready(f(x)), call)
        for name, call in calls.items()
    }
    seconds = interleaved(ready, config.repeats)
    return {
        "batch_size": config.batch_size,
        "macs": whole,
        "macs_share": share,
        "seconds": seconds,
        "throughput_speedup": {
            name: seconds["whole"] / value for name, value in seconds.items() if name != "whole"
        },
        "difference": difference,
    }


def _pruned(params: Any, stages: Sequence[int]) -> Any:
    """Keep the inner channels of the largest norms in every block, a given number in each stage."""
    params = jax.tree.map(lambda leaf: leaf, params)
    for number, block in params["blocks"].items():
        kernel = block["conv1"]["kernel"]
        norms = jnp.square(kernel).sum(axis=(0, 1, 2))
        stays = jnp.argsort(jnp.argsort(-norms)) < stages[number // 3]
        block["conv1"]["kernel"] = jnp.where(stays, kernel, 0)
        for name in ("scale", "bias"):
            block["norm1"][name] = jnp.where(stays, block["norm1"][name], 0)
    return params


def _vgg16(width: float) -> dict[str, Any]:
    graph, state, rest = nnx.split(
        nnx.eval_shape(lambda: VGG16(width=width, rngs=nnx.Rngs(0))), nnx.Param, ...
    )
    structure = jax.tree.structure(state)
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        array: np.ndarray = rng.standard_normal(leaf.shape, np.float32)
        if path[0].key != "fc8":
            array[..., rng.permutation(leaf.shape[-1])[::2] if leaf.ndim > 1 else slice(None)] = 0
        return array

    params = jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state))

    def function(params: Any, images: jax.Array) -> jax.Array:
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        logits: jax.Array = nnx.merge(graph, state, rest)(images)
        return logits

    leaves = jax.tree.leaves(params)
    weights = sum(leaf.nbytes for leaf in leaves)
    example = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    before = reset_peak()
    start = time.perf_counter()
    small = shrink(Network(function, params), example)
    seconds = time.perf_counter() - start
    # Excludes the memory of Python and JAX, the only other resident memory before the call.
    used = None if before is None else (peak() - before) / weights + 1
    return {
        "parameters": sum(leaf.size for leaf in leaves),
        "left": sum(leaf.size for leaf in jax.tree.leaves(small.params)),
        "seconds": seconds,
        "peak_memory_over_weights": used,
    }


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.shrink"))
