"""report.json: the one form in which every experiment states its results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from sparsejax.training import write_json

_PACKAGES = ("sparsejax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide a result; of those not installed, that."""
    found = {"python": platform.python_version()}
    return found | {package: _version(package) for package in _PACKAGES}


def machine() -> dict[str, Any]:
    """What the numbers were made on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "backend": jax.default_backend(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),  # threads change the last bits of a sum
        "system": f"{platform.system()} {platform.machine()}",
    }


def origin() -> dict[str, Any]:
    """What every file of results states beside its numbers."""
    return {"versions": versions(), "machine": machine()}


def made_by(command: str) -> str:
    """A sentence for the report: what made it, where and with what."""
    host = machine()
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return (
        f"Made by `{command}` on {host['cores']} cores of {host['processor']} "
        f"({host['backend']}), {packages}."
    )


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (0 for a single value) and the values themselves."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": spread, "values": list(values)}


def write_report(
    folder: Path, experiment: str, command: str, rows: Sequence[Mapping[str, Any]]
) -> Path:
    """Write ``folder/report.json`` and return its path."""
    path = folder / "report.json"
    write_json(
        path,
        {
            "experiment": experiment,
            "command": command,
            **origin(),
            "rows": list(rows),
        },
    )
    return path


def _version(package: str) -> str:
    """Where nothing can be fetched, ours is used as it lies there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
