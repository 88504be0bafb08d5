"""``python -m experiments.gpu``: the tickets of ResNet-20 and VGG-16 on CIFAR-10, on a GPU.

Everything is resumed: what a time limit cuts off goes on at the next call.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from experiments.common import cli

Model = Literal["resnet20", "vgg16"]


@dataclasses.dataclass(frozen=True)
class Config:
    """The paper preset of experiments.tickets on CIFAR-10, in bfloat16, within a time limit."""

    model: tuple[Model, ...] = ("resnet20", "vgg16")
    """One after another."""
    method: tuple[str, ...] = ("cs", "imp")
    """As in experiments.tickets."""
    initial: tuple[float, ...] = (-0.2, -0.1, 0.0, 0.1)
    """Starts of the gates, a member each for every seed, all in one program."""
    seeds: tuple[int, ...] = (0,)
    """Members, too."""
    minutes: float = 25.0
    """When to stop; checkpoints stay, and the same command goes on from them."""
    output: Path = Path("runs/tickets")
    """Folder of the runs."""
    results: Path = Path("results/tickets")
    """Folder of the report, in which rows of other networks stay as they are."""
    data_dir: Path | None = None
    """Folder with CIFAR-10 in any form that experiments.data reads, where nothing can be fetched:
    the six PNG sheets of about 23 MB each and the two label files can be carried one by one."""


def commands(config: Config) -> list[list[str]]:
    """What is run, a command for each model."""
    words = lambda values: [str(value) for value in values]  # noqa: E731
    shared = [
        "--preset", "paper", "--dtype", "bfloat16", "--resume",
        "--method", *config.method, "--seeds", *words(config.seeds),
        "--initial", *words(config.initial),
        "--output", str(config.output), "--results", str(config.results),
    ]  # fmt: skip
    if config.data_dir:
        shared += ["--data-dir", str(config.data_dir)]
    return [
        [sys.executable, "-m", "experiments.tickets", "--model", m, *shared] for m in config.model
    ]


def main(config: Config, command: str) -> None:
    """Run them until all is done or the time is over."""
    del command
    if not config.minutes > 0:
        raise ValueError(f"--minutes must be positive; got {config.minutes}")
    if _backend() == "cpu":
        raise ValueError(
            "no accelerator: JAX found a CPU alone, where CIFAR-10 at full length takes weeks; "
            "on a machine with a GPU install '.[experiments,cuda]'; here try `python -m "
            "experiments.tickets --model resnet20 --epochs 2 --rounds 1 --pruning-rounds 5`"
        )
    end = time.monotonic() + 60 * config.minutes
    for words in commands(config):
        print(" ".join(words), flush=True)
        try:
            subprocess.run(words, timeout=end - time.monotonic(), check=True)
        except subprocess.TimeoutExpired:
            sys.exit(f"stopped after {config.minutes:g} minutes; the same command goes on")
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)


def _backend() -> str:
    """Asked in a process of its own: here JAX would take the GPU's memory from those that run."""
    words = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    cli.run(Config, "experiments.gpu", main)
