"""Training steps of LeNet5 compared with Flax and PyTorch: ``python -m benchmarks.lenet5``.

MNIST, batch size 128, Adam: `sparsejax.models.LeNet5`, the LeNet5 of a Flax user (``lax.conv`` and
``nnx.max_pool``, one step per call), and the training loop of a PyTorch user; then with gated
weight decay, in PyTorch with the second backward pass of the published code. Segments of an epoch
are interleaved in one process. PyTorch is left out if it is not installed. Run it on an idle
machine: PyTorch slows down most on shared cores.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from benchmarks.timing import TORCH_IS_MISSING, interleaved, torch_slices, write
from experiments.data import load
from sparsejax import gated_weight_decay
from sparsejax.models import LeNet5
from sparsejax.training import Batches, fit, init_state, make_step

_BATCH, _RATE, _DECAY = 128, 7e-4, 1e-3
_SEGMENT = 52  # steps, a ninth of an epoch


@dataclasses.dataclass(frozen=True)
class Config:
    """Training speed of LeNet5 relative to Flax and PyTorch."""

    repeats: int = 9
    """Timed segments of 52 steps of each; nine are an epoch."""
    output: Path | None = None
    """JSON file to write; default: none."""
    data_dir: Path | None = None
    """Folder of the data sets."""


class _PlainLeNet5(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 20, (5, 5), padding="VALID", rngs=rngs)
        self.conv2 = nnx.Conv(20, 50, (5, 5), padding="VALID", rngs=rngs)
        self.dense1 = nnx.Linear(800, 500, rngs=rngs)
        self.dense2 = nnx.Linear(500, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = nnx.max_pool(jax.nn.relu(self.conv1(images)), (2, 2), strides=(2, 2))
        hidden = nnx.max_pool(jax.nn.relu(self.conv2(hidden)), (2, 2), strides=(2, 2))
        hidden = jax.nn.relu(self.dense1(hidden.reshape(len(hidden), -1)))
        return self.dense2(hidden)


def main(config: Config) -> None:
    """Measure, print, and write the JSON file if one is given."""
    if config.repeats < 1:
        raise SystemExit(f"--repeats must be at least 1; got {config.repeats}")
    dataset = load("mnist", config.data_dir, validation_size=0)
    images, labels = dataset.train
    functions: dict[str, Callable[[], None]] = {
        "sparsejax": _flax(LeNet5(rngs=nnx.Rngs(0)), images, labels, _SEGMENT),
        "sparsejax, gated weight decay": _flax(
            LeNet5(rngs=nnx.Rngs(0)), images, labels, _SEGMENT, gated_weight_decay(_DECAY)
        ),
        "Flax, lax.conv and nnx.max_pool": _flax(
            _PlainLeNet5(rngs=nnx.Rngs(0)), images, labels, block=1
        ),
    }
    functions |= _torch(images, labels)
    seconds = interleaved(functions, config.repeats)
    step_ms = {name: [1e3 * s / _SEGMENT for s in values] for name, values in seconds.items()}
    median = {name: statistics.median(values) for name, values in step_ms.items()}
    epoch = {name: len(labels) // _BATCH * value / 1e3 for name, value in median.items()}
    title = f"a step of {_BATCH} images, {config.repeats} x {_SEGMENT} steps"
    print(f"{title:<44}{'median ms':>10}{'min':>8}{'max':>8}{'ratio':>8}{'epoch s':>9}")
    for name, value in median.items():
        extremes = f"{min(step_ms[name]):>8.2f}{max(step_ms[name]):>8.2f}"
        ratio = f"{value / median['sparsejax']:>7.2f}x"
        print(f"{name:<44}{value:>10.2f}{extremes}{ratio}{epoch[name]:>9.2f}")
    gated = median["sparsejax, gated weight decay"]
    print(f"gated weight decay: {gated / median['sparsejax']:.2f} times the plain step")
    for name in functions:
        if name.startswith("PyTorch") and "gated" in name:
            print(f"{name}: {median[name] / gated:.2f} times ours")
    if not any(name.startswith("PyTorch") for name in functions):
        print(TORCH_IS_MISSING)
    results = {
        "batch": _BATCH,
        "steps_a_piece": _SEGMENT,
        "step_ms": step_ms,
        "epoch_seconds": epoch,
        "ratio_to_sparsejax": {k: v / median["sparsejax"] for k, v in median.items()},
    }
    write(config.output, "lenet5", results)


def _flax(
    model: nnx.Module,
    images: np.ndarray,
    labels: np.ndarray,
    block: int,
    regulariser: optax.GradientTransformation | None = None,
) -> Callable[[], None]:
    """A function that trains a model for one more segment at each call."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.chain(regulariser or optax.identity(), optax.adam(_RATE))

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        logits = nnx.merge(graph, params, rest)(batch["image"].astype(jnp.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    step = make_step(loss, optimizer)
    data = Batches(jax.device_put({"image": images, "label": labels}), _BATCH)
    state = init_state(params, optimizer, jax.random.key(0))

    def segment() -> None:
        nonlocal state
        steps = int(state.step) + _SEGMENT
        state = fit(step, state, data, steps=steps, steps_per_call=block)
        jax.block_until_ready(state)

    return segment


def _torch(images: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[], None]]:
    """The same in PyTorch, on slices of a shuffled tensor, with all threads and with one.

    If other programs use the machine, PyTorch's threads wait for each other, and one is faster.
    """
    try:
        import torch
    except ImportError:
        return {}
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 20, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(20, 50, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(800, 500), torch.nn.ReLU(), torch.nn.Linear(500, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    x = torch.from_numpy(images.reshape(-1, 1, 28, 28).astype(np.float32) / 255)
    y = torch.from_numpy(labels.astype(np.int64))

    def batches() -> Iterator[Any]:
        while True:
            yield from torch_slices(x, y, _BATCH)

    source = batches()

    parameters = list(model.parameters())

    def segment(threads: int, gated: bool) -> None:
        torch.set_num_threads(threads)
        for _ in range(_SEGMENT):
            image, label = next(source)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(image), label)
            if gated:
                grads = torch.autograd.grad(loss, parameters, retain_graph=True)
                pairs = zip(parameters, grads, strict=True)
                loss = loss + _DECAY * sum((w**2 / (1 + g.abs())).sum() for w, g in pairs)
            loss.backward()
            optimizer.step()

    all_threads = torch.get_num_threads()
    return {
        "PyTorch": functools.partial(segment, all_threads, False),
        "PyTorch, one thread": functools.partial(segment, 1, False),
        "PyTorch, gated weight decay": functools.partial(segment, all_threads, True),
        "PyTorch, one thread, gated weight decay": functools.partial(segment, 1, True),
    }


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.lenet5"))
