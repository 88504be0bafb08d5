"""The flags of the experiment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

Dispatch = Literal["asynchronous", "synchronous"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Shrink finished networks, export them, and measure what they weigh and how fast they are."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs of any method: with result.json and network.npz or checkpoints."""
    round: int | None = None
    """Of runs of experiments.tickets: after how many rounds; default the last one."""
    member: int = 0
    """Of runs of experiments.tickets: which member of the population."""
    batch_size: int = 256
    """Images a call, for the throughput; the latency is that of one image."""
    rounds: int = 21
    """How often every form is timed, by turns with the others."""
    kinds: tuple[str, ...] | None = None
    """Ways to compute a layer that the sparse form tries; default all."""
    output: Path = Path("runs/deploy")
    """Folder of what leaves: the networks' files, a folder for each."""
    results: Path | None = None
    """Folder of the report and the figures; default OUTPUT/results."""
    data_dir: Path | None = None
    """Folder of the datasets; default $SPARSEJAX_DATA_DIR, else the user's cache folder."""
    dispatch: Literal["both", "asynchronous", "synchronous"] = "both"
    """How JAX calls programs on a CPU: asynchronous (its default: a thread is woken for each call)
    or synchronous (jax_cpu_enable_async_dispatch off). Both: a process each, one table."""


def check(config: Config) -> None:
    """Raise ValueError where a flag is out of its range."""
    if not config.runs:
        raise ValueError("RUNS must name at least one folder of a finished run; got none")
    for name in ("batch_size", "rounds"):
        if getattr(config, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must be at least 1; got {getattr(config, name)}")
