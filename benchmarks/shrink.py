"""What is gained by taking dead units out: ``python -m benchmarks.shrink``.

ResNet-20 pruned by channels to half of its multiply-accumulates (`project_units` on the channels
inside its blocks, with what each costs): the images a second of the whole network and of what
`shrink` leaves, by turns in one process, and that they agree. And VGG-16 at full size (138 million
parameters, half of its channels and hidden units pruned): seconds and peak memory of `shrink`, in a
process of its own. Weights are random: neither time depends on their values. Best run while
nothing else is.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from experiments.common.results import machine, versions
from experiments.deploy.timing import by_turns
from sparsejax.deploy import shrink
from sparsejax.inspection import macs
from sparsejax.models import VGG16, ResNet20
from sparsejax.projections import project_units
from sparsejax.training import write_json

_SIDES = (32, 16, 8)  # of ResNet-20's maps, by stage


@dataclasses.dataclass(frozen=True)
class Config:
    """Speed of shrunk networks, and of shrinking."""

    batch_size: int = 256
    """Images a call of ResNet-20."""
    rounds: int = 11
    """How often both are timed, by turns."""
    vgg16_width: float = 1.0
    """Multiplier of VGG-16's channels; 1 is VGG-16."""
    part: Literal["all", "vgg16"] = "all"
    """vgg16: only that, its figures on the last line; this is how the process of its own runs."""
    output: Path | None = None
    """A JSON file for the figures; default none."""


def main(config: Config) -> None:
    """Measure, print, and perhaps write."""
    if config.part == "vgg16":
        print(json.dumps(_vgg16(config.vgg16_width)))
        return
    network = _resnet20(config)
    print(
        f"ResNet-20, {network['macs_share']:.1%} of the multiply-accumulates left: "
        f"{network['throughput_speedup']:.2f} times the images a second, logits within "
        f"{network['difference']:.0e} of the largest"
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
    if config.output:
        about: dict[str, Any] = {"versions": versions(), "machine": machine()}
        figures = {"resnet20": network, "vgg16": shrinking}
        write_json(config.output, {"benchmark": "shrink", **about, **figures})
        print(f"wrote {config.output}")


def _resnet20(config: Config) -> dict[str, Any]:
    model = ResNet20(rngs=nnx.Rngs(0))
    model.eval()
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    structure, params = jax.tree.structure(state), nnx.to_pure_dict(state)

    def function(params, images):
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        return nnx.merge(graph, state, rest)(images)

    images = np.random.default_rng(0).normal(size=(config.batch_size, 32, 32, 3))
    images = images.astype(np.float32)
    whole = macs(function, params, images)
    inside = {number: block["conv1"]["kernel"] for number, block in params["blocks"].items()}
    # A channel costs what makes it and what reads it.
    costs, total = {}, 0
    for number, kernel in inside.items():
        positions = _SIDES[int(number) // 3] ** 2
        reads = params["blocks"][number]["conv2"]["kernel"][..., 0, :].size
        costs[number] = (kernel[..., 0].size + reads) * positions
        total += costs[number] * kernel.shape[-1]
    kept = project_units(inside, total - (whole - whole // 2), cost=costs)
    for number, block in params["blocks"].items():
        stays = kept[number].any(axis=(0, 1, 2))
        block["conv1"]["kernel"] = kept[number]
        for name in ("scale", "bias"):
            block["norm1"][name] = jnp.where(stays, block["norm1"][name], 0)
    small = shrink(function, params, images)
    calls = {
        "whole": jax.jit(lambda x: function(params, x)),
        "shrunk": jax.jit(lambda x: small.function(small.params, x)),
    }
    x = jax.device_put(images)
    logits = {name: np.asarray(call(x)) for name, call in calls.items()}
    ready = {
        name: functools.partial(lambda f: jax.block_until_ready(f(x)), call)
        for name, call in calls.items()
    }
    seconds = by_turns(ready, config.rounds)
    difference = np.abs(logits["whole"] - logits["shrunk"]).max() / np.abs(logits["whole"]).max()
    return {
        "batch_size": config.batch_size,
        "macs": whole,
        "macs_share": macs(small.function, small.params, images) / whole,
        "seconds": seconds,
        "throughput_speedup": seconds["whole"] / seconds["shrunk"],
        "difference": float(difference),
    }


def _vgg16(width: float) -> dict[str, Any]:
    graph, state, rest = nnx.split(
        nnx.eval_shape(lambda: VGG16(width=width, rngs=nnx.Rngs(0))), nnx.Param, ...
    )
    structure = jax.tree.structure(state)
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        array = rng.standard_normal(leaf.shape, np.float32)
        if path[0].key != "fc8":
            array[..., rng.permutation(leaf.shape[-1])[::2] if leaf.ndim > 1 else slice(None)] = 0
        return array

    params = jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state))

    def function(params, images):
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        return nnx.merge(graph, state, rest)(images)

    leaves = jax.tree.leaves(params)
    weights = sum(leaf.nbytes for leaf in leaves)
    example = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    gc.collect()
    cleared = Path("/proc/self/clear_refs")
    if cleared.exists():
        cleared.write_text("5")  # the peak begins anew from here
        before = _memory("VmRSS") - weights  # Python and JAX themselves
    start = time.perf_counter()
    small = shrink(function, params, example)
    seconds = time.perf_counter() - start
    return {
        "parameters": sum(leaf.size for leaf in leaves),
        "left": sum(leaf.size for leaf in jax.tree.leaves(small.params)),
        "seconds": seconds,
        "peak_memory_over_weights": (
            (_memory("VmHWM") - before) / weights if cleared.exists() else None
        ),
    }


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.shrink"))
