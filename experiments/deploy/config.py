"""The flags of the experiment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.common.runner import Config as CommonConfig

Dispatch = Literal["asynchronous", "synchronous"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """Shrink finished networks, export them, and measure their sizes and speeds."""

    experiment = "deploy"

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs of any experiment, with result.json and network.safetensors; or of a
    population of experiments.tickets."""
    round: int | None = None
    """The round of a population; default the last one."""
    member: int = 0
    """The member of a population."""
    batch_size: int = 256
    """Images a call, for the throughput; the latency is that of one image."""
    repeats: int = 21
    """How often every form is timed, interleaved with the others."""
    kinds: tuple[str, ...] | None = None
    """Kinds of products that the sparse form tries; default all."""
    dispatch: Literal["both", "asynchronous", "synchronous"] = "both"
    """How JAX calls programs on a CPU: asynchronous (its default) or synchronous
    (jax_cpu_enable_async_dispatch off). Both: a process each, one table."""

    def check(self) -> None:
        """See `experiments.common.runner.Config`."""
        if not self.runs:
            raise ValueError("RUNS must name at least one folder of a finished run; got none")
        self.require("at least 1", lambda x: x >= 1, "batch_size", "repeats")
