"""An epoch of LeNet5, ours against Flax's and PyTorch's: ``python -m benchmarks.lenet5``.

One epoch of MNIST (60,000 images, batch 128, Adam) in our loop with our network, in our loop with
the network that a Flax user writes (XLA's convolutions and max-pool, a step per call), and in the
loop that a PyTorch user writes; then with gated weight decay: ours, and in PyTorch with the second
backward pass that the published code makes. The epoch is cut into pieces that are measured in turn
in one process. Where torch is not installed its ratio is left out. Best run while nothing else is:
PyTorch above all is slow on cores that it shares.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from benchmarks.contest import TORCH_IS_MISSING, by_turns, torch_slices, write
from experiments.data import load
from sparsejax import gated_weight_decay
from sparsejax.models import LeNet5
from sparsejax.training import Batches, fit, init_state, make_step

_BATCH, _RATE, _DECAY = 128, 7e-4, 1e-3
_PIECE = 52  # steps: a ninth of an epoch


@dataclasses.dataclass(frozen=True)
class Config:
    """Speed of training LeNet5 against Flax and PyTorch."""

    pieces: int = 9
    """Pieces of 52 steps of each, in turn; nine are an epoch."""
    output: Path | None = None
    """A JSON file for the figures; default none."""
    data_dir: Path | None = None
    """Folder of the datasets."""


class _NaturalLeNet5(nnx.Module):
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
    """Measure, print, and perhaps write."""
    if config.pieces < 1:
        raise SystemExit(f"--pieces must be at least 1; got {config.pieces}")
    dataset = load("mnist", config.data_dir, validation_size=0)
    images, labels = dataset.train
    contestants: dict[str, Callable[[], None]] = {
        "sparsejax": _flax(LeNet5(rngs=nnx.Rngs(0)), images, labels, _PIECE),
        "sparsejax, gated weight decay": _flax(
            LeNet5(rngs=nnx.Rngs(0)), images, labels, _PIECE, gated_weight_decay(_DECAY)
        ),
        "Flax, lax.conv and nnx.max_pool": _flax(
            _NaturalLeNet5(rngs=nnx.Rngs(0)), images, labels, block=1
        ),
    }
    contestants |= _torch(images, labels)
    seconds = by_turns(contestants, config.pieces)
    step_ms = {name: [1e3 * s / _PIECE for s in values] for name, values in seconds.items()}
    median = {name: statistics.median(values) for name, values in step_ms.items()}
    epoch = {name: len(labels) // _BATCH * value / 1e3 for name, value in median.items()}
    title = f"a step of {_BATCH} images, {config.pieces} x {_PIECE} steps"
    print(f"{title:<44}{'median ms':>10}{'min':>8}{'max':>8}{'ratio':>8}{'epoch s':>9}")
    for name, value in median.items():
        spread = f"{min(step_ms[name]):>8.2f}{max(step_ms[name]):>8.2f}"
        ratio = f"{value / median['sparsejax']:>7.2f}x"
        print(f"{name:<44}{value:>10.2f}{spread}{ratio}{epoch[name]:>9.2f}")
    gated = median["sparsejax, gated weight decay"]
    print(f"gated weight decay: {gated / median['sparsejax']:.2f} times the plain step")
    for name in contestants:
        if name.startswith("PyTorch") and "gated" in name:
            print(f"{name}: {median[name] / gated:.2f} times ours")
    if not any(name.startswith("PyTorch") for name in contestants):
        print(TORCH_IS_MISSING)
    figures = {
        "batch": _BATCH,
        "steps_a_piece": _PIECE,
        "step_ms": step_ms,
        "epoch_seconds": epoch,
        "ratio_to_sparsejax": {k: v / median["sparsejax"] for k, v in median.items()},
    }
    write(config.output, "lenet5", figures)


def _flax(
    model: nnx.Module,
    images,
    labels,
    block: int,
    regulariser: optax.GradientTransformation | None = None,
) -> Callable[[], None]:
    """Trains a model on by a piece of an epoch at each call."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.chain(regulariser or optax.identity(), optax.adam(_RATE))

    def loss(params, batch, key):
        del key
        logits = nnx.merge(graph, params, rest)(batch["image"].astype(jnp.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    step = make_step(loss, optimizer)
    data = Batches(jax.device_put({"image": images, "label": labels}), _BATCH)
    state = init_state(params, optimizer, jax.random.key(0))

    def piece() -> None:
        nonlocal state
        steps = int(state.step) + _PIECE
        state = fit(step, state, data, steps=steps, steps_per_call=block)
        jax.block_until_ready(state)

    return piece


def _torch(images, labels) -> dict[str, Callable[[], None]]:
    """The same in PyTorch, on slices of a shuffled tensor; with all its threads, and with one.

    Where other programs use the machine, its threads wait for each other and one is the faster.
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

    def batches():
        while True:
            yield from torch_slices(x, y, _BATCH)

    source = batches()

    parameters = list(model.parameters())

    def piece(threads: int, gated: bool) -> None:
        torch.set_num_threads(threads)
        for _ in range(_PIECE):
            image, label = next(source)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(image), label)
            if gated:
                grads = torch.autograd.grad(loss, parameters, retain_graph=True)
                pairs = zip(parameters, grads, strict=True)
                loss = loss + _DECAY * sum((w**2 / (1 + g.abs())).sum() for w, g in pairs)
            loss.backward()
            optimizer.step()

    every = torch.get_num_threads()
    return {
        "PyTorch": functools.partial(piece, every, False),
        "PyTorch, one thread": functools.partial(piece, 1, False),
        "PyTorch, gated weight decay": functools.partial(piece, every, True),
        "PyTorch, one thread, gated weight decay": functools.partial(piece, 1, True),
    }


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.lenet5"))
