"""The command line of an experiment."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from experiments.data import DataError
from sparsejax.training import CheckpointError, TrainingDivergedError

Config = TypeVar("Config")


def run(config_type: type[Config], module: str, main: Callable[[Config, str], None]) -> None:
    """Read the flags and run ``main(config, command)``; end with one line the user can act on."""
    warnings.filterwarnings("default", category=RuntimeWarning, module="sparsejax")
    program = f"python -m {module}"
    config = tyro.cli(config_type, prog=program)
    try:
        main(config, " ".join([program, *sys.argv[1:]]))
    except (ValueError, OSError, DataError, CheckpointError, TrainingDivergedError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command with --resume goes on from the last checkpoint")


def announce(results: Path, table: str, pictures: Sequence[Path]) -> None:
    """Print the table of an experiment and what it wrote."""
    print(f"\n{table}\n")
    for path in (results / "report.md", results / "report.json", *pictures):
        print(f"wrote {path}")
