"""An L step of LeNet300 compared with PyTorch: ``python -m benchmarks.lenet300``.

An epoch of learning-compression (60,000 MNIST images, batch size 256) in sparsejax and in the
training loop of a PyTorch user, interleaved in one process; then a C step and the compilation.
PyTorch is left out if it is not installed. Run it on an idle machine.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import sparsejax
from benchmarks.timing import (
    TORCH_IS_MISSING,
    interleaved,
    print_ratios,
    torch_slices,
    write,
)
from experiments.data import load
from sparsejax import compression
from sparsejax.models import LeNet300
from sparsejax.training import Batches, fit, init_state, make_step

_BATCH, _KAPPA, _MU = 256, 5324, 1e-3


@dataclasses.dataclass(frozen=True)
class Config:
    """Speed of an L step of LeNet300 relative to PyTorch."""

    repeats: int = 7
    """Timed epochs of each; the median counts."""
    l_step_epochs: int = 5
    """Number of epochs in an L step, with which a C step is compared."""
    output: Path | None = None
    """JSON file to write; default: none."""
    data_dir: Path | None = None
    """Folder of the data sets."""


def main(config: Config) -> None:
    """Measure, print, and write the JSON file if one is given."""
    dataset = load("mnist", config.data_dir, validation_size=0)
    images, labels = dataset.train
    ours, compile_seconds, c_step = _ours(images, labels)
    functions: dict[str, Callable[[], None]] = {"sparsejax": ours}
    functions |= _torch(images, labels)
    seconds = interleaved(functions, config.repeats)
    median = print_ratios("one L-step epoch, 60,000 images", seconds, 44)
    if len(functions) == 1:
        print(TORCH_IS_MISSING)
    c_seconds = statistics.median(interleaved({"C step": c_step}, 50)["C step"])
    fraction = c_seconds / (config.l_step_epochs * median["sparsejax"])
    l_step = f"an L step of {config.l_step_epochs} epochs"
    print(f"C step {1e3 * c_seconds:.2f} ms: {fraction:.2%} of {l_step}")
    print(f"compilation {compile_seconds:.2f} s")
    results = {
        "epoch_seconds": seconds,
        "ratio_to_sparsejax": {k: v / median["sparsejax"] for k, v in median.items()},
        "c_step_seconds": c_seconds,
        "c_step_share_of_l_step": fraction,
        "l_step_epochs": config.l_step_epochs,
        "compile_seconds": compile_seconds,
    }
    write(config.output, "lenet300", results)


def _ours(
    images: np.ndarray, labels: np.ndarray
) -> tuple[Callable[[], None], float, Callable[[], None]]:
    """A function that trains for one epoch, the seconds of its compilation, and a C step."""
    graph, params, rest = nnx.split(LeNet300(rngs=nnx.Rngs(0)), nnx.Param, ...)
    step_count = len(labels) // _BATCH
    compress = compression.l0_ball(_KAPPA)
    optimizer = optax.chain(
        sparsejax.learning_compression(compress, _MU, 5 * step_count),
        optax.sgd(0.05, momentum=0.9, nesterov=True),
    )

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        logits = nnx.merge(graph, params, rest)(batch["image"].astype(jnp.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    step = make_step(loss, optimizer)
    data = Batches(jax.device_put({"image": images, "label": labels}), _BATCH)
    state = init_state(params, optimizer, jax.random.key(0))

    def epoch() -> None:
        jax.block_until_ready(fit(step, state, data, steps=step_count))

    weights = jax.tree.map(lambda leaf: leaf if leaf.ndim > 1 else optax.MaskedNode(), params)
    inner = compress.init(weights)
    project = jax.jit(compress.project)

    def c_step() -> None:
        jax.block_until_ready(project(weights, _MU, inner))

    start = time.perf_counter()
    epoch()
    first = time.perf_counter() - start
    later = min(interleaved({"epoch": epoch}, 3)["epoch"])
    return epoch, first - later, c_step


def _torch(images: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[], None]]:
    """The same epoch in PyTorch, fed by a DataLoader and by slices of a shuffled tensor."""
    try:
        import torch
    except ImportError:
        return {}
    torch.manual_seed(0)
    layers = [torch.nn.Linear(784, 300), torch.nn.Linear(300, 100), torch.nn.Linear(100, 10)]
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    weights = [layer.weight for layer in layers]
    thetas = [weight.detach().clone() for weight in weights]
    lambdas = [torch.zeros_like(weight) for weight in weights]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    x = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)
    y = torch.from_numpy(labels.astype(np.int64))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=_BATCH, shuffle=True, drop_last=True
    )

    def epoch(batches: Callable[[], Any]) -> None:
        for image, label in batches():
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(image), label)
            for weight, theta, lam in zip(weights, thetas, lambdas, strict=True):
                loss = loss + 0.5 * _MU * ((weight - theta - lam / _MU) ** 2).sum()
            loss.backward()
            optimizer.step()

    return {
        "PyTorch with a DataLoader": lambda: epoch(lambda: loader),
        "PyTorch slicing a tensor": lambda: epoch(lambda: torch_slices(x, y, _BATCH)),
    }


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.lenet300"))
