"""``python -m benchmarks.accelerator --minutes 5``: what a GPU or TPU is to be asked, in one go.

The parts are measured in the order below, the most telling first. Before each part the time that is
left is looked at, and after each the results so far are written, so that nothing is lost where a
machine is taken away. Nothing is read but what is installed: images are random numbers.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import tyro

from benchmarks.accelerator import exactness, populations, projections, steps
from benchmarks.timing import write

_PARTS: dict[str, tuple[float, Callable[[bool], list[dict[str, Any]]]]] = {
    "exactness": (40, exactness.measure),
    "projections": (60, projections.measure),
    "populations": (90, populations.measure),
    "oneshot": (40, steps.measure_oneshot),
    "steps": (60, steps.measure_steps),
}
"""Each part with the seconds that it is expected to take on a GPU, most of them to compile."""

_ROOMS = ("projections", "compression", "transforms", "gates", "constraints")
_SEVERAL_DEVICES = "not (device or shard or mesh or pmap or process or cut_over or peers or pieces)"


@dataclasses.dataclass(frozen=True)
class Config:
    """Speed and exactness of the library on an accelerator."""

    minutes: float = 5.0
    """When to stop; what there is no time for is listed."""
    trial: bool = False
    """Small sizes, for a look at the whole way on a CPU."""
    tests: bool = True
    """Whether to run the library's tests for one device in the time that is left."""
    output: Path | None = None
    """JSON file to write, such as results/benchmarks/accelerator.json; default: none."""


def main(config: Config) -> None:
    """Measure part after part, print, and write the JSON file if one is given."""
    if not config.minutes > 0:
        raise SystemExit(f"--minutes must be positive; got {config.minutes}")
    if not config.trial and jax.default_backend() == "cpu":
        raise SystemExit(
            "no accelerator: JAX found a CPU alone; on a machine with a GPU install "
            "'.[experiments,cuda]'; here try `python -m benchmarks.accelerator --trial`"
        )
    end = time.monotonic() + 60 * config.minutes
    settings = dataclasses.asdict(config) | {"output": str(config.output)}
    results: dict[str, Any] = {"config": settings, "rows": [], "left_out": {}}
    print(f"plan: {', '.join(f'{name} ({s:.0f} s)' for name, (s, _) in _PARTS.items())}, tests")
    for name, (expected, measure) in _PARTS.items():
        left = end - time.monotonic()
        if left < expected and not config.trial:
            results["left_out"][name] = f"takes about {expected:.0f} s; {left:.0f} s were left"
            continue
        start = time.monotonic()
        try:
            rows = measure(config.trial)
        except Exception:  # what the other parts say is not lost with this one
            traceback.print_exc()
            results["left_out"][name] = traceback.format_exc(limit=-3)
            continue
        results["rows"] += [row | {"seconds_in_all": time.monotonic() - start} for row in rows]
        for row in rows:
            _print(row)
        write(config.output, "accelerator", results)
    if config.tests:
        results["tests"] = _tests(end - time.monotonic(), config.trial)
        print(results["tests"])
        write(config.output, "accelerator", results)
    for name, why in results["left_out"].items():
        print(f"left out: {name}: {why}")


def _print(row: dict[str, Any]) -> None:
    print(f"\n{row['name']}")
    for key, value in row.items():
        if isinstance(value, dict):
            numbers = ", ".join(f"{name} {number:.3g}" for name, number in value.items())
            print(f"  {key}: {numbers}")
        elif key != "name":
            print(f"  {key}: {value}")


def _tests(seconds: float, trial: bool) -> dict[str, Any]:
    """Run the tests that need one device, and return how many passed and the names of others."""
    if seconds < 30:
        return {"left_out": f"{seconds:.0f} s were left"}
    rooms = ["tests/projections/test_l0_ball.py"] if trial else [f"tests/{r}" for r in _ROOMS]
    platforms = {"JAX_PLATFORMS": "cpu" if trial else f"{jax.default_backend()},cpu"}
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", _SEVERAL_DEVICES,
        "--tb", "line", "-rf", *rooms,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, env=os.environ | platforms, stdout=subprocess.PIPE, text=True, timeout=seconds
        )
        text, over = done.stdout, False
    except subprocess.TimeoutExpired as error:
        text, over = (error.stdout or b"").decode(), True
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|error)", text)}
    failed = re.findall(r"^FAILED (\S+)", text, flags=re.MULTILINE)
    return {"counts": counts, "failed": failed, "cut_off": over, "last_lines": text[-2000:]}


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.accelerator"))
