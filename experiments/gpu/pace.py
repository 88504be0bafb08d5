"""``python -m experiments.gpu.pace``: are members trained faster one by one or all together?

Convolutions of several members together are grouped convolutions, which an accelerator may compute
worse than as many plain ones, or better, since each of these leaves most of it idle. Takes the
flags of experiments.tickets, and writes pace.json beside the network's runs.
"""

from __future__ import annotations

from experiments.common import cli
from experiments.common.results import machine
from experiments.data import load
from experiments.tickets.config import Config, check
from experiments.tickets.train import Population
from sparsejax.training import write_json


def main(config: Config, command: str) -> None:
    """Time an epoch of continuous sparsification both ways."""
    check(config)
    dataset = load(config.trained_on(), config.data_dir)
    settings = config.settings("cs")
    folder = config.output / config.group()
    seconds = {}
    for count in sorted({1, len(settings["members"])}):
        population = Population(folder / "cs", dataset, settings, devices=1, vmap_size=count)
        seconds[count] = population.pace()
        print(f"{population.title}, {count} at once: {seconds[count]:.2f} s an epoch", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    found = {"command": command, "machine": machine(), "seconds": seconds}
    write_json(folder / "pace.json", found)


if __name__ == "__main__":
    cli.run(Config, "experiments.gpu.pace", main)
