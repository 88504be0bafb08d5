"""An L step with each C step of the LC toolkit's table compared with plain training.

``python -m benchmarks.l_steps`` trains LeNet300 on MNIST for an L step, the C step at its end
included, and for as many steps of the same optimizer alone, interleaved in one process. Run it on
an idle machine.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx

import sparsejax
from benchmarks.timing import interleaved, write
from experiments.data import load
from experiments.lc_toolkit.c_steps import C_STEPS, where
from sparsejax.models import LeNet300
from sparsejax.training import Batches, fit, init_state, make_step

_BATCH, _MU = 256, 1e-3
_PLAIN = "plain training"


@dataclasses.dataclass(frozen=True)
class Config:
    """Cost of an L step of LeNet300 with each C step relative to plain training."""

    repeats: int = 5
    """Timed L steps of each; the median counts."""
    epochs: int = 5
    """Epochs in an L step."""
    output: Path | None = None
    """JSON file to write; default: none."""
    data_dir: Path | None = None
    """Folder of the data sets."""


def main(config: Config) -> None:
    """Measure, print, and write the JSON file if one is given."""
    train = load("mnist", config.data_dir, validation_size=0).train
    images = {"image": train.images, "label": train.labels}
    data = Batches(jax.device_put(images), _BATCH)
    steps = config.epochs * (len(train.labels) // _BATCH)
    plain = optax.sgd(0.05, momentum=0.9, nesterov=True)
    functions = {_PLAIN: _trained(data, steps, plain)}
    for row, c_step in C_STEPS.items():
        learning = sparsejax.learning_compression(c_step(), _MU, steps, where=where(row))
        functions[row] = _trained(data, steps, optax.chain(learning, plain))
    seconds = interleaved(functions, config.repeats)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: value / median[_PLAIN] for name, value in median.items()}
    print(f"an L step of {config.epochs} epochs with its C step")
    for name, value in median.items():
        extremes = f"{min(seconds[name]):>9.2f}{max(seconds[name]):>9.2f}"
        print(f"  {name:<24}{value:>9.2f} s{extremes}{ratios[name]:>8.2f}x")
    write(
        config.output,
        "l_steps",
        {"epochs": config.epochs, "seconds": seconds, "ratio_to_plain_training": ratios},
    )


def _trained(
    data: Batches, steps: int, optimizer: optax.GradientTransformation
) -> Callable[[], None]:
    graph, params, rest = nnx.split(LeNet300("tanh", rngs=nnx.Rngs(0)), nnx.Param, ...)

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        logits = nnx.merge(graph, params, rest)(batch["image"].astype(jnp.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    step = make_step(loss, optimizer)
    state = init_state(params, optimizer, jax.random.key(0))
    return lambda: jax.block_until_ready(fit(step, state, data, steps=steps))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.l_steps"))
