"""``python -m experiments.tickets``: search for tickets, train them, report."""

from __future__ import annotations

import os

import jax

from experiments.common import cli
from experiments.common.tables import screen
from experiments.data import load
from experiments.tickets import report
from experiments.tickets.config import Config, check
from experiments.tickets.figures import draw
from experiments.tickets.points import Point, density, points
from experiments.tickets.rows import check_comparable, rows_of
from experiments.tickets.train import Population


def main(config: Config, command: str) -> None:
    """Search with every method asked for, then write the report and the figures."""
    check(config)
    # Before anything runs: a processor is one device unless it is cut, here into its cores.
    jax.config.update("jax_num_cpu_devices", config.devices or os.cpu_count() or 1)
    folder = config.output / config.group()
    results = config.results or config.output / "results"
    check_comparable(report.rows_in(results), config)
    dataset = load(config.trained_on(), config.data_dir)
    found: dict[str, list[Point]] = {}
    for method in config.methods():
        settings = config.settings(method)
        where = (config.devices, config.vmap_size)
        population = Population(folder / method, dataset, settings, config.resume, *where)
        ended = population.ended() if config.so_far else population.ensure()
        found[method] = points(ended, population.masks)
        if found[method]:
            last = [density(p) for p in found[method] if p["round"] == found[method][-1]["round"]]
            print(
                f"{population.title}: {min(last):.2%} to {max(last):.2%} left at the end",
                flush=True,
            )
    ours = rows_of(config, found, command)
    if not ours:
        raise ValueError(f"--so-far: no round of these methods has ended in {folder}")
    rows = report.write(results, command, ours)
    pictures = draw(results, rows)
    cli.announce(results, screen(*report.headlines(rows)), pictures)


if __name__ == "__main__":
    cli.run(Config, "experiments.tickets", main)
