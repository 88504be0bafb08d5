"""``python -m experiments.gpu.calibrate``: are members trained faster one by one or all together?

Convolutions of several members together are grouped convolutions, which an accelerator may compute
slower than as many plain ones, or faster, since each of these leaves most of it idle. Takes the
flags of experiments.tickets, and writes calibration.json beside the runs of the network.
"""

from __future__ import annotations

from experiments.common.report import machine
from experiments.common.runner import command_line
from experiments.data import load
from experiments.tickets.config import Config
from experiments.tickets.recipe import Population
from sparsejax.training import write_json


def main(config: Config, command: str) -> None:
    """Time an epoch of continuous sparsification both ways."""
    config.check()
    dataset = load(config.task, config.data_dir)
    settings = config.settings("cs")
    folder = config.folder / config.group
    seconds = {}
    members = len(settings["members"])
    for size in sorted({config.vmap_size} if config.vmap_size else {1, members}):
        population = Population(folder / "cs", dataset, settings, devices=1, vmap_size=size)
        seconds[size] = population.epoch_seconds()
        print(f"{population.title}, {size} together: {seconds[size]:.2f} s an epoch", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    found = {"command": command, "machine": machine(), "members": members, "seconds": seconds}
    write_json(folder / "calibration.json", found)


if __name__ == "__main__":
    command_line(Config, "experiments.gpu.calibrate", main)
