"""An epoch of constrained L0 compared with PyTorch: ``python -m benchmarks.gated_mlp``.

An epoch of MNIST (60,000 images, batch size 128) with the MLP 784-300-100-10 under hard-concrete
gates and a density constraint; Adam for weights and gates, dual ascent for the multiplier. The
benchmark times sparsejax, sparsejax without gates, and the training loop of a PyTorch user,
interleaved in one process. PyTorch is left out if it is not installed. Run it on an idle machine.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro

from benchmarks.timing import (
    TORCH_IS_MISSING,
    interleaved,
    print_ratios,
    torch_slices,
    write,
)
from experiments.constrained_l0.networks import GatedNetwork
from experiments.data import load
from sparsejax.constraints import constrained_step, density_violation, descent_ascent, dual_ascent
from sparsejax.gates import clip_params
from sparsejax.training import Batches, fit, init_state, make_step

_BATCH, _RATE, _DUAL_RATE, _TARGET = 128, 7e-4, 1e-3, 0.33


@dataclasses.dataclass(frozen=True)
class Config:
    """Training speed of a gated MLP relative to PyTorch and to the MLP without gates."""

    repeats: int = 7
    """Timed epochs of each; the median counts."""
    output: Path | None = None
    """JSON file to write; default: none."""
    data_dir: Path | None = None
    """Folder of the data sets."""


def main(config: Config) -> None:
    """Measure, print, and write the JSON file if one is given."""
    if config.repeats < 1:
        raise SystemExit(f"--repeats must be at least 1; got {config.repeats}")
    dataset = load("mnist", config.data_dir, validation_size=0)
    images, labels = dataset.train
    functions = {
        "sparsejax": _ours(images, labels, gated=True),
        "sparsejax without gates": _ours(images, labels, gated=False),
    }
    functions |= _torch(images, labels)
    seconds = interleaved(functions, config.repeats)
    median = print_ratios("one epoch, 60,000 images", seconds, 40)
    if len(functions) == 2:
        print(TORCH_IS_MISSING)
    results = {
        "epoch_seconds": seconds,
        "ratio_to_sparsejax": {k: v / median["sparsejax"] for k, v in median.items()},
    }
    write(config.output, "gated_mlp", results)


def _ours(images: np.ndarray, labels: np.ndarray, gated: bool) -> Callable[[], None]:
    """A function that trains for one more epoch at each call."""
    network = GatedNetwork("mlp", (0.2, 0.5), seed=0)

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        weights = network.sampled(params, key) if gated else params["weights"]
        logits = network.logits(weights, batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    if gated:
        gates = optax.chain(optax.adam(_RATE), clip_params())
        primal = optax.partition(
            {"weights": optax.adam(_RATE), "gates": gates}, {"weights": "weights", "gates": "gates"}
        )
        optimizer: Any = descent_ascent(primal, dual_ascent(_DUAL_RATE))

        def constraint(params: Any, batch: Any, key: jax.Array) -> jax.Array:
            del batch, key
            violation: jax.Array = density_violation(network.activity(params), _TARGET)
            return violation

        step: Any = constrained_step(loss, constraint, optimizer)
        params = network.initial
    else:
        optimizer = optax.adam(_RATE)
        step = make_step(loss, optimizer)
        params = {"weights": network.initial["weights"]}
    data = Batches(jax.device_put({"image": images, "label": labels}), _BATCH)
    state = init_state(params, optimizer, jax.random.key(0))

    def epoch() -> None:
        nonlocal state
        steps = int(state.step) + len(labels) // _BATCH
        state = fit(step, state, data, steps=steps)
        jax.block_until_ready(state)

    return epoch


def _torch(images: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[], None]]:
    """The same epoch in PyTorch with one gate sample per step, by a DataLoader or slices."""
    try:
        import torch
    except ImportError:
        return {}
    torch.manual_seed(0)
    sizes, drop_rates = (784, 300, 100, 10), (0.2, 0.5, 0.5)
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    log_alpha = [
        torch.nn.Parameter(float(np.log((1 - p) / p)) + 0.01 * torch.randn(layer.in_features))
        for p, layer in zip(drop_rates, layers, strict=True)
    ]
    weights = [parameter for layer in layers for parameter in layer.parameters()]
    optimizer = torch.optim.Adam([*weights, *log_alpha], lr=_RATE)
    total = sum(parameter.numel() for parameter in weights)
    low, high, temperature = -0.1, 1.1, 2 / 3
    offset = temperature * float(np.log(-low / high))
    multiplier = 0.0
    x = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)
    y = torch.from_numpy(labels.astype(np.int64))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=_BATCH, shuffle=True, drop_last=True
    )

    def step(image: Any, label: Any) -> None:
        nonlocal multiplier
        hidden, active = image, 0.0
        for number, (layer, alpha) in enumerate(zip(layers, log_alpha, strict=True)):
            noise = torch.empty_like(alpha).uniform_(1e-6, 1 - 1e-6)
            logits = torch.log(noise) - torch.log1p(-noise) + alpha
            z = (torch.sigmoid(logits / temperature) * (high - low) + low).clamp(0, 1)
            hidden = torch.nn.functional.linear(hidden * z, layer.weight, layer.bias)
            hidden = torch.relu(hidden) if number < 2 else hidden
            probability = torch.sigmoid(alpha - offset).sum()
            active = active + layer.out_features * probability + layer.out_features
        violation = active / total - _TARGET
        loss = torch.nn.functional.cross_entropy(hidden, label) + multiplier * violation
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for alpha in log_alpha:
                alpha.clamp_(float(np.log(1e-2)), float(np.log(1e2)))
        excess = float(violation.detach())
        multiplier = multiplier + _DUAL_RATE * excess if excess > 0 else 0.0

    def epoch(batches: Callable[[], Any]) -> None:
        for image, label in batches():
            step(image, label)

    return {
        "PyTorch with a DataLoader": lambda: epoch(lambda: loader),
        "PyTorch slicing a tensor": lambda: epoch(lambda: torch_slices(x, y, _BATCH)),
    }


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.gated_mlp"))
