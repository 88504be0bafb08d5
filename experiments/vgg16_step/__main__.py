"""``python -m experiments.vgg16_step``: seconds and memory of one step on full-size VGG-16.

Direct compression, one optimisation step with the C step in it, and a C step by itself. Nothing is
learnt in one step: it shows what a network of ImageNet's size asks of a machine.
"""

from __future__ import annotations

import dataclasses
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
import tyro
from flax import nnx

import sparsejax
from experiments.common.results import origin
from experiments.common.vgg16 import imagenet_vgg16
from experiments.data import DataError
from experiments.data.imagenet import SIZE, ImageNetBatches
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
    """Of SGD with momentum 0.9."""
    width: float = 1.0
    """Multiplier of the channels and hidden units; less than 1 for a trial."""
    weights: Path | None = None
    """A safetensors file of published weights (timm's or torchvision's names); default random."""
    data_dir: Path | None = None
    """Folder in which TFDS has prepared imagenet2012; default: random images."""
    seed: int = 0
    """Of the weights, the images and the dropped units."""
    output: Path | None = None
    """A JSON file for the figures; default none."""

    def __post_init__(self) -> None:
        """Raise ValueError where a flag is out of range."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1; got {self.batch_size}")
        if not 0 < self.density <= 1:
            raise ValueError(f"density must be more than 0 and at most 1; got {self.density}")


def main(config: Config) -> dict[str, Any]:
    """Measure, print, perhaps write, and return the figures."""
    peaks = {}
    batch = _batch(config)
    graph, params, rest = imagenet_vgg16(config.width, config.seed, config.weights)
    weights = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim >= 2)
    kappa = max(1, round(config.density * weights))
    parameters, parameter_bytes = _size(params)
    print(
        f"VGG-16, width {config.width:g}: {parameters:,} parameters "
        f"({parameter_bytes / _GIB:.3f} GiB); {kappa:,} of {weights:,} kernel weights are kept"
    )

    def loss(params, batch, key):
        model = nnx.merge(graph, params, rest)
        model.train()
        logits = model(batch["image"], rngs=nnx.Rngs(dropout=key))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        return loss, {}

    optimizer = optax.chain(
        sparsejax.learning_compression(
            compression.l0_ball(kappa), mu_schedule=config.mu, steps_per_l_step=1
        ),
        optax.sgd(config.learning_rate, momentum=0.9),
    )
    key = jax.random.key(config.seed)
    peaks["start"] = _peak_gib()
    compile_seconds, seconds = {}, {}

    def start(params) -> TrainState:
        return init_state(params, optimizer, key)

    compiled, compile_seconds["direct_compression"] = _compiled(start, params, donate=True)
    state, seconds["direct_compression"] = _timed(compiled, params)
    del params  # donated
    _, state_bytes = _size(state)
    peaks["direct_compression"] = _peak_gib()

    step, compile_seconds["step"] = _compiled(make_step(loss, optimizer), state, batch, donate=True)
    analysis = step.memory_analysis()  # not every backend has one
    (state, metrics), seconds["step"] = _timed(step, state, batch)
    peaks["step"] = _peak_gib()

    c_step, compile_seconds["c_step"] = _compiled(
        lambda params: projections.project_l0_ball(params, kappa), state.params
    )
    taken = [_timed(c_step, state.params)[1] for _ in range(_C_STEPS)]
    seconds["c_step"] = statistics.median(taken)
    peaks["c_step"] = _peak_gib()
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
    _show(config, figures)
    if config.output:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items()}
        about = {"config": settings, **origin()}
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


def _compiled(function, *arguments, donate: bool = False) -> tuple[Any, float]:
    """The compiled function and the seconds it took to trace and compile it."""
    start = time.perf_counter()
    jitted = jax.jit(function, donate_argnums=0 if donate else ())
    compiled = jitted.lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def _timed(function, *arguments) -> tuple[Any, float]:
    """The result, once it is there, and the seconds it took."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - start


def _size(tree) -> tuple[int, int]:
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


def _show(config: Config, figures: Mapping[str, Any]) -> None:
    rows = {
        "direct_compression": "direct compression (init)",
        "step": f"one step with its C step, batch {config.batch_size}",
        "c_step": "a C step by itself",
    }
    print(f"{'':<38}{'seconds':>9}{'compiling':>11}{'peak GiB':>10}")
    for name, row in rows.items():
        print(
            f"{row:<38}{figures['seconds'][name]:>9.2f}{figures['compile_seconds'][name]:>11.2f}"
            f"{figures['peak_host_gib'][name]:>10.2f}"
        )
    print(
        f"before the first: {figures['peak_host_gib']['start']:.2f} GiB; the state holds "
        f"{figures['state_copies']:.2f} copies of the parameters ({', '.join(figures['state'])})"
    )
    if figures["step_temporary_gib"] is not None:
        print(
            f"while it runs, the step needs {figures['step_temporary_gib']:.2f} GiB more: the "
            "gradient, activations, the C step's"
        )
    if figures["peak_device_gib"] is not None:
        print(f"peak on the device: {figures['peak_device_gib']:.2f} GiB")
    print(f"theta has {figures['kept_after_step']:,} non-zeros; loss {figures['loss']:.4g}")


def cli() -> None:
    """Read the flags; end with one line where the user can mend it."""
    try:
        main(tyro.cli(Config, prog="python -m experiments.vgg16_step"))
    except (ValueError, OSError, DataError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    cli()
