"""``python -m experiments.gpu``: the tickets of ResNet-20 and VGG-16 on CIFAR-10, on a GPU.

It measures the seconds of an epoch, prints what it plans for the time that it has, and runs
commands of experiments.tickets, the most informative first. What a time limit cuts off is reported
as far as it came and continued by the next call; on another machine, without the runs, the points
of other initial values add up in the same report.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from experiments.common.runner import command_line
from experiments.gpu.plan import Plan, make_plan
from experiments.tickets.config import PRESETS, Variant
from experiments.tickets.config import Config as Tickets

Model = Literal["resnet20", "vgg16"]
_REPORT_SECONDS = 60  # kept back for the report of what a limit cut off


@dataclasses.dataclass(frozen=True)
class Config:
    """The paper preset of experiments.tickets on CIFAR-10, in bfloat16, within a time limit."""

    model: tuple[Model, ...] = ("resnet20", "vgg16")
    """Networks, one after another."""
    initial: tuple[float, ...] = (0.0, 0.05, -0.05, -0.1)
    """Initial values of the gates, the most telling first, a member each for every seed, all in one
    program. As many are taken as have two rounds in the time, unless a search has begun."""
    rounds: int = 5
    """The most rounds of continuous sparsification; as many as fit into the time."""
    pruning_rounds: int = 30
    """Rounds of iterative magnitude pruning, which comes last; 0 leaves it out."""
    seeds: tuple[int, ...] = (0,)
    """Members, too."""
    variant: Variant = "published"
    """Options of continuous sparsification (see experiments.tickets); rows of another variant are
    kept apart."""
    vmap_size: int | None = None
    """Members that are computed together; default what is faster, one or all of them, which is
    measured first."""
    minutes: float = 25.0
    """When to stop; checkpoints stay, and the same command continues from them."""
    trial: bool = False
    """Test the whole way, on a CPU too: one member, an epoch a round, an eighth of the width."""
    output: Path = Path("runs/tickets")
    """Folder of the runs, and of compiled programs."""
    results: Path = Path("results/tickets")
    """Folder of the report, in which rows of other networks stay as they are."""
    data_dir: Path | None = None
    """Folder with CIFAR-10 in any form that experiments.data reads, where nothing can be fetched:
    the six PNG sheets of about 23 MB each and the two label files can be carried one by one."""

    def calibration(self, model: Model) -> Path:
        """The file of the measured seconds an epoch, by the number of members together."""
        return self.output / Tickets(model=model).group / "calibration.json"

    def starts(self) -> tuple[float, ...]:
        """The initial values of the gates; in a trial one that prunes little within an epoch."""
        return (0.05,) if self.trial else self.initial


def common(config: Config, model: Model) -> list[str]:
    """The flags of experiments.tickets that all pieces of a network share."""
    length, seeds = ["--preset", "paper"], config.seeds
    if config.trial:
        length = ["--preset", "smoke", "--epochs", "1", "--width", "0.125", "--batch-size", "1500"]
        length += ["--beta", "smooth"]  # a staircase has two steps at least
        seeds = (0,)
    flags = [
        "--model", model, *length, "--dtype", "bfloat16", "--seeds", *map(str, seeds),
        "--output", str(config.output), "--results", str(config.results), "--devices", "1",
        "--resume", "--variant", config.variant,
    ]  # fmt: skip
    return flags + (["--data-dir", str(config.data_dir)] if config.data_dir else [])


Piece = Literal["dense", "cs", "imp"]


def pieces(config: Config) -> list[tuple[Model, Piece]]:
    """Return the order: for each network the dense one and one method, then the other method."""
    found: list[tuple[Model, Piece]] = []
    for model in config.model:
        found += [(model, "dense"), (model, "cs")]
    return found + [(model, "imp") for model in config.model if config.pruning_rounds]


def flags(config: Config, piece: Piece, plan: Plan | None = None) -> list[str]:
    """Return the flags of experiments.tickets for a piece; that of gates is planned."""
    if plan is not None:
        starts = map(str, plan.initial)
        return ["--method", "cs", "--initial", *starts, "--rounds", str(plan.rounds)]
    rounds = 0 if piece == "dense" else config.pruning_rounds
    return ["--method", "imp", "--pruning-rounds", str(rounds)]


def main(config: Config, command: str) -> None:
    """Run all pieces until they are done or the time is over."""
    del command
    for name in ("minutes", "rounds"):
        if not getattr(config, name) > 0:
            raise ValueError(f"--{name} must be positive; got {getattr(config, name)}")
    if not config.trial and _backend() == "cpu":
        raise ValueError(
            "no accelerator: JAX found a CPU alone, where CIFAR-10 at full length takes weeks; "
            "on a machine with a GPU install '.[experiments,cuda]'; here try `python -m "
            "experiments.gpu --trial --results runs/trial`"
        )
    end = time.monotonic() + 60 * config.minutes
    for model, piece in pieces(config):
        tickets = ["experiments.tickets", *common(config, model)]
        training = end - _REPORT_SECONDS
        try:
            if piece == "cs":
                size, plan = planned(config, model, training)
                print(f"{model}: {plan}", flush=True)
                tickets += [*flags(config, piece, plan), "--vmap-size", str(size)]
            else:
                tickets += flags(config, piece)
            _run(tickets, training, config)
        except subprocess.TimeoutExpired:
            over = f"stopped after {config.minutes:g} minutes; the same command goes on"
            ended = _reported(tickets, end + _REPORT_SECONDS, config)
            sys.exit(over if ended else f"{over}; nothing of the last piece is in the report")
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)


def planned(config: Config, model: Model, end: float) -> tuple[int, Plan]:
    """Return the number of members to compute together, the faster choice here, and the plan."""
    file = config.calibration(model)
    starts, seeds = config.starts(), 1 if config.trial else len(config.seeds)
    if not file.exists():
        words = [*common(config, model), "--method", "cs", "--initial", *map(str, starts)]
        if config.vmap_size:
            words += ["--vmap-size", str(config.vmap_size)]
        _run(["experiments.gpu.calibrate", *words], end, config)
    measured = json.loads(file.read_text())
    seconds = {int(size): taken for size, taken in measured["seconds"].items()}
    size = config.vmap_size or min(seconds, key=seconds.__getitem__)
    epoch = seconds.get(size, min(seconds.values())) / measured["members"] * seeds
    epochs = 1 if config.trial else PRESETS["paper"].epochs
    started, done = _started(file.parent / "cs" / "result.json")
    # A round is a search and the training of its tickets.
    plan = make_plan(
        starts, config.rounds, 2 * epochs * epoch, end - time.monotonic(), started, done
    )
    members = len(plan.initial) * seeds
    return max(n for n in range(1, size + 1) if members % n == 0), plan


def _started(result: Path) -> tuple[tuple[float, ...], int]:
    """Return the starts of an earlier call and the rounds of them that have ended."""
    if not result.exists():
        return (), 0
    found = json.loads(result.read_text())
    starts = dict.fromkeys(member["initial"] for member in found["settings"]["members"])
    return tuple(starts), max(row["round"] for row in found["rows"])


def _reported(tickets: Sequence[str], end: float, config: Config) -> bool:
    """Return whether the rounds that ended before a stop are in the report by ``end``."""
    try:
        return not _run([*tickets, "--partial"], end, config, check=False)
    except subprocess.TimeoutExpired:
        return False


def _run(words: Sequence[str], end: float, config: Config, check: bool = True) -> int:
    """``python -m WORDS`` until ``end``; programs compiled once are kept beside the runs."""
    print(" ".join(["python", "-m", *words]), flush=True)
    environment = {"JAX_COMPILATION_CACHE_DIR": str((config.output / "compiled").absolute())}
    left = max(end - time.monotonic(), 1)
    return subprocess.run(
        [sys.executable, "-m", *words], timeout=left, check=check, env=os.environ | environment
    ).returncode


def _backend() -> str:
    """The backend of another process; in this one JAX would take the GPU's memory from the runs."""
    words = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    command_line(Config, "experiments.gpu", main)
