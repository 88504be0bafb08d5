"""``python -m experiments.vgg16_step``: seconds and memory of one step on full-size VGG-16.

Direct compression, one optimisation step with the C step in it, and a C step by itself. Nothing is
learnt in one step: it shows what a network of ImageNet's size asks of a machine.
"""

from __future__ import annotations

import dataclasses
import functools
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import sparsejax
from experiments.common.networks import imagenet_vgg16
from experiments.common.report import Columns, Table, origin
from experiments.common.runner import command_line
from experiments.data.imagenet import ImageNetBatches
from experiments.data.imagenet_images import SIZE
from sparsejax import compression, inspection, projections
from sparsejax.training import TrainState, init_state, make_step, write_json

_CLASSES = 1000
_C_STEPS = 3  # the median counts
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Config:
    """One step of learning-compression on VGG-16: seconds and memory."""

    batch_size: int = 2
    """Images in the step."""
    density: float = 0.02
    """The fraction of the kernel weights that the C step keeps."""
    mu: float = 1e-3
    """The penalty's weight."""
    learning_rate: float = 1e-3
    """Learning rate of SGD with momentum 0.9."""
    width: float = 1.0
    """Multiplier of the channels and hidden units; less than 1 for a trial."""
    weights: Path | None = None
    """A safetensors file of published weights (timm's or torchvision's names); default random."""
    data_dir: Path | None = None
    """Folder in which TFDS has prepared imagenet2012; default: random images."""
    seed: int = 0
    """Seed of the weights, the images and the dropped units."""
    output: Path | None = None
    """A JSON file for the figures; default none."""

    def __post_init__(self) -> None:
        """Raise ValueError where a flag is out of range."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1; got {self.batch_size}")
        if not 0 < self.density <= 1:
            raise ValueError(f"density must be more than 0 and at most 1; got {self.density}")


def main(config: Config, command: str) -> dict[str, Any]:
    """Measure, print, perhaps write, and return the figures."""
    peaks: dict[str, float] = {}
    compile_seconds: dict[str, float] = {}
    seconds: dict[str, float] = {}

    def measure(
        name: str, function: Any, *arguments: Any, donate: bool = False, times: int = 1
    ) -> tuple[Any, Any]:
        """Compile and call ``function``; return its result and the compiled program."""
        start = time.perf_counter()
        jitted = jax.jit(function, donate_argnums=0 if donate else ())
        compiled = jitted.lower(*arguments).compile()
        compile_seconds[name], taken = time.perf_counter() - start, []
        for _ in range(times):
            start = time.perf_counter()
            result = jax.block_until_ready(compiled(*arguments))
            taken.append(time.perf_counter() - start)
        seconds[name], peaks[name] = statistics.median(taken), _peak_gib()
        return result, compiled

    batch = _batch(config)
    graph, params, rest = imagenet_vgg16(config.width, config.seed, config.weights)
    weights = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim >= 2)
    kappa = max(1, round(config.density * weights))
    parameters, parameter_bytes = _size(params)
    print(
        f"VGG-16, width {config.width:g}: {parameters:,} parameters "
        f"({parameter_bytes / _GIB:.3f} GiB); {kappa:,} of {weights:,} kernel weights are kept"
    )

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        model = nnx.merge(graph, params, rest)
        model.train()
        logits = model(batch["image"], rngs=nnx.Rngs(dropout=key))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    optimizer = optax.chain(
        sparsejax.learning_compression(
            compression.l0_ball(kappa), mu_schedule=config.mu, steps_per_l_step=1
        ),
        optax.sgd(config.learning_rate, momentum=0.9),
    )
    key = jax.random.key(config.seed)
    peaks["start"] = _peak_gib()

    def direct_compression(params: Any) -> TrainState:
        return init_state(params, optimizer, key)

    state, _ = measure("direct_compression", direct_compression, params, donate=True)
    del params  # donated
    _, state_bytes = _size(state)
    step = make_step(loss, optimizer)
    (state, metrics), compiled = measure("step", step, state, batch, donate=True)
    analysis = compiled.memory_analysis()  # not every backend has one
    project = functools.partial(projections.project_l0_ball, kappa=kappa)
    measure("c_step", project, state.params, times=_C_STEPS)
    theta = sparsejax.compressed_params(state.opt_state, state.params)
    figures = {
        "parameters": parameters,
        "parameter_gib": parameter_bytes / _GIB,
        "kappa": kappa,
        "kept_after_step": inspection.report(theta).nonzeros,
        "loss": float(metrics["loss"]),
        "compile_seconds": compile_seconds,
        "seconds": seconds,
        "peak_host_gib": peaks,
        "peak_device_gib": _peak_device_gib(),
        "state_copies": state_bytes / parameter_bytes,
        "state": ["params", "momentum", "theta", "multipliers"],
        "step_temporary_gib": analysis and analysis.temp_size_in_bytes / _GIB,
    }
    _show(figures)
    if config.output:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items()}
        about = {"command": command, "config": settings, **origin()}
        write_json(config.output, about | figures)
        print(f"wrote {config.output}")
    return figures


def _batch(config: Config) -> Mapping[str, np.ndarray]:
    if config.data_dir is not None:
        with ImageNetBatches(config.data_dir, config.batch_size, config.seed) as batches:
            arrays, _ = batches.block(0, 1)
        return {name: array[0] for name, array in arrays.items()}
    rng = np.random.default_rng(config.seed)
    shape = (config.batch_size, SIZE, SIZE, 3)
    return {
        "image": rng.standard_normal(shape, np.float32),
        "label": rng.integers(_CLASSES, size=config.batch_size, dtype=np.int32),
    }


def _size(tree: Any) -> tuple[int, int]:
    """Entries and bytes of the arrays of a tree."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size for leaf in leaves), sum(leaf.nbytes for leaf in leaves)


def _peak_gib() -> float:
    """The most memory that this process has ever held."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB


def _peak_device_gib() -> float | None:
    """The most that an accelerator has held for us; None on the CPU."""
    found = jax.devices()[0].memory_stats() or {}
    return found["peak_bytes_in_use"] / _GIB if "peak_bytes_in_use" in found else None


def _show(figures: Mapping[str, Any]) -> None:
    columns: Columns = (
        ("", lambda name: name.replace("_", " ")),
        ("seconds", lambda name: f"{figures['seconds'][name]:.2f}"),
        ("compilation", lambda name: f"{figures['compile_seconds'][name]:.2f}"),
        ("peak GiB", lambda name: f"{figures['peak_host_gib'][name]:.2f}"),
    )
    print(Table(columns, list(figures["seconds"])).screen())
    print(
        f"before the first: {figures['peak_host_gib']['start']:.2f} GiB; the state holds "
        f"{figures['state_copies']:.2f} copies of the parameters ({', '.join(figures['state'])})"
    )
    for name in ("step_temporary_gib", "peak_device_gib"):
        if figures[name] is not None:
            print(f"{name.removesuffix('_gib').replace('_', ' ')}: {figures[name]:.2f} GiB")
    print(f"theta has {figures['kept_after_step']:,} non-zeros; loss {figures['loss']:.4g}")


if __name__ == "__main__":
    command_line(Config, "experiments.vgg16_step", main)
